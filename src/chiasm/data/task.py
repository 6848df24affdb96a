"""What a classifier is asked about the examples of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CLIP = "clip:"
"""What stands before the folder of a trained dual encoder that chooses wrong captions."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """match: is this the caption of this picture? answer: the answer to a question. label: the class of an example."""

    name: Literal["match", "answer", "label"]
    negatives: str = "random"
    """Of match, where wrong captions come from: random; text, those with similar words; clip:FOLDER, those that a
    trained dual encoder finds nearest to the picture."""

    def __post_init__(self) -> None:
        known = self.negatives in ("random", "text") or self.negatives.startswith(CLIP)
        if not known or self.negatives == CLIP:
            raise ValueError(f"negatives is {self.negatives!r}, it must be random, text, or clip:FOLDER")


__all__ = ["CLIP", "TaskConfig"]
