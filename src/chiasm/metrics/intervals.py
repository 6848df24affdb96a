"""Intervals for scores: the percentile bootstrap over items, from sums of per-item statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DRAWS_AT_ONCE = 4_000_000
"""Bounds the memory: about 100 MB."""


class Interval(NamedTuple):
    """Where a score lies with the confidence that was asked for."""

    low: float
    high: float


def bootstrap_interval(
    statistics: Float[np.ndarray, "n k"],
    aggregate: Callable[[Float[np.ndarray, "resamples k"]], Float[np.ndarray, " resamples"]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of a score that `aggregate` makes of the statistics' sums over n items."""
    return percentile_interval(aggregate(resampled_sums(statistics, resamples=resamples, seed=seed)), level=level)


def mean_interval(
    values: Float[np.ndarray, " n"], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The bootstrap interval of the mean of n values."""
    sums = resampled_sums(values[:, None], resamples=resamples, seed=seed)
    return percentile_interval(sums[:, 0] / len(values), level=level)


def resampled_sums(
    statistics: Float[np.ndarray, "n k"], *, resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "resamples k"]:
    """Sums of the statistics over n items drawn with replacement, `resamples` times; equal seeds draw equal items.

    ValueError where there are no items.
    """
    items, rng = len(statistics), np.random.default_rng(seed)
    if items == 0:
        raise ValueError("There are no items, so there is nothing to resample")
    at_once = max(1, DRAWS_AT_ONCE // items)
    sums = np.empty((resamples, statistics.shape[1]))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(items, size=(rows, items)) + items * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
        sums[start : start + rows] = counts.astype(np.float64) @ statistics
    return sums


def percentile_interval(scores: Float[np.ndarray, " resamples"], *, level: float = 0.95) -> Interval:
    """The middle `level` of resampled scores; ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


__all__ = ["Interval", "bootstrap_interval", "mean_interval", "percentile_interval", "resampled_sums"]
