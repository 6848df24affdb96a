"""Perceiver IO as a masked language model: what stands in the gaps of a text, be it of words or of bytes.

Letters: b batch · l text length · d width · v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.models.adapters import Multimodal, TextAdapter
from chiasm.models.inputs import Inputs, TextInput
from chiasm.models.perceiver import PerceiverConfig, PerceiverEncoder, ReadConfig, build_read, depth_of
from chiasm.nn import TokenEmbed, init_weights
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class PerceiverMlmConfig(PerceiverConfig):
    """A Perceiver that fills the gaps of texts."""

    inputs: Inputs = field(default_factory=lambda: Inputs(text=TextInput()))
    decoder: ReadConfig = field(default_factory=lambda: ReadConfig(residual=False))

    def __post_init__(self) -> None:
        if list(self.inputs.named()) != ["text"]:
            raise ValueError(f"a masked language model reads text alone, not {', '.join(self.inputs.named())}")

    @property
    def text(self) -> TextInput:
        """The one input."""
        assert self.inputs.text is not None
        return self.inputs.text


class PerceiverMlm(nn.Module):
    """A query for each place of the text reads the latents, and says which token stands there (2107.14795, 4.1).

    Logits are products with the table of tokens. What is masked looks like one learned vector; published weights have
    it in the table.
    """

    def __init__(self, config: PerceiverMlmConfig):
        super().__init__()
        self.config = config
        text = config.text
        width = text.width
        self.input = Multimodal(config.inputs)
        self.encoder = PerceiverEncoder(config.latents, self.input.width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.queries = nn.Parameter(torch.randn(text.rules.context, width) * 0.02)
        self.decoder = build_read(config.decoder, width, config.latents.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        init_weights(self, depth_of(config))

    @property
    def embed(self) -> TokenEmbed:
        """The tables of tokens and of positions."""
        return cast(TextAdapter, self.input.adapters["text"]).embed

    def forward(
        self, ids: Int[Tensor, "b l"], keep: Bool[Tensor, "b l"], masked: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` says which token stands at each place."""
        tokens = self.embed(ids)
        if masked is not None:
            tokens = torch.where(masked[..., None], self.mask + self.embed.positions[: ids.shape[1]], tokens)
        latents = self.encoder(Encoded(tokens=tokens, keep=keep))
        return self.decoder(self.queries[: ids.shape[1]].expand(len(ids), -1, -1), latents)

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Logits of hidden states, all of them or a selection."""
        return hidden @ self.embed.tokens.weight.T + self.bias
