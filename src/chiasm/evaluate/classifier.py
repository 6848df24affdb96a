"""How good a classifier is: its answers, by class and by kind of question, and how much it needs the picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from chiasm.data.loader import Loader
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.common import Estimate, Items, LabelScores, SplitScores, group_of, kind_of, readable
from chiasm.metrics.captions import Score
from chiasm.metrics.classification import Classification, calibration_error, classification_scores
from chiasm.metrics.retrieval import mean_scores
from chiasm.predict import ClassifierPredictor
from chiasm.predict.loading import ROWS, loader_of
from chiasm.progress import track
from chiasm.types import Example

COLUMNS = "accuracy", "accuracy_top5", "baseline", "log_loss", "calibration_error", "shuffled_drop", "unknown_labels"
MOST_KINDS = 20
"""First tags of more kinds than this are keywords, not kinds of questions."""
SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Answered:
    """What the model said of one example, and what was right."""

    key: str
    text: str
    """The question or the caption; empty where the model reads none."""
    answer: str
    probability: float
    label: str
    kind: str


def evaluate_classifier(
    predictor: ClassifierPredictor, source: Source, splits: Sequence[str], *, max_broken_share: float = 0.05
) -> list[SplitScores]:
    """Ask the model about every labelled example of the splits; intervals are over groups of what shows the same thing.

    `accuracy`, `accuracy_top5` (of six classes or more), `accuracy_per_class` (the mean over classes), and
    `accuracy_<kind>` by the kind of question. A label that the model does not know counts as wrong; `unknown_labels` is
    the share of those, where there are some. `log_loss` (in nats, of known labels) and `calibration_error` judge the
    probabilities. `baseline` is what is right by the words alone: the commonest answer of the training split to the
    same text, or to all for a text that it has not. `shuffled_drop` is by how much the accuracy falls when every
    picture is exchanged for another: 0 where the picture is ignored. UserError where a split has no labels.
    """
    return [_evaluate_split(predictor, source, split, max_broken_share) for split in splits if len(source.split(split))]


def _evaluate_split(predictor: ClassifierPredictor, source: Source, split: str, max_broken_share: float) -> SplitScores:
    _, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    loader = loader_of(predictor.bundle, source.split(split), pictures, f"{source.name} {split}")
    seen = [source.split(split)[int(row)] for row in loader.rows]
    rows = np.flatnonzero([bool(example.label) for example in seen])
    if not len(rows):
        raise UserError(f"No example of the split {split!r} has a label or an answer", source.understood)
    asked = [seen[row] for row in rows]
    groups = np.array([group_of(example) for example in asked])
    unknown = sorted({example.label for example in asked} - set(predictor.classes))
    names = (*predictor.classes, *unknown)
    truths = np.array([names.index(example.label) for example in asked])

    def ask(exchanged: np.ndarray | None = None) -> tuple[np.ndarray, Classification]:
        own = _probabilities(predictor, loader, exchanged)[rows]
        never = np.full((len(rows), len(unknown)), -1.0)
        return own, classification_scores(np.hstack([own, never]), truths, names)

    own, found = ask()
    right = found.scores["top_1"].per_item
    values = {"accuracy": right} | _baseline(predictor, source, asked)
    if len(predictor.classes) > 5:
        values["accuracy_top5"] = found.scores["top_5"].per_item
    if unknown:
        values["unknown_labels"] = (truths >= len(predictor.classes)).astype(float)
    exchanged = _exchanged(seen) if predictor.sees_pictures else None
    if exchanged is not None:
        values["shuffled_drop"] = right - ask(exchanged)[1].scores["top_1"].per_item
    kinds = _by_kind(asked, right, groups)
    scores = _means(values, groups) | _log_loss(own, truths, groups) | kinds
    scores["accuracy_per_class"] = _estimate(found.scores["mean_per_class"])
    scores["calibration_error"] = _estimate(calibration_error(own.max(1), right, groups))
    told = [_told(predictor, example, row) for example, row in zip(asked, own, strict=True)]
    columns = tuple(name for name in (*COLUMNS, *kinds) if name in scores)
    broken = (*pictures.broken, *(loader.sounds.broken if loader.sounds else ()))
    labels = _label_scores(found, truths, names)
    compared = {"accuracy": right}
    if "baseline" in values:
        compared["accuracy_baseline"] = values["baseline"]
    if "shuffled_drop" in values:
        compared["accuracy_shuffled"] = right - values["shuffled_drop"]
    items = Items.of(asked, compared)
    return SplitScores(split, len(np.unique(groups)), scores, columns, told, broken, labels, items=items)


def _probabilities(
    predictor: ClassifierPredictor, loader: Loader, exchanged: np.ndarray | None
) -> Float[np.ndarray, "n classes"]:
    """Of every example that can be read, in order; `exchanged` names the one whose picture each gets instead."""
    found = []
    parts = range(0, len(loader), ROWS)
    doing = "asking" if exchanged is None else "exchanging pictures"
    for start, batch in zip(track(parts, doing, len(parts)), loader.in_order(ROWS), strict=True):
        if exchanged is not None:
            others = loader.pictures.pixels_of(loader.rows[exchanged[start : start + ROWS]])
            batch = replace(batch, images=predictor.images(others))
        found.append(predictor.probabilities_of(batch))
    return np.concatenate(found)


def _exchanged(examples: Sequence[Example]) -> Int[np.ndarray, " n"] | None:
    """For each example one that shows something else: groups follow each other in a circle; None where all are one."""
    first: dict[str, int] = {}
    for row, example in enumerate(examples):
        first.setdefault(group_of(example), row)
    if len(first) < 2:
        return None
    groups = [list(first)[i] for i in np.random.default_rng(SHUFFLE_SEED).permutation(len(first))]
    following = dict(zip(groups, [*groups[1:], groups[0]], strict=True))
    return np.array([first[following[group_of(example)]] for example in examples])


def _baseline(predictor: ClassifierPredictor, source: Source, asked: Sequence[Example]) -> dict[str, np.ndarray]:
    """Which examples are right by the words alone; nothing where there are no training labels."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for example in source.split("train") if "train" in source.splits else ():
        for text in example.texts if example.label and predictor.reads_texts else ():
            answers[text][example.label] += 1
        answers[""][example.label] += bool(example.label)
    if not answers[""].total():
        return {}
    known = {text: found.most_common(1)[0][0] for text, found in answers.items()}
    right = [known.get(e.texts[0] if predictor.reads_texts else "", known[""]) == e.label for e in asked]
    return {"baseline": np.array(right, dtype=float)}


