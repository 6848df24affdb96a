"""The pictures and texts that a run was trained and tested on, as far as its data is still there."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import UInt8

from chiasm.data.picture import BrokenPicture
from chiasm.data.source import Source
from chiasm.data.texts import in_contexts
from chiasm.data.transforms import NO_PICTURES, read_pixels
from chiasm.errors import UserError
from chiasm.models import LanguageConfig
from chiasm.report.recorded import Recorded
from chiasm.text import Tokenizer
from chiasm.types import Example

SMALL_PIXELS = 64
"""Pictures up to this side are shown as they are; larger ones as JPEG."""
MOST_TEXTS = 50_000
"""Texts of so many training examples are read for the data card."""


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """What the texts of the training split are like, and how many of a test's are among them."""

    texts: int
    different: int
    least_words: int
    mean_words: float
    most_words: int
    known_share: float | None
    """Of the first test split's different texts, those that the training split has too."""
    labels: dict[str, int]
    """Training examples by class, the commonest first."""


class Album:
    """Pictures of a run's examples by split and key; of a run whose data is gone or has changed, `missing` says why."""

    def __init__(self, run: Recorded):
        self.preprocess = run.config.preprocess
        self.source: Source | None = None
        self.missing = ""
        self._rows: dict[str, dict[str, int]] = {}
        try:
            self.source = _opened(run)
        except UserError as error:
            self.missing = f"The data cannot be read any more ({error.message}), so its pictures are not shown."
            return
        if self.source.fingerprint not in run.card.get("data", ""):
            self.source = None
            self.missing = "The data has changed since the training, so its pictures are not shown."

    def picture(self, split: str, key: str) -> str | None:
        """The picture as the model saw it, as the address of itself; None where there is none."""
        example = self._example(split, key)
        if example is None or example.image is None or self.preprocess.size == NO_PICTURES:
            return None
        try:
            return pixels_uri(read_pixels(example.image, self.preprocess))
        except BrokenPicture:
            return None

    def text_facts(self, test: str) -> TextFacts | None:
        """Of the data as the model was asked about it; None where there are no texts, or the data is gone."""
        if self.source is None or not len(self.source.splits.get("train", ())):
            return None
        train = list(_spoken(self.source.split("train")))
        texts = [text for own, _ in train for text in own]
        words = [len(text.split()) for text in texts]
        if not texts:
            return None
        tests = (
            {text for own, _ in _spoken(self.source.split(test)) for text in own} if test in self.source.splits else ()
        )
        known = set(texts)
        return TextFacts(
            texts=len(texts),
            different=len(known),
            least_words=min(words),
            mean_words=sum(words) / len(words),
            most_words=max(words),
            known_share=sum(text in known for text in tests) / len(tests) if tests else None,
            labels=dict(Counter(label for _, label in train if label).most_common()),
        )

    def _example(self, split: str, key: str) -> Example | None:
        if self.source is None or split not in self.source.splits:
            return None
        if split not in self._rows:
            self._rows[split] = {example.key: row for row, example in enumerate(self.source.split(split))}
        row = self._rows[split].get(key)
        return None if row is None else self.source.split(split)[row]


def _opened(run: Recorded) -> Source:
    """The data as the run trained on it."""
    source, model = run.config.data.open(), run.config.model
    if isinstance(model, LanguageConfig):
        return in_contexts(source, Tokenizer.load(run.folder / "bundle" / "tokenizer.json"), model.rules.context)
    return source


def pixels_uri(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    """Pixels as the address of a picture: exact where they are few, as JPEG where they are many."""
    from PIL import Image

    image, written = Image.fromarray(pixels), io.BytesIO()
    small = max(image.size) <= SMALL_PIXELS
    kind = "png" if small else "jpeg"
    image.save(written, kind, **({} if small else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def _spoken(examples: Iterable[Example]) -> Iterable[tuple[tuple[str, ...], str]]:
    return ((example.texts, example.label) for example in islice(examples, MOST_TEXTS))


__all__ = ["Album", "TextFacts", "pixels_uri"]
