"""The language model: the causal decoder alone, which writes text about nothing but the text before."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.models.abilities import Writer
from chiasm.models.decoder import CausalDecoder, Draft, WriterConfig
from chiasm.models.language import TextRules


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(WriterConfig):
    """Sizes of the decoder."""

    @property
    def size(self) -> tuple[int, int]:
        """It sees no pictures."""
        return (0, 0)


class LanguageModel(nn.Module, Writer[Draft]):
    """A GPT-2-like language model: `CausalDecoder` without a context.

    It is called and asked as a captioner is; of pictures it takes their number alone, so that "b c 0 0" will do.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.decoder = CausalDecoder(config.decoder)

    def forward(
        self,
        images: Float[Tensor, "b c height width"],
        ids: Int[Tensor, "b l"],
        real: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` predicts the token after each of `ids`, or of the `real` ones alone."""
        return self.decoder(ids, real=real)

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Logits of hidden states, all of them or a selection."""
        return self.decoder.head(hidden)

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""
        return self.config.decoder.rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> Draft:
        """Nothing written yet, in as many rows as the first step has."""
        return self.decoder.start(beams=beams)

    def step(self, ids: Int[Tensor, " r"], draft: Draft) -> Float[Tensor, "r v"]:
        """Append one token to every row; returns the next token's logits."""
        return self.decoder.step(ids[:, None], draft)[:, -1]
