"""Classification: top-k, scores by class and confusions with intervals, and the linear probe of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from chiasm.metrics.captions import Score
from chiasm.metrics.intervals import bootstrap_interval, mean_interval
from chiasm.metrics.retrieval import Groups, Ranks
from chiasm.progress import track

TIE = 1e-6
"""Scores closer than this times the row's largest magnitude are equal: they differ by fp32's rounding."""
STRENGTHS = tuple(10.0**power for power in range(0, -7, -1))
"""From strong to weak: each fit starts where the last one ended."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What `classification_scores` found."""

    scores: dict[str, Score]
    """"top_1", "top_5" where there are more than five classes, and "mean_per_class"."""
    per_class: dict[str, Score]
    """Top-1 within each class that has items."""
    confusion: Float[np.ndarray, "c c"]
    """Items of the row's class that were given the column's; one whose best classes tie is shared among these."""


def classification_scores(
    scores: Float[np.ndarray, "n c"],
    labels: Int[np.ndarray, " _n"],
    names: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Classification:
    """Scores of n items by their similarities to (or logits of) c classes; `labels` are the true classes' numbers.

    Ties count as in retrieval: every order of them is equally likely, so equal scores give chance. "mean_per_class" is
    the mean over classes of the share right within each; its interval resamples items, each weighing one by the size
    of its class. ValueError where sizes do not fit, a label has no class, or a score is not finite.
    """
    _check(scores, labels, names)
    ranks = _ranks(scores, labels)
    bootstrap = {"resamples": resamples, "seed": seed, "level": level}

    def mean(values: np.ndarray) -> Score:
        return Score(value=float(values.mean()), **mean_interval(values, **bootstrap)._asdict(), per_item=values)

    top = ranks.hits(1)
    weights = 1.0 / np.bincount(labels, minlength=len(names))[labels]
    balanced = np.column_stack([weights * top, weights])
    low, high = bootstrap_interval(balanced, lambda sums: sums[:, 0] / sums[:, 1], **bootstrap)
    found = {"top_1": mean(top)} | ({"top_5": mean(ranks.hits(5))} if len(names) > 5 else {})
    found["mean_per_class"] = Score(value=float(np.average(top, weights=weights)), low=low, high=high, per_item=top)
    tops = {name: top[labels == label] for label, name in enumerate(names)}
    per_class = {name: mean(own) for name, own in tops.items() if len(own)}
    return Classification(scores=found, per_class=per_class, confusion=_confusion(scores, labels))


def calibration_error(
    confidences: Float[np.ndarray, " n"],
    right: Float[np.ndarray, " n"],
    groups: Groups,
    *,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Score:
    """By how much the confidence in an answer misses the share of right ones, on average (ECE, 1706.04599, section 2).

    In `bins` equally wide bins of confidence, the gap between both means counts by the bin's share of items. The
    interval resamples whole groups of items; as the gaps are absolute, few items show some error even of a model
    without one.
    """
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    _, group = np.unique(groups, return_inverse=True)
    gaps = np.zeros((group.max() + 1, bins))
    np.add.at(gaps, (group, place), confidences - right)

    def error(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums[:, :-1]).sum(1) / sums[:, -1]

    statistics = np.column_stack([gaps, np.bincount(group)])
    low, high = bootstrap_interval(statistics, error, resamples=resamples, seed=seed, level=level)
    own = float(error(statistics.sum(0)[None])[0])
    return Score(value=own, low=min(low, own), high=high, per_item=np.abs(confidences - right))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `linear_probe` made of the test features."""

    predictions: Shaped[np.ndarray, " q"]
    logits: Float[np.ndarray, "q c"]
    classes: Shaped[np.ndarray, " c"]
    """The training labels, sorted: what the columns of `logits` stand for."""
    strength: float
    """The penalty that did best on the validation part."""


def linear_probe(
    train_x: Float[np.ndarray, "n d"],
    train_y: Shaped[np.ndarray, " _n"],
    test_x: Float[np.ndarray, "q d"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    validation_share: float = 0.2,
    seed: int = 0,
) -> Probe:
    """What a linear classifier reads from features: multinomial logistic regression, as CLIP is probed (2103.00020).

    It minimises the mean cross-entropy plus strength / 2 times the squared weights (the bias is free), on features
    centred and divided by their common standard deviation. The strength is the one with the least cross-entropy on a
    part of every class that has two items or more; then all of `train_x` is fitted. ValueError where sizes do not fit,
    a feature is not finite, there is but one class, or no class has two items though there are strengths to choose.
    """
    _check_probe(train_x, train_y, test_x, strengths)
    classes, labels = np.unique(train_y, return_inverse=True)
    mean, scale = train_x.mean(axis=0, dtype=np.float64), train_x.std(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean(scale**2)) or 1.0
    train, test = (train_x - mean) / scale, (test_x - mean) / scale
    strength = strengths[0]
    if len(strengths) > 1:
        held = _validation_part(labels, validation_share, seed)
        strength = _best_strength(train, labels, held, len(classes), strengths)
    weights = fit_logistic(train, labels, len(classes), strength)
    logits = _logits(weights, test)
    return Probe(predictions=classes[logits.argmax(1)], logits=logits, classes=classes, strength=strength)


def fit_logistic(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    classes: int,
    strength: float,
    start: Float[np.ndarray, "d+1 c"] | None = None,
) -> Float[np.ndarray, "d+1 c"]:
    """Weights, and the bias as their last row, that minimise mean cross-entropy + strength / 2 * |weights|^2."""
    from scipy.optimize import minimize

    shape = (x.shape[1] + 1, classes)
    rows = np.arange(len(x))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        logs = _log_softmax(_logits(weights, x))
        error = np.exp(logs)
        error[rows, labels] -= 1.0
        penalised = strength * weights[:-1]
        gradient = np.vstack([x.T @ error / len(x) + penalised, error.mean(axis=0)])
        return -logs[rows, labels].mean() + 0.5 * float((penalised * weights[:-1]).sum()), gradient.ravel()

    begin = np.zeros(shape) if start is None else start
    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-7}
    return minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)


def _ranks(scores: np.ndarray, labels: np.ndarray) -> Ranks:
    right = np.take_along_axis(scores, labels[:, None], axis=1)
    margin = TIE * np.abs(scores).max(axis=1, keepdims=True)
    better = (scores > right + margin).sum(axis=1)
    tied = (scores >= right - margin).sum(axis=1) - better - 1
    return Ranks(better=better, tied=tied, own=np.ones_like(better))


def _confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    margin = TIE * np.abs(scores).max(axis=1, keepdims=True)
    best = scores >= scores.max(axis=1, keepdims=True) - margin
    item, given = np.nonzero(best)
    confusion = np.zeros((scores.shape[1], scores.shape[1]))
    np.add.at(confusion, (labels[item], given), 1.0 / best.sum(axis=1)[item])
    return confusion


def _best_strength(
    x: np.ndarray, labels: np.ndarray, held: np.ndarray, classes: int, strengths: Sequence[float]
) -> float:
    losses, weights = [], None
    for strength in track(strengths, "Probing", len(strengths)):
        weights = fit_logistic(x[~held], labels[~held], classes, strength, weights)
        logs = _log_softmax(_logits(weights, x[held]))
        losses.append(-logs[np.arange(len(logs)), labels[held]].mean())
    return strengths[int(np.argmin(losses))]


def _validation_part(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """True for that share of each class, at least one and never all of it."""
    held = np.zeros(len(labels), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(labels))
    for label in range(labels.max() + 1):
        own = order[labels[order] == label]
        held[own[: min(len(own) - 1, max(1, round(share * len(own))))]] = True
    if not held.any():
        raise ValueError("No class has two items, so none can be held out to choose the strength")
    return held


def _logits(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x @ weights[:-1] + weights[-1]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _check(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    if scores.shape != (len(labels), len(names)):
        raise ValueError(f"Scores of shape {scores.shape} do not fit {len(labels)} labels and {len(names)} names")
    if len(labels) == 0:
        raise ValueError("There are no items to score")
    if len(set(names)) < len(names):
        raise ValueError("Two classes have one name")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"Labels run from {labels.min()} to {labels.max()}; there are {len(names)} classes")
    if not np.isfinite(scores).all():
        raise ValueError(f"The scores of item {int(np.isfinite(scores).all(axis=1).argmin())} are not finite")


def _check_probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, strengths: Sequence[float]) -> None:
    if len(train_x) != len(train_y):
        raise ValueError(f"{len(train_y)} labels do not fit {len(train_x)} rows of features")
    if len(np.unique(train_y)) < 2:
        raise ValueError("A probe needs at least two classes")
    if not (np.isfinite(train_x).all() and np.isfinite(test_x).all()):
        raise ValueError("There are features that are not finite")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths are {list(strengths)}; each must be above 0, and there must be one")


__all__ = [
    "STRENGTHS",
    "Classification",
    "Probe",
    "calibration_error",
    "classification_scores",
    "fit_logistic",
    "linear_probe",
]
