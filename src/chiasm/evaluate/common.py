"""Scores of splits with their intervals, whatever the model: the values, their table, and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chiasm.data.cache import Broken, Pictures, prepare_pictures
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.types import Example


class Estimate(NamedTuple):
    """A score and its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: scores by name, which of them a table shows, and what the model said of every picture."""

    split: str
    pictures: int
    scores: dict[str, Estimate]
    columns: tuple[str, ...]
    told: Sequence[Any]
    """A dataclass per picture."""
    broken: tuple[Broken, ...]


def readable(
    source: Source, split: str, preprocess: PreprocessConfig, max_broken_share: float
) -> tuple[list[Example], Pictures]:
    """The examples of a split whose pictures can be read, and all its pictures; UserError where none can."""
    examples = source.split(split)
    pictures = prepare_pictures(examples, preprocess, name=f"{source.name} {split}", max_broken_share=max_broken_share)
    if not len(pictures.good):
        raise UserError(f"No picture of the split {split!r} can be read", "`chiasm data check` lists the reasons.")
    return [examples[int(i)] for i in pictures.good], pictures


def scores_table(results: Sequence[SplitScores]) -> str:
    """The scores as a Markdown table, a row per split: value and 95 % interval."""
    columns = list(dict.fromkeys(name for result in results for name in result.columns))
    lines = ["| split | pictures | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for result in results:
        shown = [result.scores.get(name) for name in columns]
        cells = [f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})" if s else "" for s in shown]
        lines.append(f"| {result.split} | {result.pictures:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_results(results: Sequence[SplitScores], folder: Path, told: str) -> None:
    """`evaluation.json`, `evaluation.md`, and what was said of each picture as the JSON lines file `told`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        r.split: {
            "pictures": r.pictures,
            "broken": len(r.broken),
            "scores": {n: s._asdict() for n, s in r.scores.items()},
        }
        for r in results
    }
    (folder / "evaluation.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "evaluation.md").write_text(scores_table(results) + "\n", encoding="utf-8")
    with (folder / told).open("w", encoding="utf-8") as file:
        for result in results:
            for row in result.told:
                file.write(json.dumps({"split": result.split} | asdict(row), ensure_ascii=False) + "\n")
