"""What training minimises: an objective takes a model and a batch, and returns named sums of losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    word_dropout: float = 0.0
    """In training, blank this share of the words that the decoder reads (1511.06349, section 3.3), not of those that
    it predicts: it then looks at the picture where the words before would let it guess."""

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted: all but BOS and pads."""
        return int(batch.keep[:, 1:].sum())

    def __call__(self, model: Captioner, batch: Batch) -> dict[str, Tensor]:
        """`loss` (smoothed) and `token_loss` (plain), summed over tokens, in nats."""
        wanted = batch.keep[:, 1:]
        ids = batch.ids[:, :-1]
        if model.training and self.word_dropout:
            blank = torch.rand(ids.shape, device=ids.device) < self.word_dropout
            blank[:, 0] = False  # BOS is no word
            unknown = model.rules.pad if model.rules.unk is None else model.rules.unk
            ids = ids.masked_fill(blank, unknown)
        hidden = model(batch.images, ids)
        logits = model.head(hidden[wanted])
        smoothed, plain = next_token(logits, batch.ids[:, 1:][wanted], self.label_smoothing)
        return {"loss": smoothed, "token_loss": plain}
