"""Precision, threads and number of steps of a run: what is left open a measurement settles."""

from __future__ import annotations

from dataclasses import replace

import torch

from chiasm.cost import measure_step_seconds, worthwhile_precisions
from chiasm.machine import best_device, using_threads
from chiasm.models import Model
from chiasm.nn import measure_update_seconds
from chiasm.objectives import Objective
from chiasm.train.config import TrainConfig
from chiasm.types import Batch

SHORT_SECONDS = 0.25
"""A pass that takes longer has work for every core; in a shorter one threads may wait for each other more than work."""
FASTER = 0.95
"""Fewer threads have to take at most this share of the time: a measurement is not more exact."""
REST = 1.15
"""Times a pass: with clipping, the moving average, the log, and validation. The optimizer is measured by itself."""


def settled(
    train: TrainConfig, model: Model, objective: Objective, batch: Batch, *, steps_per_epoch: int
) -> TrainConfig:
    """The settings without what is open in them, by passes over a batch; the weights stay as they are.

    Precision first, on all threads (torch's own number); then, where passes are short, half as many threads as long as
    that is faster; `minutes` last. Nothing is measured where nothing is left to choose.
    """
    device = best_device()  # where Lightning will train; only the CPU was measured
    most = train.threads or torch.get_num_threads()
    precisions = (train.precision,) if train.precision != "auto" else _precisions(device)
    counts_steps = train.minutes is not None and train.steps is None
    chooses_threads = train.threads is None and most > 1 and device.type == "cpu"
    precision, threads, steps = precisions[0], most, train.steps
    if len(precisions) > 1 or counts_steps or chooses_threads:
        batch = batch.to(device)
        model.to(device)

        def seconds_of(precision: str, threads: int) -> float:
            with using_threads(threads):
                return measure_step_seconds(model, objective, batch, precision, train.accumulate)

        seconds = {precision: seconds_of(precision, most) for precision in precisions}
        precision = min(seconds, key=seconds.__getitem__)
        fastest = seconds[precision]
        while chooses_threads and threads > 1 and fastest < SHORT_SECONDS:
            fewer = seconds_of(precision, threads // 2)
            if fewer > FASTER * fastest:
                break
            threads, fastest = threads // 2, fewer
        if counts_steps:
            assert train.minutes is not None
            with using_threads(threads):
                update = measure_update_seconds(model, train.optimizer)
            steps = max(1, int(train.minutes * 60 / (REST * fastest + update)))
        model.to("cpu")
    if steps is None:
        steps = train.steps_of(steps_per_epoch)
    return replace(train, precision=precision, threads=threads, steps=steps)


def _precisions(device: torch.device) -> tuple[str, ...]:
    """Those that may be the fastest there."""
    if device.type == "cpu":
        return worthwhile_precisions()
    return ("bf16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ("fp32",)


__all__ = ["settled"]
