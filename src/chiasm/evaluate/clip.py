"""How good a dual encoder is: finding texts by pictures and pictures by texts, and what its cosines mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.common import Estimate, Items, Search, SplitScores, embed_pictures, readable
from chiasm.evaluate.labels import label_scores, probe_scores, training_features
from chiasm.evaluate.things import things, things_and_texts
from chiasm.metrics import Ranks, rank_items
from chiasm.metrics.calibration import Calibration, pair_cosines
from chiasm.metrics.retrieval import mean_scores, median_score
from chiasm.predict import ClipPredictor
from chiasm.predict.loading import ROWS
from chiasm.types import Example

KS = (1, 5, 10)
COLUMNS = (
    "image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5", "all_texts_r1", "all_texts_r5",
    "label_top1", "probe_top1",
)  # fmt: skip
SEARCHES, HITS = 6, 6
MOST_TEXTS = 50_000
"""Above so many different texts, a picture is not looked for among all texts of the data, only among the split's."""
FEWEST_PICTURES = 20
"""With fewer held-out pictures, cosines are not calibrated."""


@dataclass(frozen=True)
class Found:
    """The text of a split that the model finds nearest to one picture, and where the picture's own text ranks."""

    key: str
    found: str
    cosine: float
    rank: float | None
    """None for a picture without a text."""

    texts: tuple[str, ...]
    label: str


def evaluate_clip(
    predictor: ClipPredictor,
    source: Source,
    splits: Sequence[str],
    *,
    templates: Sequence[str] = ("{}",),
    probe: bool = False,
    max_broken_share: float = 0.05,
) -> list[SplitScores]:
    """Retrieval both ways within each split, by what is the same thing (see `things`), chance for a collapsed model.

    `image_to_text_r<k>`: share of pictures with an own text among the first k texts of the split; `text_to_image_r<k>`
    the other way round; `all_texts_r<k>`: among all texts of the data, other splits' too. Where pictures have labels:
    `label_top1`, `label_top5` and `label_mean_per_class`, the prompts made by `templates`, among all labels of the
    split; with `probe`, `probe_top1` of a linear classifier. UserError where no picture of a split has a text.
    """
    texts = _all_texts(predictor, source)
    train = training_features(predictor, source) if probe else None
    results = []
    for split in splits:
        if len(source.split(split)):
            seen, pictures = readable(source, split, predictor.preprocess, max_broken_share)
            if not any(example.texts for example in seen):
                raise UserError(f"No picture of the split {split!r} has a text", source.understood)
            images = embed_pictures(predictor, pictures, pictures.good, split)
            same = things(seen)
            scores, told, searches = _retrieval(predictor, images, seen, same, texts)
            by_label, labels = label_scores(predictor, images, seen, same, templates)
            scores |= by_label
            if train is not None:
                scores |= probe_scores(train, images, seen, same)
            columns = tuple(name for name in COLUMNS if name in scores)
            broken = pictures.broken
            items = _items(seen, told)
            results.append(SplitScores(split, len(seen), scores, columns, told, broken, labels, searches, items=items))
    return results


def calibrate(predictor: ClipPredictor, source: Source, split: str) -> Calibration | None:
    """What cosines mean, from a held-out split: true pairs against random pairs of different things.

    None where the split is too small, or shows one thing only.
    """
    seen, pictures = readable(source, split, predictor.preprocess, 1.0)
    same = things(seen)
    pairs = things_and_texts(same, seen)
    if len(seen) < FEWEST_PICTURES or len(set(same.tolist())) < 2 or len(pairs) < 2:
        return None
    images = embed_pictures(predictor, pictures, pictures.good, split)
    texts = predictor.embed_texts([text for _, text in pairs], truncate=True)
    return Calibration.fit(*pair_cosines(images, texts, same, np.array([thing for thing, _ in pairs])))


def _all_texts(predictor: ClipPredictor, source: Source) -> dict[str, np.ndarray]:
    """Every different text of the data, in order, with its vector; none where there are too many."""
    texts: dict[str, None] = {}
    for example in source.examples:
        texts.update(dict.fromkeys(example.texts))
        if len(texts) > MOST_TEXTS:
            return {}
    return dict(zip(texts, predictor.embed_texts(list(texts), truncate=True), strict=True))


