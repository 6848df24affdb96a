"""A data set as the task that a classifier is trained and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from jaxtyping import Float

from chiasm.data.cache import prepare_pictures
from chiasm.data.matching import Vectors, matching_source
from chiasm.data.source import Source, class_names
from chiasm.data.task import CLIP, TaskConfig
from chiasm.errors import UserError
from chiasm.predict import ClipPredictor
from chiasm.predict.loading import ROWS
from chiasm.progress import counting
from chiasm.types import Example

WANTED = {
    "match": "Matching needs pictures with different captions.",
    "answer": "A table needs the columns question and answer; the built-in shapes have questions of their own.",
    "label": "A table needs a column label, class or category; a folder needs a folder of pictures per class.",
}
"""What the data of each task must have."""


def prepared(source: Source, task: TaskConfig) -> Source:
    """The examples as the task asks about them; UserError where the training split has fewer than two answers."""
    if task.name == "match":
        source = matching_source(source, _negatives(task.negatives))
    if "train" in source.splits:
        train = source.split("train")
        answers = class_names(train)
        if len(answers) < 2:
            found = f"only {answers[0]!r}" if answers else "none"
            raise UserError(
                f"{source.name} has too few different answers for the task {task.name!r}: {found} among "
                f"{len(train):,} training examples ({source.understood})",
                WANTED[task.name],
            )
    return source


def _negatives(negatives: str) -> Literal["random", "text"] | Vectors:
    if not negatives.startswith(CLIP):
        return cast("Literal['random', 'text']", negatives)
    predictor = ClipPredictor.load(negatives.removeprefix(CLIP))

    def vectors(
        examples: Sequence[Example], texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "t e"]]:
        """Of pictures (zeros for broken ones, which nothing is near to) and of texts."""
        pictures = prepare_pictures(examples, predictor.preprocess, name="negatives", max_broken_share=None)
        found = np.zeros((len(examples), predictor.embed_width), np.float32)
        with counting("Embedding pictures", len(pictures.good)) as advance:
            for start in range(0, len(pictures.good), ROWS):
                rows = pictures.good[start : start + ROWS]
                found[rows] = predictor.embed_pixels(pictures.pixels_of(rows))
                advance(len(rows))
        return found, predictor.embed_texts(texts, truncate=True)

    return vectors


__all__ = ["prepared"]
