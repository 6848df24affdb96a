"""Asking trained Perceivers: what stands in a text's gaps, and what was hidden of pictures, sounds and texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chiasm.errors import UserError
from chiasm.models import PerceiverAutoencoder, PerceiverMlm
from chiasm.models.inputs import given
from chiasm.predict.base import Predictor
from chiasm.types import Batch

GAP = "___"
"""How a gap is written."""


@dataclass(frozen=True)
class Filling:
    """One token for a gap, and the probability that the model gives it."""

    token: str
    probability: float


class MaskedPredictor(Predictor):
    """A trained masked language model that can be asked."""

    model_class = PerceiverMlm
    model: PerceiverMlm

    @torch.no_grad()
    def fill(self, text: str, count: int = 5) -> list[list[Filling]]:
        """For each gap (`___`, one token) of a text the likeliest tokens; UserError for none, or too long a text."""
        pieces = [piece.strip() for piece in text.split(GAP)]
        if len(pieces) < 2:
            raise UserError(f"There is no gap in {text!r}", f"Write {GAP} for each token that is missing.")
        rules = self.model.config.text.rules
        rows = [row[rules.bos is not None : -1] for row in self.tokenizer.rows(pieces, context=rules.context)]
        ids, gaps = [] if rules.bos is None else [rules.bos], []
        for i, row in enumerate(rows):
            if i:
                gaps.append(len(ids))
                ids.append(rules.pad)
            ids += row
        ids.append(rules.eot)
        if len(ids) > rules.context:
            raise UserError(f"The text has {len(ids)} tokens, more than the model's {rules.context}", "Shorten it.")
        masked = torch.zeros(1, len(ids), dtype=torch.bool)
        masked[0, gaps] = True
        shares = self.shares(torch.tensor([ids]), torch.ones_like(masked), masked)
        return [
            [Filling(self.tokenizer.token(int(i)), float(p)) for p, i in zip(*row.topk(count), strict=True)]
            for row in shares
        ]

    @torch.no_grad()
    def shares(self, ids: Tensor, keep: Bool[Tensor, "b l"], masked: Bool[Tensor, "b l"]) -> Float[Tensor, "gaps v"]:
        """The probability of every token in each masked place, row by row, on the CPU; reserved ones have none."""
        ids, keep, masked = (given.to(self.device) for given in (ids, keep, masked))
        logits = self.model.head(self.model(ids, keep, masked)[masked]).float().cpu()
        logits[:, self.model.config.text.rules.unwritten] = -torch.inf
        return logits.softmax(-1)


class ReconstructionPredictor(Predictor):
    """A trained autoencoder that can be asked."""

    model_class = PerceiverAutoencoder
    model: PerceiverAutoencoder

    @torch.no_grad()
    def reconstruct(
        self, batch: Batch, hidden: dict[str, Bool[Tensor, "b _"]]
    ) -> dict[str, Float[np.ndarray, "b _ _"]]:
        """What stands at every place of each modality, of texts the logits, where the hidden places are not read."""
        hidden = {name: places.to(self.device) for name, places in hidden.items()}
        answers = self.model(given(batch.to(self.device), self.model.config.inputs), hidden)
        return {name: answer.float().cpu().numpy() for name, answer in answers.items()}


__all__ = ["GAP", "Filling", "MaskedPredictor", "ReconstructionPredictor"]
