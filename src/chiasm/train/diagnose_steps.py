"""What the rows of metrics.csv tell of a training: findings on its losses, gradients, schedule and waiting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Literal

from chiasm.objectives import Objective, Rows, mean_of
from chiasm.objectives.base import STUCK_SHARE
from chiasm.train.findings import Finding

FAIR_STEPS = 50
"""So many steps say whether a model learns, and whether its last ones are out of the ordinary."""
CLAMP_SHARE = 0.99
"""A scale of so much of its limit stands at it: between steps it may be a little below."""
LONG_WARMUP = 0.3
"""Of the steps taken; recipes warm up for 1 to 10 %, and up to 25 % where runs are very short."""
DATA_BOUND = 0.3
"""The share of time spent waiting from which on a run would take a third less without."""
WAITED_SECONDS = 0.01
"""Of a step; to hand a batch from thread to thread takes milliseconds, which no worker saves."""
WORSE, WORSE_OF_BEST = 0.1, 0.02
"""A rise of the validation loss by a tenth of all that it had fallen, and by 2 % of its best, is no noise."""
RISEN = 3
"""Validations that must agree on a rise, or that make a fall."""
FALLING = 0.05
"""A fall in the last fifth of the steps, of all that the loss fell: the learning rate is nearly 0 there, so a run
that was long enough has long been flat."""
SPIKE = 10.0
"""A norm of so many times what is usual is no ordinary batch; within a factor of 3 is."""
SPIKES, SPIKE_SHARE = 2, 0.02
"""So many rows with spikes, and such a share of them: one is clipped and forgotten."""
LEARNT = 0.1
"""Of the first row's loss: below it the usual gradient is so short that any mistake stands out of it."""


def recent(rows: Rows) -> Rows:
    """The rows of the last FAIR_STEPS steps."""
    return [row for row in rows if _number(row, "step") > _number(rows[-1], "step") - FAIR_STEPS]


def not_learning(objective: Objective, rows: Rows) -> Finding | None:
    """The loss of the last steps is chance's, by the objective's own measure."""
    if not rows or _number(rows[-1], "step") < FAIR_STEPS:
        return None
    last = recent(rows)
    advice = objective.advice(last)
    if advice is None:
        return None
    names = [name for name in ("loss", "contrastive_loss", "class_loss", "chance", "floor") if name in last[-1]]
    return Finding("not_learning", advice, {name: mean_of(last, name) for name in names})


def unigram_level(rows: Rows, unigram_loss: float | None) -> Finding | None:
    """The loss per token of the last steps is what the tokens' frequencies alone give; None: nothing to hold it to."""
    if not rows or not unigram_loss or _number(rows[-1], "step") < FAIR_STEPS:
        return None
    loss = mean_of(recent(rows), "token_loss")
    if loss < STUCK_SHARE * unigram_loss:
        return None
    text = (
        f"The loss per token, {loss:.3f}, is no better than that of a model that only knows how common each token is "
        f"({unigram_loss:.3f}): it makes use of neither the words before nor the picture. Try a higher or lower "
        "train.learning_rate, a longer train.warmup, or more steps."
    )
    return Finding("unigram_level", text, {"token_loss": loss, "unigram_loss": unigram_loss})


def scale_at_clamp(rows: Rows, limit: float | None) -> Finding | None:
    """The scale of similarities stands at its limit; None: it has none."""
    if limit is None or not rows or (scale := _number(rows[-1], "scale")) < CLAMP_SHARE * limit:
        return None
    first = next(_number(row, "step") for row in rows if _number(row, "scale") >= CLAMP_SHARE * limit)
    if first == _number(rows[0], "step"):  # where it started from a trained model, whose scale it was
        return None
    text = (
        f"The scale of similarities stands at its limit, {limit:.0f}, since step {first:.0f}: the model would be surer "
        "of its training pairs than it is let. That is usual of long trainings and harmless while the validation loss "
        "falls; where it rises, more data, train.augment=strong or fewer steps help, and a lower train.learning_rate "
        "where the limit was reached early."
    )
    return Finding("scale_at_clamp", text, {"scale": scale, "limit": limit, "since": first})


def long_warmup(warmup: float, planned_steps: int, taken_steps: int) -> Finding | None:
    """The learning rate rose for too much of the steps that were taken, or was still rising when they ended."""
    steps = warmup * planned_steps
    if steps <= LONG_WARMUP * taken_steps:
        return None
    if steps >= taken_steps:
        seen = (
            f"The run ended at step {taken_steps:,}, while the learning rate was still rising, to its peak at step "
            f"{steps:,.0f}"
        )
    else:
        seen = (
            f"The learning rate rises for {steps:,.0f} of {taken_steps:,} steps, {100 * steps / taken_steps:.0f} % of "
            "the run, and so little time is left to learn at its height"
        )
    longer = ", or raise train.patience, which ended it" if taken_steps < planned_steps else ""
    text = f"{seen}. Lower train.warmup (it is {warmup:g}; 0.05 is usual){longer}."
    evidence = {"warmup_steps": steps, "planned_steps": planned_steps, "taken_steps": taken_steps}
    return Finding("long_warmup", text, evidence)


