"""What training minimises: an objective takes a model and a batch, and returns named sums of losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from chiasm.losses import next_token
from chiasm.models import Captioner
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """Predict each caption's next token; the first of the returned sums is the one to minimise.

    Sums and not means, so that a batch that is run in parts has exactly the whole batch's mean over tokens.
    """

    label_smoothing: float = 0.0

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted: all but BOS and pads."""
        return int(batch.keep[:, 1:].sum())

    def __call__(self, model: Captioner, batch: Batch) -> dict[str, Tensor]:
        """`loss` (smoothed) and `token_loss` (plain), summed over tokens, in nats."""
        wanted = batch.keep[:, 1:]
        hidden = model(batch.images, batch.ids[:, :-1])
        logits = model.head(hidden[wanted])
        smoothed, plain = next_token(logits, batch.ids[:, 1:][wanted], self.label_smoothing)
        return {"loss": smoothed, "token_loss": plain}
