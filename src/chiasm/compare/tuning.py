"""A learning rate for each arm, from the same number of short trials for each, so that none wins by its defaults.

Successive halving (1502.07943, algorithm 1): all rates are tried for a short time, the better half for twice as long,
and so on. The rounds are common to all arms, and a trial is a job like any other, so that a comparison which was killed
repeats none and chooses the same; that is why no library's asynchronous halving, which depends on what ends first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from chiasm.compare.budget import Solved
from chiasm.compare.jobs import Job, Outcome
from chiasm.compare.results import Trial

FIRST_SHARE = 1 / 8
"""Of a whole training, for the first trials: fewer steps than this often end before a model has left its plateau."""

ALIKE = 1.01
"""Losses within so much of the best one are as good as it."""


def tune(
    arms: Sequence[Solved], trials: int, seed: int, run: Callable[[Sequence[Job]], dict[str, Outcome]]
) -> dict[str, tuple[float, tuple[Trial, ...]]]:
    """Each arm's best learning rate by validation loss, and what was tried, by the arm's name.

    Of rates that are about as good, the one nearest to the arm's own.

    An arm whose trials all broke keeps its own rate. `run` runs jobs and returns their outcomes by name.
    """
    rates = {arm.arm.name: learning_rates(arm.arm.settings.train.learning_rate, trials) for arm in arms}
    tried: dict[str, list[Trial]] = {arm.arm.name: [] for arm in arms}
    own = {arm.arm.name: arm.arm.settings.train.learning_rate for arm in arms}
    share = FIRST_SHARE
    while any(len(left) > 1 for left in rates.values()):
        jobs = {(a.arm.name, r): _trial(a, r, share, seed) for a in arms for r in rates[a.arm.name]}
        outcomes = run(list(jobs.values()))
        for name, left in rates.items():
            losses = {rate: _loss(outcomes[jobs[name, rate].name]) for rate in left}
            tried[name] += [
                Trial(learning_rate=rate, steps=outcomes[jobs[name, rate].name].steps, val_loss=loss)
                for rate, loss in losses.items()
            ]
            rates[name] = _ranked(losses, own[name])[: max(1, len(left) // 2)]
        share *= 2
    return {name: (left[0] if left else own[name], tuple(tried[name])) for name, left in rates.items()}


def learning_rates(own: float, trials: int) -> list[float]:
    """So many rates, each twice the one before, with `own` in the middle (of an even number, above the middle)."""
    return [own * 2.0 ** (place - trials // 2) for place in range(trials)] or [own]


def tuned_share(trials: int) -> float:
    """How many whole trainings the trials of one arm are worth."""
    left, share, whole = trials, FIRST_SHARE, 0.0
    while left > 1:
        whole += left * share
        left, share = left // 2, 2 * share
    return whole


def with_rate(arm: Solved, rate: float, seed: int) -> Solved:
    """The arm with this learning rate and seed."""
    settings = arm.arm.settings
    train = replace(settings.train, learning_rate=rate, seed=seed)
    return replace(arm, arm=replace(arm.arm, settings=replace(settings, train=train)))


def _trial(arm: Solved, rate: float, share: float, seed: int) -> Job:
    tuned = with_rate(arm, rate, seed).arm.settings
    steps = None if arm.steps is None else max(1, round(arm.steps * share))
    minutes = None if tuned.train.minutes is None else tuned.train.minutes * share
    train = replace(tuned.train, steps=steps, minutes=minutes)
    return Job(
        name=f"tuning/{arm.arm.name}/{rate:.3g}-{share:g}",
        settings=replace(tuned, train=train),
        flops=arm.flops * share,
        score=False,
    )


def _ranked(losses: Mapping[float, float | None], own: float) -> list[float]:
    """The rates that did not break, the best first; of those that are as good as it, the nearest to the arm's own.

    A model that is still on its first plateau tells little between rates, and it is the high ones that it flatters.
    """
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    best = min(known.values(), default=math.inf)
    return sorted(
        known,
        key=lambda rate: (0.0, abs(math.log(rate / own)), rate) if known[rate] <= ALIKE * best else (known[rate], rate),
    )


def _loss(outcome: Outcome) -> float | None:
    return None if outcome.failed is not None else outcome.val_loss


__all__ = ["FIRST_SHARE", "learning_rates", "tune", "tuned_share", "with_rate"]
