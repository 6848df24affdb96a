"""CoCa: one model that captions pictures and embeds pictures and texts.

Letters: b batch · n tokens of a picture · m latents · l text length · d width · e embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.models.abilities import Embedder, Writer
from chiasm.models.adapted import text_keep
from chiasm.models.clip import START_LOG_SCALE, projection, unit
from chiasm.models.decoder import CausalDecoder, DecoderConfig, Draft, WriterConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import Conv, ConvConfig, Vit, VitConfig, build_vision
from chiasm.nn import LatentReader, init_weights
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class CocaConfig(WriterConfig):
    """Sizes of the picture encoder, its pooling, the decoder, and the space in which pictures and texts meet."""

    vision: VitConfig | ConvConfig = field(default_factory=VitConfig)
    latents: int = 64
    """Queries that read the picture for captions; 256 in the paper, of far larger pictures."""
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(depth=4, unimodal_depth=2))
    embed_dim: int = 256

    def __post_init__(self) -> None:
        if self.vision.pool != "none":
            raise ValueError(f"CoCa pools by readers of its own: vision.pool must be none, not {self.vision.pool}")
        if self.latents < 1:
            raise ValueError(f"latents is {self.latents}, it must be at least 1")
        if not 0 < self.decoder.unimodal_depth < self.decoder.depth:
            raise ValueError(
                f"of {self.decoder.depth} blocks, the first {self.decoder.unimodal_depth} read words alone: neither "
                "half can be empty (decoder.unimodal_depth)"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size


class Pairs(NamedTuple):
    """What CoCa makes of pictures with their captions in one pass: both sides' vectors, and hidden states of words."""

    images: Float[Tensor, "b e"]
    texts: Float[Tensor, "b e"]
    hidden: Float[Tensor, "b l d"]
    """From which `head` predicts the token after each of the caption's but the last."""


class Coca(nn.Module, Embedder, Writer[Draft]):
    """A picture encoder with two attentional poolers, and a decoder in two halves (2205.01917, section 3.2).

    The decoder's first half reads words alone; a learned token behind them, which no word sees, gives the text's
    vector. Its second half reads the picture's latents and writes the caption. The picture's vector is read from the
    latents (the paper's cascade). Differs from the paper: poolers have an MLP, and the learned token no position, so
    that it may stand right of any number of pads.
    """

    bias = None

    def __init__(self, config: CocaConfig):
        super().__init__()
        self.config = config
        self.vision = cast("Vit | Conv", build_vision(config.vision))
        width, heads = config.decoder.width, config.decoder.heads
        self.caption_pool = LatentReader(config.latents, width, heads, context_width=self.vision.width)
        self.norm_latents = nn.LayerNorm(width)
        self.image_pool = LatentReader(1, width, heads)
        self.norm_image = nn.LayerNorm(width)
        for pool in (self.caption_pool, self.image_pool):
            init_weights(pool, 1)
        self.decoder = CausalDecoder(config.decoder, width)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.norm_text = nn.LayerNorm(width)
        self.project_image = projection(width, config.embed_dim)
        self.project_text = projection(width, config.embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(START_LOG_SCALE["softmax"]))

    def encode(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """The latents, which the decoder reads."""
        return Encoded(tokens=self.norm_latents(self.caption_pool(self.vision(images)).tokens))

    def embed_images(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b e"]:
        """One vector of unit length per picture."""
        return self._image_vectors(self.encode(images))

    def embed_texts(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """One vector of unit length per text, which ends at its first EOT."""
        return self._text_vectors(self._read_words(ids))

    def pairs(self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]) -> Pairs:
        """All that training needs, each half computed once; ValueError for a text without EOT."""
        seen, words = self.encode(images), self._read_words(ids)
        x = words[:, : ids.shape[1] - 1]
        for block in self.decoder.blocks[self.config.decoder.unimodal_depth :]:
            x = block(x, causal=True, context=block.project(seen.tokens))
        return Pairs(self._image_vectors(seen), self._text_vectors(words), self.decoder.norm(x))

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

    @property
    def looks(self) -> bool:
        """There are maps of where it looked."""
        return True

    def attention_maps(
        self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l rows columns"]:
        """Where it looked when it predicted the token after each of `ids`, through the latents: their share of each
        word times the picture's share of each of them; mean over layers and heads, sums to 1 over the grid."""
        maps = self.decoder.attention_maps(ids, self.encode(images)).mean((1, 2))
        maps = maps @ self.caption_pool.weights(self.vision(images)).mean(1)
        return maps.unflatten(2, self.vision.grid((images.shape[2], images.shape[3])))

    def _image_vectors(self, seen: Encoded) -> Float[Tensor, "b e"]:
        pooled = self.image_pool(seen).pooled
        assert pooled is not None
        return unit(self.project_image(self.norm_image(pooled)))

    def _read_words(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l+1 d"]:
        """The decoder's first half on the words and, behind them, the token that reads them all."""
        x = torch.cat([self.decoder.embed(ids), self.cls.expand(len(ids), 1, -1)], 1)
        keep = nn.functional.pad(text_keep(ids, self.rules.eot), (0, 1), value=True)
        for block in self.decoder.blocks[: self.config.decoder.unimodal_depth]:
            x = block(x, keep=keep, causal=True)
        return x

    def _text_vectors(self, words: Float[Tensor, "b l d"]) -> Float[Tensor, "b e"]:
        return unit(self.project_text(self.norm_text(words[:, -1])))


__all__ = ["Coca", "CocaConfig", "Pairs"]
