"""Predict the next token of texts with pictures between them, and watch the gates open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from chiasm.models import Flamingo
from chiasm.objectives.base import Objective
from chiasm.objectives.captioning import Captioning
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class Interleaving(Objective):
    """The objective of captions on whole sequences (2204.14198, equation 1); the gates are reported beside the loss."""

    captioning: Captioning = field(default_factory=Captioning)
    gates: tuple[str, ...] = ()
    """Their names, as `Flamingo.gates` has them."""
    unit: ClassVar[str] = Captioning.unit

    @property
    def columns(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The loss without smoothing, and each gate's tanh."""
        return (*self.captioning.columns, *self.gates)

    def backward(
        self, model: Flamingo, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the mean over the tokens of all sequences."""
        return self.captioning.backward(model, batch, parts, backward) | model.gates

    def validate(self, model: Flamingo, batch: Batch) -> tuple[float, int]:
        """The plain loss, by tokens."""
        return self.captioning.validate(model, batch)

    def plain(self, model: Flamingo, batch: Batch) -> Tensor:
        """Every token counts, pads too."""
        return self.captioning.plain(model, batch)
