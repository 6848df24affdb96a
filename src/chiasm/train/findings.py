"""A finding of the training coach: its name, what it says, the numbers it rests on; and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from chiasm.errors import UserError

FILE = "findings.json"


@dataclass(frozen=True)
class Finding:
    """Something about a run that its owner should know, in plain language, with what to do about it."""

    name: str
    text: str
    evidence: dict[str, int | float]


def write_findings(findings: Sequence[Finding], folder: Path) -> None:
    """Write them into the folder of their run; an empty list says that there was nothing to find."""
    told = json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)
    (folder / FILE).write_text(told + "\n", encoding="utf-8")


def read_findings(folder: Path) -> list[Finding]:
    """The findings of the run in this folder, none where it has not ended yet; UserError where the file is damaged."""
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Finding(**told) for told in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds no findings: {error}", "Remove it; --resume writes it anew.") from error


__all__ = ["FILE", "Finding", "read_findings", "write_findings"]