def data_bound(rows: Rows, workers: int, cores: int, stored: bool) -> Finding | None:
    """Steps wait for batches; `stored` pictures come from the cache, others are read for every batch."""
    later = [row for row in rows[1:] if row.get("waiting_share") is not None]  # the first has the loader's start
    if not later:
        return None
    share = statistics.median(_number(row, "waiting_share") for row in later)
    taken = [_number(rows[-1], name) - _number(rows[0], name) for name in ("seconds", "step")]
    step_seconds = taken[0] / taken[1]
    if share < DATA_BOUND or share * step_seconds < WAITED_SECONDS:
        return None
    # While steps wait, those who make batches are never idle: each makes one in the time of so many steps as there are
    # of them, waiting counted. A step alone takes 1 - share of that time.
    needed = math.ceil(max(1, workers) / max(0.01, 1 - share) - 1e-9)
    why = "" if stored else ", of pictures that are read anew each time, since they are too many for the cache"
    cheaper = f"make batches cheaper: a lighter train.augment{'' if stored else ', or pictures of smaller files'}"
    if needed <= cores:
        todo = f"About {needed} processes would keep up (train.workers={needed}; it is {workers}), or {cheaper}."
    else:
        todo = f"It would take about {needed} processes to keep up, and this machine has {cores} cores: {cheaper}."
    text = f"Steps wait {100 * share:.0f} % of the time for their batches{why}. {todo}"
    evidence = {"waiting_share": share, "step_seconds": step_seconds}
    return Finding("data_bound", text, evidence | {"workers": workers, "needed": needed, "cores": cores})


def validation_rising(rows: Rows, keep: Literal["best", "last"]) -> Finding | None:
    """The validation loss has left its best value behind, and the later validations agree."""
    values = _validations(rows)
    if len(values) <= RISEN:
        return None
    best_step, best = min(values, key=lambda value: value[1])
    later = [loss for step, loss in values if step > best_step][-RISEN:]
    enough = max(WORSE * (values[0][1] - best), WORSE_OF_BEST * abs(best))
    if len(later) < RISEN or (rise := min(later) - best) <= enough:
        return None
    what = "weights of that step are the ones kept" if keep == "best" else "last weights are kept all the same"
    todo = "" if keep == "best" else " Set train.keep=best."
    text = (
        f"The validation loss was best at step {best_step:,.0f} ({best:.3f}) and is worse since, by {rise:.3f} or more "
        f"in the last {RISEN} validations: from there on, what is learnt does not carry over. The {what}.{todo} Stop "
        f"about there (train.steps={best_step:.0f}, or train.patience={RISEN}); more data, train.augment=strong, a "
        "greater train.weight_decay or a smaller model let it go further."
    )
    return Finding("validation_rising", text, {"best": best, "best_step": best_step, "rise": rise, "last": later[-1]})


def still_falling(rows: Rows, planned_steps: int) -> Finding | None:
    """The validation loss still fell when the run ended."""
    values = _validations(rows)
    if len(values) <= RISEN or values[-1][0] < planned_steps:
        return None
    best = min(loss for _, loss in values)
    before = [loss for step, loss in values if step <= 0.8 * planned_steps]
    if not before or (fall := min(before) - values[-1][1]) <= FALLING * (values[0][1] - best) or fall <= 0:
        return None
    text = (
        f"The validation loss still fell when the run ended, by {fall:.3f} in the last fifth of the steps, of "
        f"{values[0][1] - best:.3f} in all: more steps (--epochs, --minutes) would make it better."
    )
    return Finding("still_falling", text, {"fall": fall, "whole_fall": values[0][1] - best, "last": values[-1][1]})


def gradients_exploding(rows: Rows, clip_norm: float) -> Finding | None:
    """Again and again the gradient is many times as long as in the rows before, and long enough to be clipped.

    That is told of rows in which something is still to be learnt.
    """
    rows = [row for row in rows if row.get("gradient_norm") is not None]
    usual = [_number(row, "gradient_norm") for row in rows]
    peaks = [_number(row, "largest_norm") for row in rows]
    spikes = [
        peak
        for i, peak in enumerate(peaks)
        if i >= 3
        and peak > clip_norm
        and peak > SPIKE * statistics.median(usual[max(0, i - 20) : i])
        and _number(rows[i], "loss") >= LEARNT * _number(rows[0], "loss")
    ]
    if len(spikes) < max(SPIKES, SPIKE_SHARE * len(peaks)):
        return None
    median, clipped = statistics.median(usual), mean_of(rows, "clipped_share")
    text = (
        f"The gradient's norm jumped to more than {SPIKE:.0f} times what it was before in {len(spikes)} of the "
        f"{len(peaks)} rows of metrics.csv, up to {max(spikes):.3g} (its median is {median:.3g}); "
        f"{100 * clipped:.0f} % of the steps were clipped. Lower train.learning_rate, lengthen train.warmup, lower "
        "train.clip_norm, or look at the pictures and texts of those steps."
    )
    evidence = {"spikes": len(spikes), "rows": len(peaks), "largest": max(spikes), "median": median}
    return Finding("gradients_exploding", text, evidence | {"clipped_share": clipped})


def _validations(rows: Rows) -> list[tuple[float, float]]:
    """Steps and validation losses."""
    return [(_number(row, "step"), loss) for row in rows if (loss := row.get("val_loss")) is not None]


def _number(row: Mapping[str, float | None], name: str) -> float:
    value = row[name]
    assert value is not None
    return value


__all__ = [
    "FAIR_STEPS",
    "data_bound",
    "gradients_exploding",
    "long_warmup",
    "not_learning",
    "recent",
    "scale_at_clamp",
    "still_falling",
    "unigram_level",
    "validation_rising",
]