def _log_loss(own: np.ndarray, truths: np.ndarray, groups: np.ndarray) -> dict[str, Estimate]:
    """Of the examples whose label the model knows; of no such example, nothing."""
    known = np.flatnonzero(truths < own.shape[1])
    if not len(known):
        return {}
    losses = -np.log(np.maximum(own[known, truths[known]], np.finfo(np.float64).tiny))
    return _means({"log_loss": losses}, groups[known])


def _by_kind(asked: Sequence[Example], right: np.ndarray, groups: np.ndarray) -> dict[str, Estimate]:
    kinds = np.array([kind_of(example) for example in asked])
    names = [str(kind) for kind in np.unique(kinds) if kind]
    if not 2 <= len(names) <= MOST_KINDS:
        return {}
    return {f"accuracy_{kind}": _means({kind: right[kinds == kind]}, groups[kinds == kind])[kind] for kind in names}


def _means(values: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Estimate]:
    return {name: _estimate(score) for name, score in mean_scores(values, groups).items()}


def _estimate(score: Score) -> Estimate:
    return Estimate(score.value, score.low, score.high)


def _label_scores(found: Classification, truths: np.ndarray, names: Sequence[str]) -> LabelScores:
    counts = Counter(truths.tolist())
    per_class = {name: _estimate(score) for name, score in found.per_class.items()}
    return LabelScores((), {name: counts[i] for i, name in enumerate(names)}, per_class, found.confusion)


def _told(predictor: ClassifierPredictor, example: Example, row: Float[np.ndarray, " classes"]) -> Answered:
    best = int(row.argmax())
    return Answered(
        key=example.key,
        text=example.texts[0] if predictor.reads_texts else "",
        answer=predictor.classes[best],
        probability=round(float(row[best]), 4),
        label=example.label,
        kind=kind_of(example),
    )


__all__ = ["Answered", "evaluate_classifier"]
