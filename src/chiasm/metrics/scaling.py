"""Would more data help? A power law with a floor through the losses at several numbers of examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from chiasm.metrics.comparing import LEVEL, Estimate

EXPONENTS = np.geomspace(0.01, 4, 120)
"""What is tried: from a loss that hardly falls to one that is at its floor as soon as there is data."""
VALUES = 200
"""Tried of a quantity to find the ends of its interval, and as many again between the neighbours of each end."""
HARDLY = 0.05
"""To save less than this share of the loss by twice the data is hardly a help."""
SURELY = 0.01
"""To save more than this share is one."""


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """The law loss = floor + reach · (examples / most)^-exponent, `most` being the most examples that were tried."""

    examples: tuple[int, ...]
    """Ascending."""
    losses: tuple[Estimate, ...]
    """Means over seeds; their intervals share one estimate of the noise."""
    floor: float
    """What no amount of data goes below; never negative."""
    reach: float
    """What is above the floor at the most examples."""
    exponent: Estimate
    """Between 0.01 and 4, and anything between these where the loss does not fall."""
    doubled: Estimate
    """The loss expected of twice the most examples."""
    saved: Estimate
    """By how much that is lower than at the most examples; never negative."""

    def loss(self, examples: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """What the law says of n numbers of examples."""
        return self.floor + self.reach * (examples / self.examples[-1]) ** -self.exponent.value


def fit_scaling(examples: Int[np.ndarray, " f"], losses: Float[np.ndarray, "f seeds"]) -> ScalingFit:
    """Fit a power law with a floor (1712.00409, 2001.08361) to the losses at f numbers of training examples.

    Three parameters through three or four points are loosely held: floor and exponent stand in for each other. Hence
    no curvature at the best fit, but profiles: the interval of a quantity is all its values for which some law, with a
    floor of 0 or more, has a squared error of at most the best law's plus the noise times Student's t squared.

    The noise is that of all seeds about their means, together with the misfit of the points, or the misfit alone where
    that is larger. With one seed it is the misfit alone, of the law or of one without a floor, which leaves one degree
    of freedom more: whichever allows less. It is taken for equally large at all points; where it falls with the loss,
    intervals are too wide.

    ValueError for fewer than three different numbers of examples, for one below 1, for no seeds, and for a loss that is
    negative or not finite.
    """
    _check(examples, losses)
    order = np.argsort(examples)
    counts, by_seed = examples[order], losses[order].astype(np.float64)
    means, shares = by_seed.mean(1), counts / counts[-1]
    exponent, floor, reach, error = _best_law(shares, means)
    noise, allowed = _noise(shares, by_seed, error)
    exponents = _exponents(shares, means, exponent, error + allowed)
    left = 2.0**-exponent  # of what is above the floor, after doubling
    most = float(means.max() + 2 * np.sqrt(noise))

    def estimate(value: float, errors: Callable[..., np.ndarray]) -> Estimate:
        return _interval(value, most, lambda values: errors(shares, means, exponents, values) <= error + allowed)

    half = float(np.sqrt(allowed))
    return ScalingFit(
        examples=tuple(counts.tolist()),
        losses=tuple(Estimate(value=m, low=max(0.0, m - half), high=m + half) for m in means.tolist()),
        floor=floor,
        reach=reach,
        exponent=Estimate(value=exponent, low=float(exponents[0]), high=float(exponents[-1])),
        doubled=estimate(floor + reach * left, _errors_doubled),
        saved=estimate(reach * (1 - left), _errors_saved),
    )


def verdict(fit: ScalingFit) -> str:
    """Would more data help? A sentence with its uncertainty."""
    now, doubled, saved = fit.floor + fit.reach, fit.doubled, fit.saved
    span = f"({doubled.low:.3g} to {doubled.high:.3g})"
    if saved.high < HARDLY * now:
        less = f"by about {saved.value:.3f} ({saved.low:.3f} to {saved.high:.3f})"
        return f"More data would hardly help: twice as much would lower the validation loss, {now:.3g} now, {less}."
    if saved.low > SURELY * now:
        return f"Twice the data would lower the validation loss from {now:.3g} to about {doubled.value:.3g} {span}."
    start = "It cannot be told from these points whether more data would help: with twice as much"
    return f"{start} the validation loss, {now:.3g} now, may be anything from {doubled.low:.3g} to {doubled.high:.3g}."


def _laws(shares: np.ndarray, means: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best floor and reach for each exponent, neither of them negative, and their squared error."""
    powers = shares ** -exponents[:, None]
    centred = powers - powers.mean(1, keepdims=True)
    reach = np.maximum(0.0, centred @ means / (centred**2).sum(1))
    floor = means.mean() - reach * powers.mean(1)
    below = floor < 0
    reach = np.where(below, powers @ means / (powers**2).sum(1), reach)
    floor = np.where(below, 0.0, floor)
    return floor, reach, ((means - floor[:, None] - reach[:, None] * powers) ** 2).sum(1)


