"""What training minimises: an objective takes a model and a batch, and gives the gradient and named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from chiasm.types import Batch

STUCK_SHARE = 0.98
"""A loss of so much of chance's has not been learnt from."""

Rows = Sequence[Mapping[str, float | None]]
"""What `backward` reported of some steps, as rows of metrics.csv hold it."""


class Objective(ABC):
    """What a training step and a validation know of a task."""

    unit: ClassVar[str]
    """What validation follows, and in what it is measured, in words."""
    columns: ClassVar[tuple[str, ...]]
    """What `backward` reports beside `loss`."""

    @abstractmethod
    def backward(self, model: Any, batch: Batch, parts: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Add the batch's gradient to the parameters, computed in so many parts; returns `loss` and the columns."""

    @abstractmethod
    def validate(self, model: Any, batch: Batch) -> tuple[float, int]:
        """The loss that validation follows, in nats, summed over the batch, and over how many terms."""

    @abstractmethod
    def plain(self, model: Any, batch: Batch) -> Tensor:
        """The training loss without choices that depend on values, of which the meta device, which counts, has none."""

    def after_step(self, model: Any) -> None:  # noqa: B027 - most weights may be anything
        """What must hold of the weights after every optimizer step."""

    def advice(self, rows: Rows) -> str | None:
        """What to try, where these steps show that nothing is learnt."""
        return None

    def ending(self, model: Any, rows: Rows) -> list[str]:
        """Sentences for the card on how a run, whose last steps these are, ended."""
        return []


def mean_of(rows: Rows, name: str) -> float:
    """The mean of a column over the rows that have it."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return sum(values) / len(values)
