"""Predict each caption's next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from chiasm.losses import cross_entropy
from chiasm.models import Captioner, Coca, Flamingo, LanguageModel
from chiasm.objectives.base import Objective
from chiasm.types import Batch

Model = Captioner | Coca | Flamingo | LanguageModel


@dataclass(frozen=True, kw_only=True)
class Captioning(Objective):
    """Predict each caption's, or with a language model each text's, next token.

    Sums and not means, so that a batch that is run in parts has exactly the whole batch's mean over tokens.
    """

    label_smoothing: float = 0.0
    unit: ClassVar[str] = "loss per token, nats"
    columns: ClassVar[tuple[str, ...]] = ("token_loss",)

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted: all but BOS, pads and, in interleaved texts, `<image>`."""
        return int(batch.keep[:, 1:].sum())

    def __call__(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss` (smoothed) and `token_loss` (plain), summed over tokens, in nats."""
        wanted = batch.keep[:, 1:]
        hidden = _hidden(model, batch)
        logits = model.head(hidden[wanted])
        smoothed, plain = cross_entropy(logits, batch.ids[:, 1:][wanted], self.label_smoothing)
        return {"loss": smoothed, "token_loss": plain}

    def backward(self, model: Model, batch: Batch, parts: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Gradient of the mean over the whole batch's tokens."""
        count = self.count(batch)
        sums = {"loss": 0.0, "token_loss": 0.0}
        for part in batch.split(math.ceil(len(batch) / parts)):
            losses = self(model, part)
            backward(losses["loss"] / count)
            for name, value in losses.items():
                sums[name] += float(value.detach()) / count
        return sums

    def plain(self, model: Model, batch: Batch) -> Tensor:
        """Every token counts, pads too."""
        hidden = _hidden(model, batch)
        return model.head(hidden.flatten(0, 1)).float().log_softmax(-1).sum()

    def validate(self, model: Model, batch: Batch) -> tuple[float, int]:
        """The plain loss, by tokens."""
        return float(self(model, batch)["token_loss"]), self.count(batch)


def _hidden(model: Model, batch: Batch) -> Float[Tensor, "b l d"]:
    """What the model makes of all tokens but the last."""
    if isinstance(model, LanguageModel):
        return model(batch.images, batch.ids[:, :-1], batch.keep[:, :-1])
    if batch.media is None:
        return model(batch.images, batch.ids[:, :-1])
    assert isinstance(model, Flamingo)
    return model.read(batch.media, batch.ids[:, :-1])
