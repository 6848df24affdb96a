"""What differs between kinds of models in a run: objective, start, samples, and what is made of the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.evaluate import SplitScores
from chiasm.objectives import Objective

if TYPE_CHECKING:
    from chiasm.train.run import Run

SAMPLES = 4
"""Validation pictures that are shown after each validation."""


class Task(ABC):
    """One way to train; everything that implements it is final."""

    title: str
    objective: Objective
    explained: str
    """What the scores on the card mean."""
    together: int = 1
    """So many neighbours among the training examples stay in one batch."""

    def start(self, run: Run) -> None:  # noqa: B027 - most models owe it nothing
        """Set what a fresh model's weights owe to the run; UserError where its settings do not fit the model."""

    def batches(self, run: Run, loader: Loader, split: str) -> Loader | InterleavedLoader:
        """What is trained on and validated by, made of the batches of a split's examples."""
        return loader

    @abstractmethod
    def samples(self, run: Run) -> list[dict[str, str]]:
        """What the model as it is now says of a few validation pictures: key, text, and said."""

    @abstractmethod
    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Score every split, write and draw what people want to see; returns the bundle with what was learnt of it."""
