"""What a finished run left in its folder, read back and checked."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import assert_never

from chiasm import config as configs
from chiasm.errors import UserError
from chiasm.evaluate import TOLD, Answered, Estimate, Filled, Found, GivenBack, Read, Said, Shown, Told
from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FlamingoConfig,
    FusionClassifierConfig,
    LanguageConfig,
    ModelConfig,
    PerceiverAutoencoderConfig,
    PerceiverClassifierConfig,
    PerceiverMlmConfig,
    PictureClassifierConfig,
)
from chiasm.train.config import RunConfig
from chiasm.train.findings import FILE as FINDINGS
from chiasm.train.findings import Finding, read_findings

LINES = {
    "captions.jsonl": (Told,),
    "retrieval.jsonl": (Found,),
    "told.jsonl": (Said,),
    "answers.jsonl": (Answered,),
    "shots.jsonl": (Shown, Told),
    "texts.jsonl": (Read,),
    "gaps.jsonl": (Filled,),
    "rebuilt.jsonl": (GivenBack,),
}
"""What the lines of each file of TOLD may be."""
FINISHED = "evaluation.json", "card.md", "bundle/model.safetensors"
"""What a run writes when its training is over."""


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """What one split gave."""

    name: str
    pictures: int
    broken: int
    scores: dict[str, Estimate]
    told: tuple[dict[str, Any], ...]
    """What the model said of every example, as its JSON lines have it; empty where that file is gone."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A finished run."""

    folder: Path
    config: RunConfig
    splits: tuple[SplitRecord, ...]
    """The first is the one that is talked about."""
    rows: tuple[dict[str, float | None], ...]
    """Of metrics.csv."""
    samples: tuple[dict[str, Any], ...]
    quarantine: tuple[dict[str, Any], ...]
    """Keys of what could not be read, with reasons."""
    findings: tuple[Finding, ...] | None
    """Of the coach; None where it was not asked."""
    title: str
    """That of the card: Captioner trained on shapes-easy."""
    card: dict[str, str]
    """The facts on the card by their name: data, splits, model, training."""
    versions: str
    remarks: tuple[str, ...]
    """What else the card says of how the training ended."""


def read_run(folder: Path) -> Recorded:
    """The run in a folder; UserError where there is none, it has not finished, or a file of it is damaged."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}", "Check the path; `chiasm train` makes such a folder.")
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not the folder of a run: it has no config.json", "Name one that `chiasm train` made."
        )
    if (folder / "model.safetensors").exists():
        raise UserError(f"{folder} is a model without its training", "Name the folder of its run, which bundle/ is in.")
    try:
        config = configs.load(RunConfig, folder / "config.json")
    except UserError as error:
        where = "" if str(folder) in error.message else f"{folder / 'config.json'}: "
        raise UserError(where + error.message, error.hint) from error
    rows = _metrics(folder / "metrics.csv")
    if any(not (folder / name).exists() for name in FINISHED):
        reached = int(rows[-1]["step"] or 0) if rows else 0
        raise UserError(
            f"The run in {folder} has not finished: it is at step {reached:,} of {config.train.steps or 0:,}",
            f"Go on with it: chiasm train {model_name(config.model)} --out {folder} --resume",
        )
    title, facts, remarks, versions = _card(folder / "card.md")
    return Recorded(
        folder=folder,
        config=config,
        splits=_splits(folder),
        rows=rows,
        samples=_json_lines(folder / "samples.jsonl", {"step", "key", "text", "said"}),
        quarantine=_json_lines(folder / "quarantine.jsonl", {"key", "reason"}),
        findings=tuple(read_findings(folder)) if (folder / FINDINGS).exists() else None,
        title=title,
        card=facts,
        versions=versions,
        remarks=remarks,
    )


def model_name(config: ModelConfig) -> str:
    """What `chiasm train` calls a model of this kind."""
    match config:
        case CaptionerConfig():
            return "captioner"
        case ClipConfig():
            return "clip"
        case CocaConfig():
            return "coca"
        case FlamingoConfig():
            return "flamingo"
        case FusionClassifierConfig():
            return "fusion"
        case LanguageConfig():
            return "lm"
        case PictureClassifierConfig():
            return "vit"
        case PerceiverClassifierConfig() | PerceiverMlmConfig() | PerceiverAutoencoderConfig():
            return "perceiver"
        case _:
            assert_never(config)


def _metrics(path: Path) -> tuple[dict[str, float | None], ...]:
    from chiasm.train.callbacks import read_metrics  # it brings Lightning, which takes seconds

    try:
        return tuple(read_metrics(path))
    except (ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _splits(folder: Path) -> tuple[SplitRecord, ...]:
    path = folder / "evaluation.json"
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in TOLD.values():
        kinds = [{"split"} | {field.name for field in fields(kind)} for kind in LINES[name]]
        for row in _json_lines(folder / name, *kinds):
            told[row["split"]].append(row)
    try:
        splits = [
            SplitRecord(
                name=name,
                pictures=int(found["pictures"]),
                broken=int(found["broken"]),
                scores={score: Estimate(**estimate) for score, estimate in found["scores"].items()},
                told=tuple(told[name]),
            )
            for name, found in configs.read_json(path).items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error
    if not splits:
        raise UserError(f"{path} has no scores: the run had no split to test on", "Train on data with a test split.")
    return tuple(splits)


def _card(path: Path) -> tuple[str, dict[str, str], tuple[str, ...], str]:
    """The card's title and list: facts that have a name, remarks that have none, and the versions."""
    try:
        text, _, _ = path.read_text(encoding="utf-8").partition("\nScores with ")  # what follows is in other files
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    title, *rest = text.splitlines() or [""]
    lines = [line[2:] for line in rest if line.startswith("- ")]
    named = [line.partition(": ") for line in lines]
    facts = {name: text for name, _, text in named if name in ("data", "splits", "model", "training")}
    others = [line for line, (name, _, _) in zip(lines, named, strict=True) if name not in facts]
    versions = [line for line in others if line.startswith("chiasm ")]
    return title.removeprefix("# "), facts, tuple(line for line in others if line not in versions), "".join(versions)


def _json_lines(path: Path, *kinds: set[str]) -> tuple[dict[str, Any], ...]:
    """The objects of a JSON Lines file, none where there is no file; UserError names a line that is of no kind."""
    if not path.exists():
        return ()
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise _damaged(path, f"line {number} is no JSON object")
        if not any(names <= row.keys() for names in kinds):
            raise _damaged(path, f"line {number} has no {', '.join(sorted(kinds[0] - row.keys()))}")
        rows.append(row)
    return tuple(rows)


def _damaged(path: Path, error: object) -> UserError:
    told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return UserError(
        f"{path} is damaged: {told}", "It may be cut off; restore it from a copy, or run the training again."
    )


__all__ = ["Recorded", "SplitRecord", "model_name", "read_run"]
