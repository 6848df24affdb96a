"""How good a dual encoder is: finding texts by pictures and pictures by texts, labels, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from chiasm.data.cache import Pictures
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.common import Estimate, SplitScores, readable
from chiasm.metrics import Score, rank_items, retrieval_scores
from chiasm.metrics.calibration import Calibration, pair_cosines
from chiasm.metrics.retrieval import mean_scores
from chiasm.predict import ClipPredictor
from chiasm.progress import counting
from chiasm.types import Example

KS = (1, 5, 10)
COLUMNS = (
    "image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5", "all_texts_r1", "all_texts_r5",
    "label_top1",
)  # fmt: skip
ROWS = 128
MOST_TEXTS = 50_000
"""Above so many different texts, a picture is not looked for among all texts of the data, only among the split's."""


@dataclass(frozen=True)
class Found:
    """The text of a split that the model finds nearest to one picture, and where the picture's own text ranks."""

    key: str
    found: str
    cosine: float
    rank: float
    texts: tuple[str, ...]
    label: str


def evaluate_clip(
    predictor: ClipPredictor, source: Source, splits: Sequence[str], *, max_broken_share: float = 0.05
) -> list[SplitScores]:
    """Retrieval both ways within each split, by what is the same thing (see `things`), chance for a collapsed model.

    `image_to_text_r<k>`: share of pictures with an own text among the first k texts of the split; `text_to_image_r<k>`
    the other way round; `all_texts_r<k>`: among all different texts of the data, other splits' too; `label_top1` and
    `label_top5`, where pictures have labels: the label itself as the prompt, among all labels of the split.
    """
    texts, vectors = _all_texts(predictor, source)
    return [
        _evaluate_split(predictor, source, split, texts, vectors, max_broken_share)
        for split in splits
        if len(source.split(split))
    ]


