"""What is settled before a comparison's first training, and remembered: the data's facts, precision, sizes of arms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chiasm import config as configs
from chiasm.compare.budget import Solved, World, solve
from chiasm.compare.config import CompareConfig
from chiasm.cost import example_batch, measure_step_seconds
from chiasm.data.source import Source, class_names
from chiasm.errors import UserError
from chiasm.models import build_model
from chiasm.objectives import objective_of
from chiasm.text import Tokenizer
from chiasm.train.config import RunConfig

BATCHES = 50
"""So many drawn batches say how long their longest texts are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`plan.json`: a comparison that was killed goes on by it, and measures nothing again."""

    comparison: str
    """The fingerprint of its settings."""
    data: str
    """The data's fingerprint."""
    world: World
    precision: str
    arms: tuple[Solved, ...]


def planned(config: CompareConfig, source: Source, folder: Path) -> Plan:
    """The plan in the folder, or a new one; UserError where the folder holds another comparison, or of other data."""
    path, known = folder / "plan.json", configs.fingerprint(config)
    if path.exists():
        plan = configs.load(Plan, path)
        if plan.comparison != known:
            raise UserError(f"{folder} holds another comparison", "Name another folder with --out.")
        if plan.data != source.fingerprint:
            raise UserError(
                f"{source.name} has changed since the comparison in {folder} began",
                "Restore the data, or begin anew in another folder.",
            )
        return plan
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a training run", "Name another folder with --out.")
    world = world_of(source, config.arms[0].settings)
    precision = _precision(config.arms[0].settings, world)
    fixed = tuple(replace(arm, settings=_fixed(arm.settings, precision)) for arm in config.arms)
    arms = solve(replace(config, arms=fixed), world)
    plan = Plan(comparison=known, data=source.fingerprint, world=world, precision=precision, arms=arms)
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(config, folder / "compare.json")
    scratch = path.with_suffix(".writing")
    configs.save(plan, scratch)
    scratch.replace(path)
    return plan


def world_of(source: Source, settings: RunConfig) -> World:
    """What a run of these settings would learn from the data before its first step."""
    train = source.split("train")
    if not len(train):
        raise UserError(f"{source.name} has no training examples", source.understood)
    classes = class_names(train) if settings.model.classes is not None else ()
    if settings.model.rules is None:
        return World(vocabulary=0, unk=None, classes=classes, examples=len(train), text_tokens=0)
    texts = [text for example in train for text in example.texts]
    if not texts:
        raise UserError(f"{source.name} has no texts to train on", source.understood)
    words = settings.tokenizer
    tokenizer = Tokenizer.train(texts, kind=words.units, vocab_size=words.vocab_size)
    lengths = np.minimum(tokenizer.lengths(texts), settings.model.rules.context)
    drawn = np.random.default_rng(0).choice(lengths, (BATCHES, settings.train.batch_size))
    return World(
        vocabulary=tokenizer.vocab_size,
        unk=tokenizer.unk,
        classes=classes,
        examples=len(train),
        text_tokens=round(float(drawn.max(1).mean())),
    )


def _precision(settings: RunConfig, world: World) -> str:
    """The faster one of a step of the first arm here; one for all arms, and for a comparison that goes on."""
    if settings.train.precision != "auto":
        return settings.train.precision
    model = settings.completed(world.vocabulary, world.unk, world.classes).model
    batch = example_batch(model, min(64, settings.train.batch_size), max(2, world.text_tokens))
    real, objective = build_model(model), objective_of(model)
    seconds = {p: measure_step_seconds(real, objective, batch, p, 1) for p in ("fp32", "bf16")}
    return min(seconds, key=seconds.__getitem__)


def _fixed(settings: RunConfig, precision: Any) -> RunConfig:
    return replace(settings, train=replace(settings.train, precision=precision))


__all__ = ["Plan", "planned", "world_of"]
