"""Calibration: held-out pairs turn a cosine into a percentile, a probability, and "nothing here matches"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from chiasm.metrics.retrieval import Groups, Vectors, number_groups, unit_rows

ROUNDING = 1e-6
"""Cosines that spread less than this do not differ: it is what fp32 adds."""
TAIL_PAIRS = 50
"""A tabulated share rests on at least so many pairs; what is rarer is extrapolated."""
PAIRS_AT_ONCE = 65_536

Cosines = Float[np.ndarray, " *shape"]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How large a share of pairs of one kind has at least a given cosine: a table, and an exponential tail above it.

    Tails of cosines fall faster than an exponential, so an extrapolated share is rather too large than too small.
    """

    cosines: tuple[float, ...]
    """Ascending."""
    shares: tuple[float, ...]
    """The share of pairs that reach each of `cosines`: descending from 1."""
    tail: float
    """By how much the pairs that reach the last of `cosines` exceed it on average."""

    def __post_init__(self):
        fits = len(self.cosines) == len(self.shares) > 0
        if not fits or (np.diff(self.cosines) <= 0).any() or (np.diff(self.shares) >= 0).any():
            raise ValueError("cosines must ascend, shares must descend, and there must be as many of both")
        if self.shares[0] != 1 or self.shares[-1] <= 0 or not self.tail > 0:
            raise ValueError("shares must lie above 0 and begin with 1; the tail must be above 0")

    @classmethod
    def of(cls, cosines: Float[np.ndarray, " n"]) -> Reach:
        """The table of n pairs' cosines: every hundredth, and the upper tail as far as the number of pairs bears."""
        shares = np.concatenate([1 - np.arange(100) / 100, 10 ** -np.arange(2.25, 9, 0.25)])
        shares = shares[shares >= min(0.5, TAIL_PAIRS / len(cosines))]
        quantiles = np.maximum.accumulate(np.quantile(cosines.astype(np.float64), 1 - shares))  # against rounding
        values, first = np.unique(quantiles, return_index=True)
        above = cosines[cosines >= values[-1]].astype(np.float64)
        tail = max(ROUNDING, float((above - values[-1]).mean()) if len(above) else 0.0)
        return cls(cosines=tuple(values.tolist()), shares=tuple(shares[first].tolist()), tail=tail)

    def share(self, cosines: Cosines) -> Cosines:
        """The share of pairs that reach each cosine."""
        logs = np.interp(cosines, self.cosines, np.log(self.shares))
        return np.exp(logs - np.maximum(0, cosines - self.cosines[-1]) / self.tail)

    def cosine(self, share: float) -> float:
        """The cosine that this share of pairs reaches, a share in (0, 1]."""
        if share < self.shares[-1]:
            return self.cosines[-1] + self.tail * float(np.log(self.shares[-1] / share))
        return float(np.interp(-np.log(share), -np.log(self.shares), self.cosines))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What cosines mean for one model on one kind of data; plain numbers, to be kept with the model.

    `probability` speaks of one pair by itself, with `prior` as its probability before looking: at 1/2, a true pair and
    a random false one are shown in turn. Among many candidates a high cosine comes up by luck, so whoever reports the
    best of n asks `surprise` or `matches` instead, which count the candidates. Both take candidates for independent;
    where they resemble each other luck is rarer than stated, so the error is on the careful side.
    """

    true: Reach
    false: Reach
    slope: float
    """Log-odds that the pair is true, per cosine; never negative."""
    offset: float
    """Log-odds at cosine 0."""
    prior: float

    def __post_init__(self):
        if not self.slope >= 0:
            raise ValueError(f"slope is {self.slope}; it must be at least 0")
        _check_share("prior", self.prior)

    @classmethod
    def fit(
        cls, positives: Float[np.ndarray, " t"], negatives: Float[np.ndarray, " f"], *, prior: float = 0.5
    ) -> Calibration:
        """From cosines of held-out true pairs, and of random false ones, both at least two and finite (ValueError).

        The probability is logistic in the cosine, with Platt's softened targets (1999): two parameters hold on a few
        dozen pairs, where isotonic regression makes steps of 0 and 1, and are exact for equally wide Gaussians. The
        two kinds weigh `prior` and 1 - `prior`, however many pairs there are of each.
        """
        _check_share("prior", prior)
        for name, cosines in (("true", positives), ("false", negatives)):
            if len(cosines) < 2:
                raise ValueError(f"There are {len(cosines)} {name} pairs; calibration needs at least two")
            if not np.isfinite(cosines).all():
                raise ValueError(f"There are cosines of {name} pairs that are not finite")
        slope, offset = _platt(positives.astype(np.float64), negatives.astype(np.float64), prior)
        return cls(true=Reach.of(positives), false=Reach.of(negatives), slope=slope, offset=offset, prior=prior)

    def probability(self, cosines: Cosines) -> Cosines:
        """The probability that each pair by itself is a true one."""
        return np.exp(-np.logaddexp(0.0, -(self.slope * cosines + self.offset)))

    def percentile(self, cosines: Cosines) -> Cosines:
        """The share of false pairs below each cosine, from 0 to 1."""
        return 1.0 - self.false.share(cosines)

    def surprise(self, cosines: Cosines, candidates: int) -> Cosines:
        """The probability that the best of so many false candidates reaches each cosine: 1 - (1 - share)^candidates."""
        _check_candidates(candidates)
        with np.errstate(divide="ignore"):  # a cosine that every false pair reaches has surprise 1
            return -np.expm1(candidates * np.log1p(-self.false.share(cosines)))

    def matches(self, cosines: Cosines, candidates: int, *, false_alarm_share: float = 0.05) -> Bool[np.ndarray, "*s"]:
        """Whether each cosine is too high to be the best of so many false candidates, but for that share of cases."""
        _check_share("false_alarm_share", false_alarm_share)
        return np.asarray(self.surprise(cosines, candidates) < false_alarm_share)

    def threshold(self, false_alarm_share: float, *, candidates: int = 1) -> float:
        """The cosine that the best of so many false candidates reaches in that share of cases."""
        _check_share("false_alarm_share", false_alarm_share)
        _check_candidates(candidates)
        return self.false.cosine(float(-np.expm1(np.log1p(-false_alarm_share) / candidates)))


def pair_cosines(
    images: Vectors,
    texts: Vectors,
    image_groups: Groups,
    text_groups: Groups,
    *,
    most: int = 1_000_000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " f"]]:
    """Cosines of true pairs, each text with one picture of its group, and of about `most` random pairs of two groups.

    ValueError where sizes do not fit, a vector is not finite, a text has no picture, or all are of one group.
    """
    pictures, words = unit_rows(images, image_groups, "images"), unit_rows(texts, text_groups, "texts")
    picture_ids, text_ids = number_groups(image_groups, text_groups)
    rng = np.random.default_rng(seed)
    order = np.argsort(picture_ids, kind="stable")
    first, last = (np.searchsorted(picture_ids[order], text_ids, side) for side in ("left", "right"))
    if (first == last).any():
        missing = int(np.argmax(first == last))
        raise ValueError(f"Text {missing} has no picture: none is of group {text_groups[missing]!r}")
    own = order[rng.integers(first, last)]
    picture, text = rng.integers(len(picture_ids), size=most), rng.integers(len(text_ids), size=most)
    false = picture_ids[picture] != text_ids[text]
    if not false.any():
        raise ValueError("All pictures and texts are of one group, so there are no false pairs")
    positives = _cosines(pictures, words, own, np.arange(len(text_ids)))
    return positives, _cosines(pictures, words, picture[false], text[false])


def _cosines(pictures: torch.Tensor, words: torch.Tensor, picture: np.ndarray, text: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(picture), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        parts.append((pictures[picture[part]] * words[text[part]]).sum(1).cpu().numpy())
    return np.concatenate(parts)


def _platt(positives: np.ndarray, negatives: np.ndarray, prior: float) -> tuple[float, float]:
    from scipy.optimize import minimize

    cosines = np.concatenate([positives, negatives])
    mean, width = cosines.mean(), cosines.std()
    start = np.log(prior / (1 - prior))
    if width < ROUNDING:
        return 0.0, float(start)
    t, f = len(positives), len(negatives)
    target = np.repeat([(t + 1) / (t + 2), 1 / (f + 2)], [t, f])
    weight = np.repeat([prior / t, (1 - prior) / f], [t, f])
    x = (cosines - mean) / width

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * x + parameters[1]
        error = weight * (np.exp(-np.logaddexp(0.0, -logits)) - target)
        value = (weight * (np.logaddexp(0.0, logits) - target * logits)).sum()
        return float(value), np.array([error @ x, error.sum()])

    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    bounds = [(0, None), (None, None)]  # a higher cosine is never less likely a true pair
    slope, offset = minimize(loss, [1.0, start], jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(slope / width), float(offset - slope * mean / width)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{name} is {share}; it must lie between 0 and 1")


def _check_candidates(candidates: int) -> None:
    if candidates < 1:
        raise ValueError(f"There are {candidates} candidates; there must be at least one")


__all__ = ["Calibration", "Reach", "pair_cosines"]
