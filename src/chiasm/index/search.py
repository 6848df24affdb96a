"""An index that is asked: with words, a picture, a vector, or several of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from chiasm.data.transforms import read_pixels
from chiasm.errors import UserError
from chiasm.index.table import PROBES, REFINE, About, Embedder, in_words, read_index, told
from chiasm.types import Picture

COLUMNS = ("id", "path", "thumbnail", "texts", "tags", "label", "group")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A picture that was found, its cosine with the query, and the probability that the words are true of it."""

    id: str
    score: float
    probability: float | None
    """None for queries that are not words alone, and for a model that was not calibrated."""
    path: str
    """Empty for pictures that were no files of their own; these have a thumbnail."""
    thumbnail: bytes
    """A small JPEG, empty where there is a path."""
    texts: tuple[str, ...]
    tags: tuple[str, ...]
    label: str
    group: str

    @property
    def picture(self) -> Picture:
        """The picture's file, or its thumbnail."""
        return Path(self.path) if self.path else self.thumbnail


def open_index(uri: str | Path, embedder: Embedder | None = None) -> Index:
    """The index at `uri`: a folder, or an address of object storage.

    Words and pictures are embedded by `embedder`, else by the bundle that the index was made with, which is loaded when
    first needed. UserError where there is no index, it is damaged, or the embedder is another model.
    """
    found = read_index(str(uri))
    if found is None or found[1] is None:
        raise UserError(f"There is no index {uri}", f"Make one: chiasm index RUN DATA --out {uri}")
    index = Index(str(uri), *found)
    if embedder is not None:
        index.embedder = index.checked(embedder)
    return index


class Index:
    """Pictures that can be found."""

    def __init__(self, uri: str, about: About, table: Any):
        self.uri = uri
        self.about = about
        self._table = table

    @cached_property
    def embedder(self) -> Embedder:
        """The model whose vectors these are."""
        bundle = self.about.bundle
        if not bundle or not Path(bundle).exists():
            where = f"is no longer at {bundle}" if bundle else "is at a place that it does not know"
            raise UserError(f"The model of {self.uri} {where}", "Name it: --run RUN, or open_index(uri, embedder).")
        from chiasm.predict import ClipPredictor  # torch takes a second; a query by vector needs none

        return self.checked(ClipPredictor.load(bundle))

    def checked(self, embedder: Embedder) -> Embedder:
        """The embedder, if the vectors are its own."""
        self.about.check(embedder, self.uri, "Name the run that it was made with, or index the pictures anew.")
        return embedder

    def count(self, where: str | None = None) -> int:
        """Pictures in the index, or those of which `where` holds."""
        with in_words(self.uri), _condition(where):
            return self._table.count_rows(where)

    def search(
        self,
        text: str = "",
        *,
        image: Picture | str | None = None,
        vector: Float[np.ndarray, " e"] | None = None,
        k: int = 10,
        where: str | None = None,
    ) -> list[Hit]:
        """The k pictures nearest to words, a picture (a path, a file's bytes or pixels) or a vector, nearest first.

        Of several, the sum of their unit vectors is looked for. `where` is a condition of SQL on the columns id, path,
        texts, tags, label and group, such as "label = 'dog' AND array_has(tags, 'snow')". UserError for an empty
        query, k below 1, or a condition that is none; ValueError for a vector of another width or of no direction.
        """
        if k < 1:
            raise UserError(f"k is {k}", "Ask for at least one picture.")
        query = self._query(text, image, vector)
        with in_words(self.uri), _condition(where):
            asked = self._table.search(query, vector_column_name="vector").distance_type("cosine").limit(k)
            asked = asked.nprobes(PROBES).refine_factor(REFINE)
            if where is not None:  # a cell may hold few pictures of which it is true: look into more until k are found
                asked = asked.where(where).maximum_nprobes(0)
            rows = asked.select([*COLUMNS, "_distance"]).to_arrow().to_pylist()
        scores = np.array([1 - row.pop("_distance") for row in rows], dtype=np.float32)
        chances: Sequence[float | None] = [None] * len(rows)
        if rows and image is None and vector is None and self.embedder.calibration is not None:
            chances = self.embedder.calibration.probability(scores).tolist()
        return [
            Hit(
                score=float(score),
                probability=chance,
                texts=tuple(row.pop("texts")),
                tags=tuple(row.pop("tags")),
                **row,
            )
            for row, score, chance in zip(rows, scores, chances, strict=True)
        ]

    def matches(self, hits: Sequence[Hit], where: str | None = None) -> bool | None:
        """Whether the best of these hits is a true one; None for queries whose hits have no probabilities.

        The best of many is high by chance: `where` must be the condition they were found with. False without hits.
        """
        if not hits:
            return False
        if hits[0].probability is None:
            return None
        return bool(self.embedder.calibration.matches(np.array([hits[0].score]), self.count(where))[0])

    def _query(self, text: str, image: Picture | str | None, vector: np.ndarray | None) -> np.ndarray:
        parts = []
        if text.strip():
            parts.append(self.embedder.embed_texts([text])[0])
        if image is not None:
            picture = Path(image) if isinstance(image, str) else image
            parts.append(self.embedder.embed_pixels(read_pixels(picture, self.embedder.preprocess)[None])[0])
        if vector is not None:
            if len(vector) != self.about.embed_width:
                raise ValueError(f"the vector has {len(vector)} numbers, those of the index {self.about.embed_width}")
            parts.append(_unit(vector))
        if not parts:
            raise UserError("The query is empty", "Give words, a picture, or both.")
        return _unit(np.sum(parts, axis=0))


@contextmanager
def _condition(where: str | None) -> Iterator[None]:
    """What LanceDB finds wrong with a condition, as UserError."""
    try:
        yield
    except ValueError as error:
        if where is None:
            raise
        raise UserError(
            f"The condition {where!r} is wrong: {told(error)}",
            "It is SQL on id, path, texts, tags, label and group, with text in single quotes: label = 'dog'",
        ) from error


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    if not 0 < length < np.inf:
        raise ValueError(f"the query's vector has the length {length}")
    return (vector / length).astype(np.float32)


__all__ = ["Hit", "Index", "open_index"]
