"""What a comparison would cost, before it begins: every arm's sizes, and the time of the whole on this machine."""

from __future__ import annotations

from collections.abc import Callable

from chiasm.compare.budget import Solved
from chiasm.compare.config import CompareConfig, Machinery
from chiasm.compare.experiment import open_data
from chiasm.compare.plan import REST, Plan, drafted, step_seconds, whole_trainings
from chiasm.compare.sizes import about

LEAST_EPOCHS = 2
"""Fewer passes through the data tell little about an architecture."""


def preview(config: CompareConfig, machinery: Machinery) -> str:
    """A table of the arms' costs, and how long all trainings would take; a step of each arm is measured here."""
    plan = drafted(config, open_data(config), machinery)
    arms = plan.arms
    minutes = {arm.arm.name: _minutes(arm, plan, machinery.threads) for arm in arms}
    columns: dict[str, Callable[[Solved], str]] = {
        "arm": lambda arm: arm.arm.name,
        "parameters": lambda arm: f"{arm.parameters:,}",
        "GFLOP a step": lambda arm: f"{arm.step_flops / 1e9:,.1f}",
        "steps": lambda arm: "measured" if arm.steps is None else f"{arm.steps:,}",
        "TFLOP": lambda arm: f"{arm.flops / 1e12:,.1f}",
        "samples": lambda arm: f"{arm.samples:,}",
        "minutes": lambda arm: f"{minutes[arm.arm.name]:,.1f}",
        "sizes": lambda arm: about(arm.arm.settings.model),
    }
    cells = [list(columns), *([of(arm) for of in columns.values()] for arm in arms)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    trainings = whole_trainings(config, arms[0])
    whole = trainings * sum(minutes.values()) / len(arms) / machinery.workers
    lines += [
        "",
        f"{len(arms)} arms × {len(config.seeds)} seeds, {config.tune} learning rates tried for each, and what they are "
        f"measured against: {trainings:g} whole trainings in {plan.precision}, {machinery.workers} at a time",
        f"about {REST * whole:,.0f} minutes; {_seen(min(arm.samples for arm in arms) / plan.world.examples)}",
    ]
    return "\n".join(lines)


def _seen(epochs: float) -> str:
    """How often a training sees each example, and what to do where that is too seldom for anything to be learned."""
    told = f"every training sees each example {epochs:,.1f} times"
    advice = "which is little: choose a smaller --preset or a longer --within"
    return told if epochs >= LEAST_EPOCHS else f"{told}, {advice}"


def _minutes(arm: Solved, plan: Plan, threads: int) -> float:
    """Of one training."""
    settings = arm.arm.settings
    if arm.steps is None:
        assert settings.train.minutes is not None
        return settings.train.minutes
    return arm.steps / 60 * step_seconds(settings, plan.world, threads)


__all__ = ["preview"]
