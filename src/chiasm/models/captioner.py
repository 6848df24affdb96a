"""The captioner: a picture encoder, a causal decoder, and four ways in which the one reads the other.

Letters: b batch · n tokens of a picture · m latents · l text length · d width of the decoder · c width of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.models.abilities import Writer
from chiasm.models.decoder import CausalDecoder, Draft, WriterConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import Conv, ConvConfig, Vit, VitConfig, build_vision
from chiasm.nn import LatentReader, init_weights
from chiasm.types import Encoded

CaptionerFusion = Literal["cross", "early", "late", "perceiver"]
"""How the decoder reads a picture: by cross-attention; as tokens in front of the words; as one such token; or by
cross-attention to latents that have read it."""


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(WriterConfig):
    """Sizes of both halves."""

    vision: VitConfig | ConvConfig = field(default_factory=VitConfig)
    fusion: CaptionerFusion = "cross"
    latents: int = 32
    """How many, with fusion perceiver."""
    latent_blocks: int = 1
    """Blocks in which latents read each other."""

    def __post_init__(self) -> None:
        if self.latents < 1 or self.latent_blocks < 0:
            raise ValueError(f"there must be a latent, and no fewer than 0 blocks, not {self.latents} and "
                             f"{self.latent_blocks}")  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size


def with_fusion(config: CaptionerConfig, fusion: CaptionerFusion) -> CaptionerConfig:
    """The same captioner with another fusion than cross, its depth in other places.

    late: as it is. early: the encoder's blocks go to the decoder. perceiver: they go to the latents, for which the read
    counts as one block. A convolutional encoder keeps its stages in any case. ValueError where another fusion than
    cross has moved them already.
    """
    if fusion == config.fusion:
        return config
    if config.fusion != "cross":
        raise ValueError(f"the captioner's fusion is {config.fusion} already, so its depth is not where cross has it")
    if fusion == "late" or isinstance(config.vision, ConvConfig):
        return replace(config, fusion=fusion)
    depth, vision = config.vision.depth, replace(config.vision, depth=0)
    if fusion == "perceiver":
        return replace(config, fusion=fusion, vision=vision, latent_blocks=max(0, depth - 1))
    decoder = replace(config.decoder, depth=config.decoder.depth + depth)
    return replace(config, fusion=fusion, vision=vision, decoder=decoder)


class PictureTokens(nn.Module):
    """A picture as tokens in front of words: of the words' width, with a learned vector that says what they are."""

    def __init__(self, context_width: int, width: int):
        super().__init__()
        self.project = nn.Linear(context_width, width) if context_width != width else nn.Identity()
        self.mark = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, seen: Encoded) -> Encoded:
        """As many tokens as there were."""
        return Encoded(tokens=self.project(seen.tokens) + self.mark, keep=seen.keep)


class PictureLatents(nn.Module):
    """A picture as a fixed number of latents that have read it (2103.03206), normalised as an encoder's tokens are."""

    def __init__(self, config: CaptionerConfig, context_width: int):
        super().__init__()
        width, heads = config.decoder.width, config.decoder.heads
        self.reader = LatentReader(
            config.latents, width, heads, context_width=context_width, blocks=config.latent_blocks
        )
        self.norm = nn.LayerNorm(width)
        init_weights(self, 1 + config.latent_blocks)

    def forward(self, seen: Encoded) -> Encoded:
        """The latents."""
        return Encoded(tokens=self.norm(self.reader(seen).tokens))


class Captioner(nn.Module, Writer[Draft]):
    """Picture in, text out: a picture encoder, a causal decoder, and the fusion between them.

    cross: cross-attention in every block (1502.03044; 2101.10804). early: one sequence of picture and words with a
    prefix-causal mask, every block for both (as PaliGemma, 2407.07726, section 3.2). late: the same, the picture being
    its pooled vector alone (as 1411.4555, section 3.1). perceiver: cross-attention to latents that have read the
    picture (as Flamingo's resampler, 2204.14198, section 3.1.1). But for late, what is read is the grid's tokens and,
    where the encoder pools, the pooled vector as one more token in front.
    """

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.config = config
        self.vision = cast("Vit | Conv", build_vision(config.vision))
        width, context_width = config.decoder.width, self.vision.width
        match config.fusion:
            case "cross":
                self.bridge = nn.Identity()
                self.decoder = CausalDecoder(config.decoder, context_width)
            case "perceiver":
                self.bridge = PictureLatents(config, context_width)
                self.decoder = CausalDecoder(config.decoder, width)
            case "early" | "late":
                self.bridge = PictureTokens(context_width, width)
                self.decoder = CausalDecoder(config.decoder)

    def see(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """The tokens that the encoder hands on."""
        seen = self.vision(images)
        if self.config.fusion == "late":
            return Encoded(tokens=(seen.mean() if seen.pooled is None else seen.pooled)[:, None])
        if seen.pooled is None:
            return seen
        return Encoded(tokens=torch.cat([seen.pooled[:, None], seen.tokens], 1))

    def encode(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """What the decoder reads of each picture: its context, or the prefix of its words."""
        return self.bridge(self.see(images))

    def forward(self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` predicts the token after each of `ids`."""
        return self.decoder(ids, **self._read(images))

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Logits of hidden states, all of them or a selection."""
        return self.decoder.head(hidden)

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""
        return self.config.decoder.rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> Draft:
        """Encode the pictures once; nothing written yet."""
        return self.decoder.start(beams=beams, **self._read(images))

    def step(self, ids: Int[Tensor, " r"], draft: Draft) -> Float[Tensor, "r v"]:
        """Append one token to every row; returns the next token's logits."""
        return self.decoder.step(ids[:, None], draft)[:, -1]

    @property
    def looks(self) -> bool:
        """Whether there are maps of where it looked."""
        return self.config.fusion != "late"

    def attention_maps(
        self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l rows columns"]:
        """Where the decoder looked when it predicted the token after each of `ids`: mean over layers and heads.

        With perceiver, through the latents: their share of each word, times the picture's share of each latent when
        they read it (the blocks between latents are left out). Shares that sum to 1 over the grid; to less where the
        encoder's pooled token took its part, and with early, where the words before took theirs. ValueError with late:
        one vector has no places.
        """
        if not self.looks:
            raise ValueError("late fusion reads one vector of a picture, which has no places to look at")
        maps = self.decoder.attention_maps(ids, **self._read(images)).mean((1, 2))
        if isinstance(self.bridge, PictureLatents):
            maps = maps @ self.bridge.reader.weights(self.see(images)).mean(1)
        rows, columns = self.vision.grid((images.shape[2], images.shape[3]))
        return maps[:, :, maps.shape[2] - rows * columns :].unflatten(2, (rows, columns))

    def _read(self, images: Float[Tensor, "b c height width"]) -> dict[str, Encoded]:
        """What is read of each picture, by the name of the decoder's argument."""
        return {"prefix" if self.config.fusion in ("early", "late") else "context": self.encode(images)}
