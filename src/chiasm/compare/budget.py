"""What the arms of a comparison cost is made equal: by their sizes, or by how long they are trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from chiasm.compare.config import Arm, CompareConfig, Equal
from chiasm.compare.sizes import TOLERANCE, about, fitted
from chiasm.cost import model_cost
from chiasm.errors import UserError
from chiasm.models import ModelConfig
from chiasm.progress import track
from chiasm.train.config import RunConfig, TrainConfig

MINUTES = 10.0
"""Of each training, where time is equal and nothing is said."""
SAME = "batch_size", "accumulate", "epochs", "minutes", "steps", "warmup"
"""Settings of `train` that are the same for all arms, or samples seen and schedule would not be."""


class Budget(NamedTuple):
    """How a budget is written: its units, what it counts, and examples."""

    units: dict[str, float]
    counts: str
    examples: str


LETTERS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
BUDGETS: dict[Equal, Budget] = {
    "params": Budget({"": 1.0} | {x: LETTERS[x] for x in "kmb"}, "parameters", "3M or 800k"),
    "flops": Budget({f"{x}flop": LETTERS[x] for x in "mgtpe"}, "FLOPs of a whole training", "2TFLOP or 500GFLOP"),
    "time": Budget({x: SECONDS[x] / 60 for x in SECONDS}, "the time of a training", "10min, 90s or 1h"),
    "samples": Budget({"": 1.0} | {x: LETTERS[x] for x in "km"}, "samples seen in a training", "50k or 100000"),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """What the data complete a configuration with, and what costs depend on besides."""

    vocabulary: int
    unk: int | None
    classes: tuple[str, ...]
    examples: int
    """Of the training split."""
    text_tokens: int
    """The length of texts at which costs are counted."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """An arm whose settings say its sizes and `train.steps` (where time is equal, `train.minutes`), and its costs."""

    arm: Arm
    parameters: int
    step_flops: float
    """Forward and backward, of one batch."""
    flops: float
    """Of all steps."""
    steps: int | None
    """None where time is equal: nobody knows them before. FLOPs and samples are then those of the usual length."""
    samples: int
    off: float
    """By what share of the target it misses what is held equal."""


class Count(NamedTuple):
    """What a model costs, whatever the length of its training."""

    parameters: int
    step_flops: float


def parse_budget(text: str, equal: Equal) -> float:
    """Parameters, FLOPs, minutes or samples; UserError for a budget of another kind."""
    budget = BUDGETS[equal]
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) *([a-z]*)", text.strip().replace(",", "").replace("_", "").lower())
    number, unit = found.groups() if found else ("", "")
    unit = re.sub(r"flops$", "flop", unit)
    try:
        value = float(number) * budget.units[unit]
    except (ValueError, KeyError):
        value = 0.0
    if value <= 0:
        raise UserError(
            f"The budget {text!r} does not fit equal {equal}", f"It counts {budget.counts}: write {budget.examples}."
        )
    return value


def solve(config: CompareConfig, world: World) -> tuple[Solved, ...]:
    """All arms at equal cost; where nothing else is said, that of the first one as it was asked for.

    params: sizes are changed until all have as many parameters (`sizes.fitted` says how); all take as many steps.
    flops: the same for the FLOPs of a step, and all take as many steps: the budget's, in steps of the first arm as it
    was asked for. time and samples leave sizes as they are, and set how long is trained. UserError where arms differ
    in what must be the same, and where no size of an arm comes within 2 %.
    """
    _check_same(config)
    budget = None if config.budget is None else parse_budget(config.budget, config.equal)
    first = config.arms[0]
    train, count = _length(config, world, budget), _count(first.settings, world)
    match config.equal:
        case "params":
            target = budget or float(count.parameters)
            return _resized(config, world, train, target, lambda found: float(found.parameters))
        case "flops":
            return _resized(config, world, train, count.step_flops, lambda found: found.step_flops)
        case "time" | "samples":
            return tuple(_solved(arm, world, train, 0.0) for arm in config.arms)


def _check_same(config: CompareConfig) -> None:
    """UserError where arms differ in what would make samples, schedule or words differ."""
    first = config.arms[0]
    for arm in config.arms[1:]:
        pairs = [(f"train.{name}", *(getattr(a.settings.train, name) for a in (first, arm))) for name in SAME]
        if first.settings.model.rules is not None and arm.settings.model.rules is not None:
            pairs.append(("tokenizer", first.settings.tokenizer, arm.settings.tokenizer))
        for path, one, other in pairs:
            if one != other:
                raise UserError(
                    f"Arms {first.name} and {arm.name} differ in {path}: {one} and {other}",
                    "It must be the same for all: set it for all arms, or for none.",
                )
    for arm in config.arms:
        if config.equal == "flops" and arm.settings.train.tune != "full":
            raise UserError(
                f"Arm {arm.name} trains in part (train.tune is {arm.settings.train.tune}), whose FLOPs are not counted",
                "Compare at equal samples, time or params.",
            )


def _length(config: CompareConfig, world: World, budget: float | None) -> TrainConfig:
    """How long the first arm is trained; the others are trained as long."""
    settings = config.arms[0].settings
    train = settings.train
    if config.equal == "time":
        return replace(train, minutes=budget or train.minutes or MINUTES, steps=None)
    if train.minutes is not None and train.steps is None and (budget is None or config.equal == "params"):
        raise UserError(
            f"train.minutes does not say how many steps make {config.equal} equal",
            f"Say train.epochs or train.steps, or compare at equal time: --equal time --budget {train.minutes:g}min.",
        )
    steps = train.steps_of(max(1, world.examples // train.batch_size))
    if budget is not None and config.equal != "params":
        step = train.batch_size if config.equal == "samples" else _count(settings, world).step_flops
        steps = round(budget / step)
        if not steps:
            raise UserError(
                f"The budget {config.budget} is less than one step: that of arm {config.arms[0].name} takes {step:.3g}",
                "Name a larger budget, or set train.batch_size lower.",
            )
    return replace(train, steps=steps, minutes=None)


def _resized(
    config: CompareConfig, world: World, train: TrainConfig, target: float, equal: Callable[[Count], float]
) -> tuple[Solved, ...]:
    """Every arm in the size that makes `equal` the target."""
    solved = []
    for arm in track(config.arms, f"sizes at equal {config.equal}", len(config.arms)):
        settings, fixed = arm.settings, _fixed(arm.settings)

        def cost(model: ModelConfig, settings: RunConfig = settings) -> float:
            return equal(_count(replace(settings, model=model), world))

        model = settings.model if fixed else fitted(settings.model, cost, target)
        off = cost(model) / target - 1
        if abs(off) > TOLERANCE:
            what = "parameters" if config.equal == "params" else "FLOPs in a step"
            raise UserError(
                f"Arm {arm.name} comes no nearer to {target:,.0f} {what} than {100 * off:+.1f} %: {about(model)}",
                fixed or "Start from another preset or other sizes, or name another budget.",
            )
        solved.append(_solved(replace(arm, settings=replace(settings, model=model)), world, train, off))
    return tuple(solved)


def _fixed(settings: RunConfig) -> str:
    """Why the sizes of a run cannot be changed, as a sentence; empty where they can."""
    if settings.start is not None:
        return f"It starts from {settings.start}, so its sizes are fixed: compare at equal time or samples."
    if settings.train.tune != "full":
        return f"With train.tune={settings.train.tune} its sizes are fixed: compare at equal time or samples."
    return ""


def _solved(arm: Arm, world: World, train: TrainConfig, off: float) -> Solved:
    """The arm trained as long as `train` says."""
    own = replace(arm.settings.train, steps=train.steps, minutes=train.minutes)
    settings, count = replace(arm.settings, train=own), _count(arm.settings, world)
    steps = train.steps_of(max(1, world.examples // train.batch_size))
    return Solved(
        arm=replace(arm, settings=settings),
        parameters=count.parameters,
        step_flops=count.step_flops,
        flops=count.step_flops * steps,
        steps=train.steps,
        samples=steps * train.batch_size,
        off=off,
    )


def _count(settings: RunConfig, world: World) -> Count:
    """What the settings' model costs on the data, attention included."""
    model = settings.completed(world.vocabulary, world.unk, world.classes).model
    tokens = 0 if model.rules is None else min(max(2, world.text_tokens), model.rules.context)
    found = model_cost(model, batch_size=settings.train.batch_size, text_tokens=tokens, measure=False)
    return Count(found.parameters, float(found.step_flops))


__all__ = ["Solved", "World", "about", "parse_budget", "solve"]