def _retrieval(
    predictor: ClipPredictor,
    images: Float[np.ndarray, "n e"],
    seen: Sequence[Example],
    same: Int[np.ndarray, " n"],
    known: dict[str, np.ndarray],
) -> tuple[dict[str, Estimate], list[Found], list[Search]]:
    """Scores, what is told of each picture, and some searches to look at; pictures without a text are candidates."""
    pairs = things_and_texts(same, seen)
    words, owners = [text for _, text in pairs], np.array([thing for thing, _ in pairs])
    texts = np.stack([known[text] for text in words]) if known else predictor.embed_texts(words, truncate=True)
    asked = np.flatnonzero([bool(example.texts) for example in seen])
    ranks = rank_items(images[asked], texts, same[asked], owners)
    scores = {
        **_scores("image_to_text", ranks, same[asked]),
        **_scores("text_to_image", rank_items(texts, images, owners, same), owners),
    }
    if known:
        own = set(words)
        others = [vector for text, vector in known.items() if text not in own]
        scores |= _among_all(images[asked], same[asked], texts, owners, others)
    expected: list[float | None] = [None] * len(seen)
    for row, rank in zip(asked.tolist(), ranks.expected().tolist(), strict=True):
        expected[row] = rank
    return scores, _told(images, texts, words, seen, expected), _searches(images, texts, words, owners, same)


def _scores(direction: str, ranks: Ranks, groups: Int[np.ndarray, " q"]) -> dict[str, Estimate]:
    means = mean_scores(ranks.per_query(KS), groups)
    found = {f"r{k}": means[f"recall_at_{k}"] for k in KS} | {"mrr": means["mean_reciprocal_rank"]}
    found["median_rank"] = median_score(ranks.expected(), groups)
    return {f"{direction}_{name}": Estimate(s.value, s.low, s.high) for name, s in found.items()}


def _among_all(
    images: Float[np.ndarray, "q e"],
    same: Int[np.ndarray, " q"],
    texts: Float[np.ndarray, "t e"],
    owners: Int[np.ndarray, " t"],
    others: Sequence[np.ndarray],
) -> dict[str, Estimate]:
    """Each picture's own texts among those of the split and all others, which are nobody's."""
    items = np.concatenate([texts, np.array(others, np.float32).reshape(-1, texts.shape[1])])
    groups = np.concatenate([owners, np.full(len(others), -1)])
    hits = mean_scores(rank_items(images, items, same, groups).per_query((1, 5)), same)
    found = {f"all_texts_r{k}": hits[f"recall_at_{k}"] for k in (1, 5)}
    return {name: Estimate(s.value, s.low, s.high) for name, s in found.items()}


def _told(
    images: np.ndarray, texts: np.ndarray, words: Sequence[str], seen: Sequence[Example], ranks: list[float | None]
) -> list[Found]:
    nearest, cosines = np.empty(len(images), np.int64), np.empty(len(images), np.float32)
    for start in range(0, len(images), ROWS):
        tile = images[start : start + ROWS] @ texts.T
        nearest[start : start + ROWS] = tile.argmax(1)
        cosines[start : start + ROWS] = tile.max(1)
    return [
        Found(e.key, words[int(at)], round(float(cosine), 4), rank, e.texts, e.label)
        for e, at, cosine, rank in zip(seen, nearest, cosines, ranks, strict=True)
    ]


def _items(seen: Sequence[Example], told: Sequence[Found]) -> Items:
    """Of the pictures with texts, which are looked for."""
    ranks = {row: found.rank for row, found in enumerate(told) if found.rank is not None}
    mrr = np.array([1 / rank for rank in ranks.values()])
    return Items.of([seen[row] for row in ranks], {"image_to_text_mrr": mrr})


def _searches(
    images: np.ndarray, texts: np.ndarray, words: Sequence[str], owners: np.ndarray, same: np.ndarray
) -> list[Search]:
    """A few texts from all over the split, each with the pictures nearest to it."""
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        first.setdefault(word, row)
    searches = []
    for row in list(first.values())[:: max(1, -(-len(first) // SEARCHES))]:
        places = np.argsort(-(images @ texts[row]), kind="stable")[:HITS].tolist()
        true = {owner for owner, word in zip(owners.tolist(), words, strict=True) if word == words[row]}
        searches.append(Search(words[row], tuple(places), tuple(int(same[place]) in true for place in places)))
    return searches


__all__ = ["Found", "calibrate", "evaluate_clip"]
