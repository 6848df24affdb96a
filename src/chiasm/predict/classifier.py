"""Asking a trained classifier: answers to questions, classes of pictures, whether a caption is a picture's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from chiasm.data.matching import YES
from chiasm.data.transforms import NO_PICTURES
from chiasm.errors import UserError
from chiasm.models import Classifier
from chiasm.predict.base import Pixels, Predictor
from chiasm.predict.loading import ROWS, heard
from chiasm.types import Batch, Picture


@dataclass(frozen=True)
class Answer:
    """One of the model's classes, and the probability that it gives it."""

    label: str
    probability: float


class ClassifierPredictor(Predictor):
    """A trained classifier that can be asked, whatever it reads."""

    model_class = Classifier
    model: Classifier

    @property
    def classes(self) -> tuple[str, ...]:
        """What it can answer."""
        return self.model.classes

    @property
    def sees_pictures(self) -> bool:
        """Whether pictures matter to it."""
        return self.preprocess.size != NO_PICTURES

    @property
    def reads_texts(self) -> bool:
        """Whether texts matter to it."""
        return self.bundle.tokenizer is not None

    def answer(self, picture: Picture | str, questions: Sequence[str]) -> list[list[Answer]]:
        """For each question about one picture all answers that the model knows, the likeliest first."""
        self.check_task("answer")
        return self.ranked(self.about(self.read([picture])[0], questions))

    def match(self, picture: Picture | str, captions: Sequence[str]) -> Float[np.ndarray, " captions"]:
        """For each caption the probability that it is the picture's; several may be."""
        self.check_task("match")
        return self.about(self.read([picture])[0], captions)[:, self.classes.index(YES)]

    def classify(self, pictures: Sequence[Picture | str], texts: Sequence[str] | None = None) -> list[list[Answer]]:
        """For each picture (and text, where the model reads one) all classes, the likeliest first.

        UserError where texts are missing, empty, too long, or not read; BrokenPicture where a picture cannot be read.
        """
        return self.ranked(self.probabilities(self.read(pictures), texts))

    def probabilities(self, pixels: Pixels, texts: Sequence[str] | None = None) -> Float[np.ndarray, "b classes"]:
        """Of each class, for pictures that `read` (or the cache) prepared."""
        if heard(self.bundle.model.config) is not None:
            raise UserError(
                "The model hears sounds, which cannot be given here", "`chiasm evaluate` asks it about data."
            )
        if texts is not None and len(texts) != len(pixels):
            raise ValueError(f"{len(texts)} texts do not fit {len(pixels)} pictures")
        if self.reads_texts != (texts is not None):
            needed = "needs a text with each picture" if self.reads_texts else "reads no texts"
            raise UserError(f"The model {needed}", "Its card says what it was trained on.")
        found = []
        for start in range(0, len(pixels), ROWS):
            rows = slice(start, start + ROWS)
            found.append(self.probabilities_of(self._batch(pixels[rows], None if texts is None else texts[rows])))
        return np.concatenate(found) if found else np.empty((0, len(self.classes)))

    def about(self, pixel: UInt8[np.ndarray, "height width 3"], texts: Sequence[str]) -> Float[np.ndarray, "t classes"]:
        """The same for one picture, with each of some texts."""
        return self.probabilities(np.repeat(pixel[None], len(texts), axis=0), texts)

    @torch.no_grad()
    def probabilities_of(self, batch: Batch) -> Float[np.ndarray, "b classes"]:
        """Of each class, in fp64, for a batch that a loader made."""
        return self.model.classify(batch.to(self.device)).double().softmax(-1).cpu().numpy()

    def ranked(self, probabilities: Float[np.ndarray, "b classes"]) -> list[list[Answer]]:
        """The classes of each row by their probability."""
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            [Answer(self.classes[int(i)], float(row[i])) for i in best]
            for row, best in zip(probabilities, order, strict=True)
        ]

    def check_task(self, name: str) -> None:
        """UserError where the model was trained to do something else."""
        trained = self.bundle.task.name if self.bundle.task else "label"
        if trained != name:
            raise UserError(
                f"The model was trained for the task {trained!r}, not {name!r}",
                f"Ask it by `chiasm {'classify' if trained == 'label' else trained}`.",
            )

    def _batch(self, pixels: Pixels, texts: Sequence[str] | None) -> Batch:
        rows = torch.arange(len(pixels))
        ids = torch.zeros(len(pixels), 0, dtype=torch.long)
        keep = ids.bool()
        if texts is not None:
            lengths = torch.tensor(self.text_lengths(texts))
            ids = self.tokenizer.encode(texts, context=int(lengths.max()))
            keep = torch.arange(ids.shape[1]) < lengths[:, None]
        return Batch(
            images=self.images(pixels),
            ids=ids,
            keep=keep,
            image_ids=rows,
            text_ids=rows,
            keys=tuple(map(str, rows.tolist())),
        )


__all__ = ["Answer", "ClassifierPredictor"]
