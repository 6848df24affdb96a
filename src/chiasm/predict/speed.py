"""Which precision, and how many rows at once, are fastest on this machine: measured in two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from chiasm.machine import using_threads

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
FEW_ROWS = 4
"""Rows on which the precisions are compared."""
ROWS = 32
"""Taken where nothing is measured, or the time runs out while larger batches still pay."""
MOST_ROWS = 128
BUDGET_SECONDS = 2.0
WORTH = 0.97
"""A larger batch has to take at most this share of the time per row: it holds more memory, and splits less evenly."""


@dataclass(frozen=True)
class Speed:
    """The fastest way that was found, and rows a second on one core by precision."""

    precision: Precision
    rows: int
    rows_per_second: dict[Precision, float]


def fastest(embed: Mapping[Precision, Callable[[int], object]], budget_seconds: float = BUDGET_SECONDS) -> Speed:
    """Compare functions that embed so many rows, on one core as in `on_cores`; then larger batches of the better one.

    Batches grow as long as that pays, and the time is expected to suffice for the next.
    """
    start = time.perf_counter()
    with using_threads(1):
        seconds: dict[Precision, float] = {precision: _row_seconds(run, FEW_ROWS) for precision, run in embed.items()}
        best: Precision = min(seconds, key=lambda precision: seconds[precision])
        rows, per_row = FEW_ROWS, seconds[best]
        while 2 * rows <= MOST_ROWS and time.perf_counter() - start + 2 * 2 * rows * per_row < budget_seconds:
            larger = _row_seconds(embed[best], 2 * rows)
            if larger > WORTH * per_row:
                break
            rows, per_row = 2 * rows, larger
        else:
            rows = max(rows, ROWS)
    seconds[best] = per_row
    speeds: dict[Precision, float] = {precision: 1 / taken for precision, taken in seconds.items()}
    return Speed(best, rows, speeds)


def _row_seconds(run: Callable[[int], object], rows: int) -> float:
    """The shorter of two calls: the first of a size loads kernels, and either may have been disturbed."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run(rows)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / rows


__all__ = ["DTYPES", "ROWS", "Precision", "Speed", "fastest"]