def _best_law(shares: np.ndarray, means: np.ndarray) -> tuple[float, float, float, float]:
    """Exponent, floor, reach and squared error."""
    tried = EXPONENTS
    for _ in range(3):
        floor, reach, errors = _laws(shares, means, tried)
        best = int(errors.argmin())
        found = float(tried[best]), float(floor[best]), float(reach[best]), float(errors[best])
        tried = np.linspace(tried[max(0, best - 1)], tried[min(len(tried) - 1, best + 1)], 101)
    return found


def _noise(shares: np.ndarray, by_seed: np.ndarray, error: float) -> tuple[float, float]:
    """The variance of a point, and by how much a law's squared error may exceed the best one's."""
    from scipy.special import stdtrit

    points, seeds = by_seed.shape
    spare = max(0, points - 3)
    if seeds > 1:
        freedom = points * (seeds - 1) + spare
        variance = (float(by_seed.var(1).sum()) + error) / freedom
        found = [(max(variance, error / spare if spare else 0.0), freedom)]
    else:
        powers, losses = shares ** -EXPONENTS[:, None], by_seed[:, 0]
        reach = powers @ losses / (powers**2).sum(1)
        without_floor = float(((losses - reach[:, None] * powers) ** 2).sum(1).min())
        found = [(without_floor / (points - 2), points - 2)] + ([(error / spare, spare)] if spare else [])
    allowed = [variance * float(stdtrit(freedom, (1 + LEVEL) / 2)) ** 2 for variance, freedom in found]
    least = int(np.argmin(allowed))
    return found[least][0], allowed[least]


def _exponents(shares: np.ndarray, means: np.ndarray, best: float, most_error: float) -> np.ndarray:
    """Exponents of laws with at most that squared error, from the least to the greatest, the best one among them."""
    grids = [np.geomspace(best, end, VALUES) for end in (EXPONENTS[0], EXPONENTS[-1])]
    low, high = (_farthest(grid, lambda tried: _laws(shares, means, tried)[2] <= most_error) for grid in grids)
    return np.sort(np.append(np.geomspace(low, high, len(EXPONENTS)), best))


def _errors_doubled(shares: np.ndarray, means: np.ndarray, exponents: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least squared error of a law that says each of these losses for twice the data."""
    left = 2.0 ** -exponents[:, None]
    rise = shares ** -exponents[:, None] - left  # from there to the points, for a reach of 1
    off = means - values[:, None]
    product, square = rise @ off.T, (rise**2).sum(1, keepdims=True)
    reach = np.clip(product / square, 0, values / left)  # a larger one has a negative floor
    return (reach * (reach * square - 2 * product)).min(0) + (off**2).sum(1)


def _errors_saved(shares: np.ndarray, means: np.ndarray, exponents: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least squared error of a law by which twice the data saves each of these losses."""
    powers = shares ** -exponents[:, None]
    reach = values / (1 - 2.0 ** -exponents[:, None])
    floor = np.maximum(0.0, means.mean() - reach * powers.mean(1, keepdims=True))
    above = reach * (reach * (powers**2).sum(1, keepdims=True) - 2 * (powers @ means)[:, None])
    down = floor * (len(means) * floor - 2 * means.sum() + 2 * reach * powers.sum(1, keepdims=True))
    return (above + down).min(0) + (means**2).sum()


def _interval(value: float, most: float, kept: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """From the least to the greatest kept value between 0 and `most`, and never without `value` itself."""
    low = _farthest(np.linspace(value, 0, VALUES), kept)
    return Estimate(value=value, low=low, high=_farthest(np.linspace(value, max(value, most), VALUES), kept))


def _farthest(outward: np.ndarray, kept: Callable[[np.ndarray], np.ndarray]) -> float:
    """The last kept of these values and of as many between it and the next; the first counts as kept."""
    for _ in range(2):
        last = int(np.flatnonzero(kept(outward)).max(initial=0))
        outward = np.linspace(outward[last], outward[min(last + 1, len(outward) - 1)], VALUES)
    return float(outward[0])


def _check(examples: np.ndarray, losses: np.ndarray) -> None:
    if len(np.unique(examples)) < 3 or len(np.unique(examples)) < len(examples):
        raise ValueError(f"Losses are at {examples.tolist()} examples; a law needs three different numbers, none twice")
    if examples.min() < 1:
        raise ValueError(f"A loss is at {examples.min()} examples; there must be at least one")
    if losses.shape[1] == 0:
        raise ValueError("There are no seeds, so there are no losses to fit")
    if not np.isfinite(losses).all() or losses.min() < 0:
        point, seed = np.argwhere(~np.isfinite(losses) | (losses < 0))[0]
        raise ValueError(f"The loss {losses[point, seed]} of point {point}, seed {seed} must be finite and at least 0")


__all__ = ["ScalingFit", "fit_scaling", "verdict"]