def things(examples: Sequence[Example]) -> Int[np.ndarray, " n"]:
    """A number per example, equal where two show the same thing: those of one group, and those with the same texts."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names: dict[object, int] = {}
    edges = []
    for example in examples:
        own = names.setdefault(("group", example.group or example.key), len(names))
        edges.append((own, names.setdefault(frozenset(example.texts), len(names))))
    rows, columns = np.array(edges).T
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1][rows].astype(np.int64)


def embed_pictures(predictor: ClipPredictor, pictures: Pictures, split: str) -> Float[np.ndarray, "n e"]:
    """Vectors of all readable pictures."""
    vectors = np.empty((len(pictures.good), predictor.embed_width), np.float32)
    with counting(f"Embedding {split}", len(vectors)) as advance:
        for start in range(0, len(vectors), ROWS):
            pixels = pictures.pixels_of(pictures.good[start : start + ROWS])
            vectors[start : start + ROWS] = predictor.embed_pixels(pixels)
            advance(len(pixels))
    return vectors


def calibrate(predictor: ClipPredictor, source: Source, split: str) -> Calibration | None:
    """What cosines mean, from a held-out split: true pairs against random pairs of different things.

    None where the split is too small, or shows one thing only.
    """
    seen, pictures = readable(source, split, predictor.preprocess, 1.0)
    same = things(seen)
    if len(seen) < 20 or len(set(same)) < 2:
        return None
    images = embed_pictures(predictor, pictures, split)
    pairs = things_and_texts(same, seen)
    texts = predictor.embed_texts([text for _, text in pairs], truncate=True)
    return Calibration.fit(*pair_cosines(images, texts, same, np.array([thing for thing, _ in pairs])))


def things_and_texts(same: Int[np.ndarray, " n"], examples: Sequence[Example]) -> list[tuple[int, str]]:
    """Every different text of every thing."""
    return list(dict.fromkeys((int(t), text) for t, e in zip(same, examples, strict=True) for text in e.texts))


def _all_texts(predictor: ClipPredictor, source: Source) -> tuple[list[str], Float[np.ndarray, "t e"]]:
    """Every different text of the data, in order, and its vector; none where there are too many."""
    texts: dict[str, None] = {}
    for example in source.examples:
        texts.update(dict.fromkeys(example.texts))
        if len(texts) > MOST_TEXTS:
            return [], np.empty((0, predictor.embed_width), np.float32)
    return list(texts), predictor.embed_texts(list(texts), truncate=True)


def _evaluate_split(
    predictor: ClipPredictor,
    source: Source,
    split: str,
    all_texts: list[str],
    all_vectors: Float[np.ndarray, "t e"],
    max_broken_share: float,
) -> SplitScores:
    seen, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    same = things(seen)
    images = embed_pictures(predictor, pictures, split)
    pairs = things_and_texts(same, seen)
    if not pairs:
        raise UserError(f"No picture of the split {split!r} has a text", source.understood)
    owners = np.array([thing for thing, _ in pairs])
    known = {text: row for row, text in enumerate(all_texts)}
    if known:
        texts = all_vectors[[known[text] for _, text in pairs]]
    else:
        texts = predictor.embed_texts([text for _, text in pairs], truncate=True)
    scores = {
        **_named("image_to_text", retrieval_scores(images, texts, same, owners, ks=KS)),
        **_named("text_to_image", retrieval_scores(texts, images, owners, same, ks=KS)),
    }
    if known:
        scores |= _among_all(images, seen, same, all_vectors, known)
    if any(example.label for example in seen):
        scores |= _labels(predictor, images, seen, same)
    told = _told(images, texts, [text for _, text in pairs], seen, rank_items(images, texts, same, owners).expected())
    return SplitScores(split, len(seen), scores, tuple(c for c in COLUMNS if c in scores), told, pictures.broken)


def _named(direction: str, scores: dict[str, Score]) -> dict[str, Estimate]:
    short = {f"recall_at_{k}": f"r{k}" for k in KS} | {"median_rank": "median_rank", "mean_reciprocal_rank": "mrr"}
    return {f"{direction}_{short[name]}": Estimate(s.value, s.low, s.high) for name, s in scores.items()}


def _among_all(
    images: np.ndarray, seen: Sequence[Example], same: np.ndarray, vectors: np.ndarray, known: dict[str, int]
) -> dict[str, Estimate]:
    """Each picture's own texts among all different texts of the data; the picture with any of them first is a hit."""
    groups = np.full(len(vectors), -1)
    for thing, example in zip(same, seen, strict=True):
        for text in example.texts:
            groups[known[text]] = thing
    hits = mean_scores(rank_items(images, vectors, same, groups).per_query((1, 5)), same)
    found = {f"all_texts_r{k}": hits[f"recall_at_{k}"] for k in (1, 5)}
    return {name: Estimate(s.value, s.low, s.high) for name, s in found.items()}


def _labels(
    predictor: ClipPredictor, images: np.ndarray, seen: Sequence[Example], same: np.ndarray
) -> dict[str, Estimate]:
    """Share of labelled pictures whose label is the nearest, or among the five nearest, of the split's labels."""
    labels = sorted({example.label for example in seen if example.label})
    rows = np.array([row for row, example in enumerate(seen) if example.label])
    truths = np.array([labels.index(seen[row].label) for row in rows])
    ranks = rank_items(images[rows], predictor.embed_labels(labels), truths, np.arange(len(labels)))
    scores = mean_scores({"label_top1": ranks.hits(1), "label_top5": ranks.hits(5)}, same[rows])
    return {name: Estimate(s.value, s.low, s.high) for name, s in scores.items()}


def _told(
    images: np.ndarray, texts: np.ndarray, words: Sequence[str], seen: Sequence[Example], ranks: np.ndarray
) -> list[Found]:
    nearest, cosines = np.empty(len(images), np.int64), np.empty(len(images), np.float32)
    for start in range(0, len(images), ROWS):
        tile = images[start : start + ROWS] @ texts.T
        nearest[start : start + ROWS] = tile.argmax(1)
        cosines[start : start + ROWS] = tile.max(1)
    return [
        Found(e.key, words[int(at)], round(float(cosine), 4), float(rank), e.texts, e.label)
        for e, at, cosine, rank in zip(seen, nearest, cosines, ranks, strict=True)
    ]
