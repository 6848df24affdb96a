"""The arms of a comparison, from what was typed: fusions by name, files of settings, single settings by path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from chiasm import config as configs
from chiasm.cli.settings import FUSIONS, ModelName, apply_settings, asked, fused, given, read_settings, start_settings
from chiasm.compare.config import Arm, TaskName
from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerFusion
from chiasm.train.config import RunConfig

FILES = ".yaml", ".yml", ".json"
ASKED = {"match": "match", "answer": "answer", "classify": "label"}
"""What a classifier is to tell, by the comparison's task."""
HOW = (
    f"An arm is a fusion ({', '.join(FUSIONS)}), NAME=FILE.yaml, or NAME=PATH=VALUE[,PATH=VALUE], as in "
    "cls=model.vision.pool=cls or wide=cross,model.fusion.width=256."
)


@dataclass(frozen=True)
class Spec:
    """An arm as it was typed, taken apart."""

    name: str
    fusion: CaptionerFusion | None = None
    file: Path | None = None
    changes: tuple[str, ...] = ()


def arms_from(
    task: TaskName,
    specs: Sequence[str],
    *,
    preset: str = "small",
    config: Path | None = None,
    data: dict[str, Any] | None = None,
    epochs: float | None = None,
    negatives: str | None = None,
    set: Sequence[str] = (),
) -> tuple[Arm, ...]:
    """The arms that `specs` name, each with the settings of its runs; all four fusions where there are none.

    An arm starts from what `chiasm train` would: a captioner for caption, a fusion for match and answer, and for
    classify where it names one, else a vit, and a clip for retrieve. `config`, `data` (nested settings, None where
    nobody gave them), `epochs` and `set` are for all arms. What is said later wins: `config`, the arm's own file,
    options, `set`, the arm's own changes. UserError where an arm is none, or where there are fewer than two.
    """
    if not specs and task not in ("caption", "match", "answer"):
        example = "--arm cls=model.vision.pool=cls --arm mean=model.vision.pool=mean"
        raise UserError(f"No arms were named, and {task} has no usual ones", f"For example: {example}")
    parsed = [_parsed(spec) for spec in specs or FUSIONS]
    _check(task, parsed)
    shared = read_settings(config) if config is not None else {}
    named = given({"data": data or {}, "train": {"epochs": epochs}})
    arms = []
    for spec in parsed:
        try:
            settings = _base(task, spec, preset, shared, negatives)
            if spec.file is not None:
                settings = configs.merge(settings, read_settings(spec.file))
            settings = configs.merge(settings, named)
            if epochs is not None:  # what is asked for here is meant, not a file's time
                settings = replace(settings, train=replace(settings.train, minutes=None))
            settings = apply_settings(apply_settings(settings, set), spec.changes)
        except UserError as error:
            raise UserError(f"Arm {spec.name}: {error.message}", error.hint) from error
        arms.append(Arm(name=spec.name, settings=settings))
    return tuple(arms)


def _parsed(text: str) -> Spec:
    """An arm's parts; UserError where it is none."""
    name, equals, rest = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{text!r} is no arm: {name!r} cannot be its name", HOW)
    if not equals:
        if name not in FUSIONS:
            raise UserError(f"There is no fusion {name!r}", HOW)
        return Spec(name, fusion=cast(CaptionerFusion, name))
    first, *changes = re.split(r",(?=[A-Za-z_][\w.]*=)", rest)  # not at the commas of a list
    if "=" in first:
        return Spec(name, changes=(first, *changes))
    if first in FUSIONS:
        return Spec(name, fusion=cast(CaptionerFusion, first), changes=tuple(changes))
    if first.lower().endswith(FILES):
        return Spec(name, file=Path(first), changes=tuple(changes))
    raise UserError(f"{text!r} is no arm: {first!r} is neither a fusion, nor a file, nor PATH=VALUE", HOW)


def _check(task: TaskName, specs: Sequence[Spec]) -> None:
    """UserError for arms that could not be compared."""
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two arms are called {name}", "Name one of them otherwise, as in again=late.")
    for spec in specs:
        if task == "retrieve" and spec.fusion is not None:
            raise UserError(
                f"Arm {spec.name}: retrieve compares dual encoders, and these fuse nothing: pictures and texts are "
                "embedded apart, so that any number of them can be searched",
                "Compare what encodes them, as in --arm cls=model.vision.pool=cls --arm mean=model.vision.pool=mean; "
                "or fusions that judge pairs: --task match.",
            )
    if len(specs) < 2:
        raise UserError(f"There is nothing to compare {names[0]} with", "Name two arms at least.")


def _base(task: TaskName, spec: Spec, preset: str, shared: dict[str, Any], negatives: str | None) -> RunConfig:
    """The settings of an arm before what was said of the data."""
    model: ModelName = "fusion"
    if task in ("caption", "retrieve"):
        model = "captioner" if task == "caption" else "clip"
    elif task == "classify" and spec.fusion is None:
        model = "vit"
    settings = configs.merge(start_settings(model, preset, fusion=spec.fusion), shared)
    name = ASKED.get(task) if model == "fusion" else None
    try:
        settings = fused(settings, spec.fusion)
    except UserError as error:
        raise UserError(f"the settings for all arms do not fit fusion {spec.fusion}",
                        "Leave model.fusion out of the file, and say it for each arm.") from error  # fmt: skip
    return asked(settings, name, negatives, None)


__all__ = ["arms_from"]
