"""What a comparison would cost, before it begins: every arm's sizes, and the time of the whole on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch

from chiasm.compare.budget import Solved, World, solve
from chiasm.compare.config import CompareConfig
from chiasm.compare.controls import SHARES, alone
from chiasm.compare.experiment import Machinery, open_data
from chiasm.compare.plan import world_of
from chiasm.compare.sizes import about
from chiasm.compare.tuning import FIRST_SHARE
from chiasm.cost import predicted_step_seconds


def preview(config: CompareConfig, machinery: Machinery) -> str:
    """A table of the arms' costs, and how long all trainings would take; a step of each arm is measured here."""
    world = world_of(open_data(config), config.arms[0].settings)
    arms = solve(config, world)
    minutes = {arm.arm.name: _minutes(arm, world, machinery.threads) for arm in arms}
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
    trained = sum(minutes.values()) * (len(config.seeds) + tuned_share(config.tune))
    dearest = max(minutes.values())
    controls = config.floors * len(alone(arms[0])) + config.scaling * len(SHARES)
    whole = (trained + controls * dearest) / machinery.workers
    lines += [
        "",
        f"{len(arms)} arms × {len(config.seeds)} seeds, {config.tune} learning rates tried for each, up to {controls} "
        f"trainings to measure them against; {machinery.workers} at a time: about {whole:,.0f} minutes, and scoring",
    ]
    return "\n".join(lines)


def tuned_share(trials: int) -> float:
    """How many whole trainings the trials of one arm are worth."""
    left, share, sum_of_shares = trials, FIRST_SHARE, 0.0
    while left > 1:
        sum_of_shares += left * share
        left, share = left // 2, 2 * share
    return sum_of_shares


def _minutes(arm: Solved, world: World, threads: int) -> float:
    """Of one training, with as many threads as it would have."""
    settings = arm.arm.settings
    if arm.steps is None:
        assert settings.train.minutes is not None
        return settings.train.minutes
    model = settings.completed(world.vocabulary, world.unk, world.classes).model
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seconds = predicted_step_seconds(model, settings.train.batch_size, world.text_tokens)
    finally:
        torch.set_num_threads(before)
    return arm.steps / 60 * min(seconds.values())


__all__ = ["preview", "tuned_share"]
