"""The captioner: a picture encoder and a causal decoder that reads it by cross-attention."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.models.abilities import Writer
from chiasm.models.language import CausalDecoder, DecoderConfig, Draft, TextRules
from chiasm.models.vision import Conv, ConvConfig, Vit, VitConfig, build_vision
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Sizes of both halves."""

    vision: VitConfig | ConvConfig = field(default_factory=VitConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""
        return self.decoder.rules

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return self.decoder.vocabulary

    def completed(self, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> CaptionerConfig:
        """With what the tokenizer and the data know."""
        rules = replace(self.rules, unk=unk)
        return replace(self, decoder=replace(self.decoder, vocabulary=vocabulary, rules=rules))


class Captioner(nn.Module, Writer):
    """Picture in, text out: patch encoder, causal decoder with cross-attention (as 1411.4555 and 2101.10804).

    The decoder reads the grid's tokens and, where the encoder pools, the pooled vector as one more token in front.
    """

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.config = config
        self.vision = cast("Vit | Conv", build_vision(config.vision))
        self.decoder = CausalDecoder(config.decoder, self.vision.width)

    def encode(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """What the decoder reads of each picture."""
        seen = self.vision(images)
        if seen.pooled is None:
            return seen
        return Encoded(tokens=torch.cat([seen.pooled[:, None], seen.tokens], 1), pooled=seen.pooled)

    def forward(self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` predicts the token after each of `ids`."""
        return self.decoder(ids, self.encode(images))

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Logits of hidden states, all of them or a selection."""
        return self.decoder.head(hidden)

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""
        return self.config.decoder.rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> Draft:
        """Encode the pictures once; nothing written yet."""
        return self.decoder.start(self.encode(images), beams)

    def step(self, ids: Int[Tensor, " r"], draft: Draft) -> Float[Tensor, "r v"]:
        """Append one token to every row; returns the next token's logits."""
        return self.decoder.step(ids[:, None], draft)[:, -1]

    def attention_maps(
        self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l rows columns"]:
        """Where the decoder looked when it predicted the token after each of `ids`: mean over layers and heads."""
        maps = self.decoder.attention_maps(ids, self.encode(images)).mean((1, 2))
        rows, columns = self.vision.grid((images.shape[2], images.shape[3]))
        return maps[:, :, maps.shape[2] - rows * columns :].unflatten(2, (rows, columns))
