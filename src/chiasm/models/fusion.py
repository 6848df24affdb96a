"""Fusions: four ways to join two modalities, which differ in where their depth is spent. Meant to be read side by side.

              depth before             depth in between    depth after            tokens of the result
  Late        all, in the encoders     none                a small head           one: the joined vector
  Early       none                     none                all, on one sequence   those of both modalities
  Cross       half, in the encoders    half, co-attention  none                   those of both modalities
  Perceiver   none                     none                all, on latents        the latents

Each takes a picture and a text (or any other two) and gives one `Encoded`. A modality is missing in rows where its
`keep` is False throughout, or in every row where None is passed for it. Nothing of it is read then ("mask"), or one
learned token is read in its place ("token"); other rows are not touched.

Letters: b batch · n tokens · m latents · d width of the fusion · c width of an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import assert_never

from chiasm.models.perceiver import LatentConfig, PerceiverEncoder, ReadConfig
from chiasm.nn import Block, init_weights
from chiasm.nn.block import FeedForward
from chiasm.types import Encoded

Missing = Literal["mask", "token"]


@dataclass(frozen=True, kw_only=True)
class LateConfig:
    """Sizes of a late fusion; the depth is in the encoders."""

    width: int = 256
    join: Literal["concat", "product", "bilinear"] = "concat"
    """Of the two pooled vectors: side by side, value by value, or a bilinear form of the given rank (1610.04325)."""
    rank: int = 512
    missing: Missing = "mask"


@dataclass(frozen=True, kw_only=True)
class EarlyConfig:
    """Sizes of an early fusion; `depth` counts blocks on the sequence of both modalities."""

    width: int = 256
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    missing: Missing = "mask"


@dataclass(frozen=True, kw_only=True)
class CrossConfig:
    """Sizes of a cross fusion; `depth` counts layers of co-attention, each of which has a block per modality."""

    width: int = 256
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 4.0
    missing: Missing = "mask"


@dataclass(frozen=True, kw_only=True)
class PerceiverFusionConfig:
    """Sizes of a Perceiver as a fusion; `depth` counts blocks on the latents, which read both modalities before."""

    width: int = 256
    depth: int = 5
    heads: int = 4
    latents: int = 32
    reads: int = 1
    """So many of the first blocks have such a read before them: latents that know the question look for its answer."""
    mlp_ratio: float = 4.0
    missing: Missing = "mask"

    def __post_init__(self) -> None:
        if self.reads < 1:
            raise ValueError(f"reads is {self.reads}, it must be at least 1")


FusionConfig = LateConfig | EarlyConfig | CrossConfig | PerceiverFusionConfig


def build_fusion(config: FusionConfig, picture_width: int, text_width: int) -> Late | Early | Cross | PerceiverFusion:
    """The fusion that a configuration describes, for encoders of these widths."""
    match config:
        case LateConfig():
            return Late(config, picture_width, text_width)
        case EarlyConfig():
            return Early(config, picture_width, text_width)
        case CrossConfig():
            return Cross(config, picture_width, text_width)
        case PerceiverFusionConfig():
            return PerceiverFusion(config, picture_width, text_width)
        case _:
            assert_never(config)


class Late(nn.Module):
    """Two vectors joined, and a small head (as the late fusions of 1705.09406, section 6).

    A missing vector is the neutral element of the join: 0 beside the other one, 1 where they are multiplied.
    """

    def __init__(self, config: LateConfig, picture_width: int, text_width: int):
        super().__init__()
        self.config = config
        neutral = 0.0 if config.join == "concat" else 1.0
        self.picture = ModalityVector(config, picture_width, neutral)
        self.text = ModalityVector(config, text_width, neutral)
        joined = {"concat": 2 * config.width, "product": config.width, "bilinear": config.rank}
        self.join = nn.Linear(joined[config.join], config.width)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config.width, 4 * config.width)
        self.norm = nn.LayerNorm(config.width)
        init_weights(self, 1)

    def forward(self, picture: Encoded | None, text: Encoded | None) -> Encoded:
        """The joined vector, as `pooled` and as the one token."""
        rows = _rows(picture, text)
        sides = self.picture(picture, rows), self.text(text, rows)
        x = self.join(torch.cat(sides, -1) if self.config.join == "concat" else sides[0] * sides[1])
        x = self.norm(x + self.mlp(x, self.norm_mlp))
        return Encoded(tokens=x[:, None], pooled=x)


class Early(nn.Module):
    """One sequence of both modalities' tokens through blocks that tell them apart by what marks them (1908.03557)."""

    def __init__(self, config: EarlyConfig, picture_width: int, text_width: int):
        super().__init__()
        self.picture = ModalityTokens(config, picture_width)
        self.text = ModalityTokens(config, text_width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, mlp_ratio=config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        init_weights(self, config.depth)

    def forward(self, picture: Encoded | None, text: Encoded | None) -> Encoded:
        """The tokens of both, the picture's first, and their mean."""
        rows = _rows(picture, text)
        both = _sequence(self.picture(picture, rows), self.text(text, rows))
        x = both.tokens
        for block in self.blocks:
            x = block(x, keep=both.keep)
        return _pooled(replace(both, tokens=self.norm(x)))


class Cross(nn.Module):
    """Layers of co-attention, in which each modality reads the other (1908.02265, section 3.1; 1908.07490)."""

    def __init__(self, config: CrossConfig, picture_width: int, text_width: int):
        super().__init__()
        self.picture = ModalityTokens(config, picture_width)
        self.text = ModalityTokens(config, text_width)
        self.layers = nn.ModuleList(
            CoAttention(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm_picture = nn.LayerNorm(config.width)
        self.norm_text = nn.LayerNorm(config.width)
        self.join = nn.Linear(2 * config.width, config.width)
        init_weights(self, config.depth)

    def forward(self, picture: Encoded | None, text: Encoded | None) -> Encoded:
        """The tokens of both, the picture's first; `pooled` is a linear function of their two means."""
        rows = _rows(picture, text)
        seen, told = self.picture(picture, rows), self.text(text, rows)
        for layer in self.layers:
            seen, told = layer(seen, told)
        seen = replace(seen, tokens=self.norm_picture(seen.tokens))
        told = replace(told, tokens=self.norm_text(told.tokens))
        return replace(_sequence(seen, told), pooled=self.join(torch.cat([seen.mean(), told.mean()], -1)))


class CoAttention(nn.Module):
    """A block for each modality, whose cross-attention reads the other modality as it was before the layer.

    Differs from the papers in its order: a token reads its own modality, then the other (there, the other comes first),
    so that the layer is our one block, twice.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm_picture = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(width)
        self.picture = Block(width, heads, context_width=width, mlp_ratio=mlp_ratio)
        self.text = Block(width, heads, context_width=width, mlp_ratio=mlp_ratio)

    def forward(self, picture: Encoded, text: Encoded) -> tuple[Encoded, Encoded]:
        """Both, with tokens that have read the other's."""
        of_text = self.picture.project(self.norm_text(text.tokens))
        of_picture = self.text.project(self.norm_picture(picture.tokens))
        seen = self.picture(picture.tokens, keep=picture.keep, context=of_text, context_keep=text.keep)
        told = self.text(text.tokens, keep=text.keep, context=of_picture, context_keep=picture.keep)
        return replace(picture, tokens=seen), replace(text, tokens=told)


class PerceiverFusion(nn.Module):
    """A fixed number of latents reads both modalities, once or again, and all depth is on the latents (2103.03206)."""

    def __init__(self, config: PerceiverFusionConfig, picture_width: int, text_width: int):
        super().__init__()
        self.picture = ModalityTokens(config, picture_width)
        self.text = ModalityTokens(config, text_width)
        reads = max(1, min(config.reads, config.depth))
        read = ReadConfig(heads=config.heads, mlp_ratio=config.mlp_ratio)
        latents = LatentConfig(
            latents=config.latents, width=config.width, heads=config.heads, mlp_ratio=config.mlp_ratio, read=read,
            stages=max(1, config.depth), depth=min(1, config.depth), reads=reads, shared=False,
        )  # fmt: skip
        self.reader = PerceiverEncoder(latents, config.width)
        self.norm = nn.LayerNorm(config.width)
        init_weights(self, config.depth + reads)

    def forward(self, picture: Encoded | None, text: Encoded | None) -> Encoded:
        """The latents and their mean."""
        rows = _rows(picture, text)
        latents = self.reader(_sequence(self.picture(picture, rows), self.text(text, rows)))
        return _pooled(Encoded(tokens=self.norm(latents.tokens)))


class ModalityTokens(nn.Module):
    """A modality's tokens at the fusion's width, each marked as this modality's by a learned vector."""

    def __init__(self, config: EarlyConfig | CrossConfig | PerceiverFusionConfig, own_width: int):
        super().__init__()
        self.own_width = own_width
        self.project = nn.Identity() if own_width == config.width else nn.Linear(own_width, config.width)
        self.mark = nn.Parameter(torch.randn(config.width) * 0.02)
        self.absent = nn.Parameter(torch.randn(config.width) * 0.02) if config.missing == "token" else None

    def forward(self, seen: Encoded | None, rows: int) -> Encoded:
        """Tokens with their `keep`; the learned token is the last, and kept only in rows where it stands in."""
        if seen is None:
            nothing = self.mark.new_zeros(rows, 1, self.own_width)
            seen = Encoded(tokens=nothing, keep=torch.zeros(rows, 1, dtype=torch.bool, device=nothing.device))
        tokens = self.project(seen.tokens)
        keep = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if seen.keep is None else seen.keep
        if self.absent is not None:
            tokens = torch.cat([tokens, self.absent.expand(rows, 1, -1)], 1)
            keep = torch.cat([keep, ~keep.any(1, keepdim=True)], 1)
        return Encoded(tokens=tokens + self.mark, keep=keep)


class ModalityVector(nn.Module):
    """A modality's pooled vector (the mean of its tokens, where the encoder pools not) as a late fusion joins it."""

    def __init__(self, config: LateConfig, own_width: int, neutral: float):
        super().__init__()
        width = config.rank if config.join == "bilinear" else config.width
        self.project: nn.Module = nn.Identity() if own_width == width else nn.Linear(own_width, width)
        if config.join == "bilinear":
            self.project = nn.Sequential(nn.Linear(own_width, width), nn.Tanh())
        absent = torch.full((width,), neutral)
        self.absent = nn.Parameter(absent) if config.missing == "token" else nn.Buffer(absent, persistent=False)

    def forward(self, seen: Encoded | None, rows: int) -> Float[Tensor, "b d"]:
        """The vector, or what stands for it where the modality is missing."""
        if seen is None:
            return self.absent.expand(rows, -1)
        vector = self.project(seen.mean() if seen.pooled is None else seen.pooled)
        if seen.keep is None:
            return vector
        return torch.where(seen.keep.any(1, keepdim=True), vector, self.absent)


def _rows(picture: Encoded | None, text: Encoded | None) -> int:
    there = picture or text
    if there is None:
        raise ValueError("a fusion needs a picture or a text, and both are missing")
    return len(there.tokens)


def _sequence(first: Encoded, second: Encoded) -> Encoded:
    assert first.keep is not None and second.keep is not None
    return Encoded(tokens=torch.cat([first.tokens, second.tokens], 1), keep=torch.cat([first.keep, second.keep], 1))


def _pooled(encoded: Encoded) -> Encoded:
    return replace(encoded, pooled=encoded.mean())
