"""Asking a trained language model: texts that go on from a prompt, and how likely given ones are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from chiasm.errors import UserError
from chiasm.generate import GenerateConfig, Prompted, Written, generate
from chiasm.models import LanguageModel
from chiasm.predict.base import Predictor
from chiasm.predict.captioner import Caption, caption_of


class LanguagePredictor(Predictor):
    """A trained language model that can be asked."""

    model_class = LanguageModel
    model: LanguageModel

    def write(self, prompt: str = "", **settings: Any) -> Caption:
        """A text that begins with the prompt; settings are the fields of `GenerateConfig`, further ones its `others`.

        `text` is the whole text, everything else is of what was written after the prompt. UserError for a prompt that
        leaves no room in the model's context.
        """
        config = GenerateConfig(**settings)
        ids = self.tokenizer.rows([prompt], context=max(self.tokenizer.lengths([prompt])))[0][1:-1]
        rules = self.model.rules
        if len(ids) + 3 > rules.context:
            raise UserError(
                f"The prompt has {len(ids)} tokens, and the model's texts at most {rules.context - 2}", "Shorten it."
            )
        first, *others = generate(Prompted(self._writer, ids), torch.empty(1, 3, 0, 0, device=self.device), config)[0]
        return self._text(prompt, ids, first, [self._text(prompt, ids, other) for other in others])

    @torch.no_grad()
    def token_losses(self, texts: Sequence[str]) -> tuple[Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Of each text the loss, in nats, summed over its tokens and its end, and how many those are."""
        rules = self.model.rules
        ids = self.tokenizer.encode(texts, context=rules.context, truncate=True).to(self.device)
        hidden = self.model(torch.empty(len(ids), 3, 0, 0, device=self.device), ids[:, :-1])
        log_probs = self.model.head(hidden).float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        lengths = np.minimum(self.tokenizer.lengths(texts), rules.context) - 1
        wanted = torch.arange(ids.shape[1] - 1) < torch.from_numpy(lengths)[:, None]
        return -log_probs.cpu().masked_fill(~wanted, 0.0).sum(1).double().numpy(), lengths

    def _text(self, prompt: str, ids: list[int], written: Written, others: Sequence[Caption] = ()) -> Caption:
        """What was written, its text behind the prompt as the user wrote that."""
        alone, whole = self.tokenizer.decode(ids), self.tokenizer.decode([*ids, *written.ids])
        rest = whole[len(alone) :]
        if prompt and rest and not alone:  # no word of the prompt is known, so that nothing parts it from the first
            rest = f" {rest}"
        return caption_of(written, self.tokenizer, text=prompt + rest, others=others)
