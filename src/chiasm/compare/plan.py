"""What is settled before a comparison's first training, and remembered: the data's facts, precision, sizes of arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from chiasm import config as configs
from chiasm.compare.budget import Solved, World, solve
from chiasm.compare.config import CompareConfig, Machinery
from chiasm.compare.controls import SHARES, alone
from chiasm.compare.tuning import tuned_share
from chiasm.config import merge
from chiasm.cost import predicted_step_seconds, worthwhile_precisions
from chiasm.data.source import Source, class_names
from chiasm.errors import UserError
from chiasm.machine import using_threads
from chiasm.progress import track
from chiasm.text import Tokenizer
from chiasm.train.config import RunConfig

REST = 1.3
"""A step with what comes between steps, validation and scoring, in steps alone."""
BATCHES = 50
"""So many drawn batches say how long their longest texts are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`plan.json`: a comparison that was killed goes on by it, and measures nothing again."""

    comparison: str
    """The fingerprint of its settings, whatever seeds follow the first."""
    data: str
    """The data's fingerprint."""
    world: World
    precision: str
    arms: tuple[Solved, ...]


def planned(config: CompareConfig, source: Source, folder: Path, machinery: Machinery) -> Plan:
    """The plan in the folder, or a new one; UserError where the folder holds another comparison, or of other data."""
    path = folder / "plan.json"
    if path.exists():
        plan = configs.load(Plan, path)
        if plan.comparison != _fingerprint(config):
            raise UserError(f"{folder} holds another comparison", "Name another folder with --out.")
        if plan.data != source.fingerprint:
            raise UserError(
                f"{source.name} has changed since the comparison in {folder} began",
                "Restore the data, or begin anew in another folder.",
            )
        configs.save(config, folder / "compare.json")
        return plan
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a training run", "Name another folder with --out.")
    plan = drafted(config, source, machinery)
    folder.mkdir(parents=True, exist_ok=True)
    configs.save(config, folder / "compare.json")
    scratch = path.with_suffix(".writing")
    configs.save(plan, scratch)
    scratch.replace(path)
    return plan


def _fingerprint(config: CompareConfig) -> str:
    """Further seeds may be asked for later: rates are chosen, and the data's scaling is measured, on the first."""
    return configs.fingerprint(replace(config, seeds=config.seeds[:1]))


def drafted(config: CompareConfig, source: Source, machinery: Machinery) -> Plan:
    """A new plan: steps are measured here, to choose the precision and, where nothing else says, how many there are."""
    reading = [arm.settings for arm in config.arms if arm.settings.model.rules is not None]
    world = world_of(source, (reading or [config.arms[0].settings])[0])
    precision = _precision(config.arms[0].settings, world, machinery.threads)
    train = {"precision": precision} | ({"steps": 1} if config.open_ended else {})
    arms = tuple(replace(arm, settings=merge(arm.settings, {"train": train})) for arm in config.arms)
    solved = solve(replace(config, arms=arms), world)
    if config.open_ended:
        solved = _lengthened(solved, config, world, machinery)
    return Plan(
        comparison=_fingerprint(config),
        data=source.fingerprint,
        world=world,
        precision=precision,
        arms=solved,
    )


def _lengthened(
    arms: tuple[Solved, ...], config: CompareConfig, world: World, machinery: Machinery
) -> tuple[Solved, ...]:
    """The arms trained for as long as makes all trainings take about the time that they may take."""
    each = config.within_minutes * machinery.workers / whole_trainings(config, arms[0])
    if config.equal == "time":
        return tuple(_with_length(arm, minutes=each) for arm in arms)
    slowest = max(step_seconds(arm.arm.settings, world, machinery.threads) for arm in track(arms, "timing", len(arms)))
    return tuple(_with_length(arm, steps=max(1, int(each * 60 / (REST * slowest)))) for arm in arms)


def _with_length(arm: Solved, *, steps: int | None = None, minutes: float | None = None) -> Solved:
    settings = merge(arm.arm.settings, {"train": {"steps": steps, "minutes": minutes}})
    counted = steps or arm.samples // settings.train.batch_size
    return replace(
        arm,
        arm=replace(arm.arm, settings=settings),
        steps=steps,
        flops=arm.step_flops * counted,
        samples=settings.train.batch_size * counted,
    )


def whole_trainings(config: CompareConfig, arm: Solved) -> float:
    """How many trainings of full length all jobs of a comparison are worth."""
    controls = config.floors * len(alone(arm)) + config.scaling * len(SHARES)
    return len(config.arms) * (len(config.seeds) + tuned_share(config.tune)) + controls


def step_seconds(settings: RunConfig, world: World, threads: int) -> float:
    """Of a training step here, with as many threads as a training would have, in the settings' precision."""
    return _measured(settings, world, threads, (settings.train.precision,))[settings.train.precision]


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


def _precision(settings: RunConfig, world: World, threads: int) -> str:
    """The faster one of a step of the first arm here; one for all arms, and for a comparison that goes on."""
    if settings.train.precision != "auto":
        return settings.train.precision
    seconds = _measured(settings, world, threads, worthwhile_precisions())
    return min(seconds, key=seconds.__getitem__)


def _measured(settings: RunConfig, world: World, threads: int, precisions: Sequence[str]) -> dict[str, float]:
    model = settings.completed(world.vocabulary, world.unk, world.classes).model
    tokens = 0 if model.rules is None else max(2, world.text_tokens)
    with using_threads(threads):
        return predicted_step_seconds(
            model, settings.train.batch_size, tokens, precisions=precisions, optimizer=settings.train.optimizer
        )


__all__ = ["Plan", "drafted", "planned", "step_seconds", "whole_trainings", "world_of"]
