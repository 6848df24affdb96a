"""How well a dual encoder tells labels: by prompts, class by class, and by a linear probe of its vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from chiasm.data.source import Source
from chiasm.evaluate.common import Estimate, LabelScores, embed_pictures, readable
from chiasm.metrics.classification import classification_scores, linear_probe
from chiasm.metrics.retrieval import mean_scores
from chiasm.predict import ClipPredictor
from chiasm.types import Example

PROBE_PICTURES = 10_000
"""A probe reads at most so many training pictures, from all over the split."""


def label_scores(
    predictor: ClipPredictor,
    images: Float[np.ndarray, "n e"],
    seen: Sequence[Example],
    same: Int[np.ndarray, " n"],
    templates: Sequence[str],
) -> tuple[dict[str, Estimate], LabelScores | None]:
    """`label_top1` and `label_top5` of labelled pictures among all labels of the split, whose prompts `templates` make.

    Nothing where there are fewer than two labels, or two that are the same tokens to the model. Intervals are over
    things, those of single classes over pictures.
    """
    labels = sorted({example.label for example in seen if example.label})
    if len(labels) < 2 or predictor.alike(labels) is not None:
        return {}, None
    rows = np.array([row for row, example in enumerate(seen) if example.label])
    number = {label: i for i, label in enumerate(labels)}
    truths = np.array([number[seen[row].label] for row in rows])
    found = classification_scores(images[rows] @ predictor.embed_labels(labels, templates).T, truths, labels)
    hits = {f"label_top{k}": found.scores[f"top_{k}"].per_item for k in (1, 5) if f"top_{k}" in found.scores}
    scores = {name: Estimate(s.value, s.low, s.high) for name, s in mean_scores(hits, same[rows]).items()}
    balanced = found.scores["mean_per_class"]
    scores["label_mean_per_class"] = Estimate(balanced.value, balanced.low, balanced.high)
    per_class = {name: Estimate(s.value, s.low, s.high) for name, s in found.per_class.items()}
    counts = Counter(truths.tolist())
    pictures = {label: counts[i] for label, i in number.items()}
    return scores, LabelScores(tuple(templates), pictures, per_class, found.confusion)


def training_features(predictor: ClipPredictor, source: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors and labels of labelled training pictures; None where nothing could be learnt from them."""
    if not len(source.splits.get("train", ())):
        return None
    seen, pictures = readable(source, "train", predictor.preprocess, 1.0)
    rows = np.array([row for row, example in enumerate(seen) if example.label], dtype=np.int64)
    rows = rows[:: max(1, -(-len(rows) // PROBE_PICTURES))]
    labels = np.array([seen[row].label for row in rows])
    counts = Counter(labels.tolist())
    if len(counts) < 2 or max(counts.values()) < 2:
        return None
    return embed_pictures(predictor, pictures, pictures.good[rows], "train"), labels


def probe_scores(
    train: tuple[np.ndarray, np.ndarray],
    images: Float[np.ndarray, "n e"],
    seen: Sequence[Example],
    same: Int[np.ndarray, " n"],
) -> dict[str, Estimate]:
    """`probe_top1`: share right, by a linear classifier of vectors, of pictures whose label is in the training data."""
    known = set(train[1].tolist())
    rows = np.array([row for row, example in enumerate(seen) if example.label in known], dtype=np.int64)
    if not len(rows):
        return {}
    right = linear_probe(*train, images[rows]).predictions == np.array([seen[row].label for row in rows])
    score = mean_scores({"probe_top1": right.astype(float)}, same[rows])["probe_top1"]
    return {"probe_top1": Estimate(score.value, score.low, score.high)}


__all__ = ["label_scores", "probe_scores", "training_features"]
