"""Input adapters of a Perceiver: whatever the modality, a sequence of contents, each beside its position.

Letters: b batch · n tokens · f values of a content · d channels of a token · w channels common to all modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.models.inputs import (
    ConvInput,
    Given,
    InputConfig,
    Inputs,
    MelInput,
    PictureInput,
    Positions,
    TextInput,
    VideoInput,
    WaveInput,
)
from chiasm.models.patches import build_patches, check_size
from chiasm.nn import TokenEmbed, fourier_features
from chiasm.types import Encoded


class TextAdapter(nn.Module):
    """A table of tokens plus one of positions."""

    def __init__(self, config: TextInput):
        super().__init__()
        self.channels = config.width
        self.embed = TokenEmbed(config.vocabulary, config.rules.context, config.width)

    def forward(self, ids: Int[Tensor, "b n"], keep: Bool[Tensor, "b n"] | None = None) -> Encoded:
        """One token per id; ValueError for texts longer than the table of positions."""
        return Encoded(tokens=self.embed(ids), keep=keep)


class ConvAdapter(nn.Module):
    """A convolution of 7 × 7 with stride 2, ReLU, and max-pooling of 3 × 3 with stride 2, as in the paper.

    Differs from the paper: there is no batch norm after the convolution, so that a picture's features do not depend on
    its batch; published weights have it folded into the convolution.
    """

    def __init__(self, config: ConvInput):
        super().__init__()
        self.size = config.size
        self.conv = nn.Conv2d(3, config.width, 7, stride=2, padding=3)
        self.positions = PositionTable(config.positions, config.grid)
        self.channels = config.width + self.positions.channels

    def forward(self, images: Float[Tensor, "b c height width"], keep: Bool[Tensor, " b"] | None = None) -> Encoded:
        """One token per place of the pooled grid; ValueError for pictures of another size."""
        check_size("pictures", tuple(images.shape[2:]), self.size)
        features = F.max_pool2d(F.relu(self.conv(images)), 3, 2).flatten(2).transpose(1, 2)
        kept = None if keep is None else keep[:, None].expand(features.shape[:2])
        return Encoded(tokens=self.positions.beside(features), keep=kept)


class PatchAdapter(nn.Module):
    """Patches of a picture, a video or a sound: as they are, or projected to a width."""

    def __init__(self, config: PictureInput | VideoInput | WaveInput | MelInput):
        super().__init__()
        self.patches = build_patches(config)
        values = self.patches.values
        self.project = nn.Identity() if config.width is None else nn.Linear(values, config.width)
        self.positions = PositionTable(config.positions, self.patches.grid)
        self.channels = (config.width or values) + self.positions.channels

    def forward(self, values: Float[Tensor, "b *values"], keep: Bool[Tensor, "b *kept"] | None = None) -> Encoded:
        """One token per patch; ValueError for what is not of the model's size."""
        cut = self.patches(values, keep)
        return Encoded(tokens=self.positions.beside(self.project(cut.tokens)), keep=cut.keep)


class PositionTable(nn.Module):
    """The positions of a grid's places: Fourier features, or learned."""

    def __init__(self, config: Positions, grid: tuple[int, ...]):
        super().__init__()
        self.config, self.grid = config, grid
        self.channels = config.channels(len(grid))
        self.table = nn.Parameter(torch.randn(math.prod(grid), config.width) * 0.02) if config.learned else None

    def forward(self, device: torch.device) -> Float[Tensor, "n p"]:
        """The positions of all places, in the order of the grid."""
        if self.table is not None:
            return self.table
        return _fourier_table(self.grid, self.config.bands, self.config.max_frequency, device)

    def beside(self, contents: Float[Tensor, "b n f"]) -> Float[Tensor, "b n d"]:
        """The contents of the first n places, each with its position."""
        b, n, _ = contents.shape
        return torch.cat([contents, self(contents.device)[:n].expand(b, -1, -1)], -1)


@lru_cache(maxsize=16)
def _fourier_table(
    grid: tuple[int, ...], bands: int, max_frequency: float | None, device: torch.device
) -> Float[Tensor, "n p"]:
    with torch.inference_mode(False), torch.no_grad():  # so that what inference made serves training too
        return fourier_features(grid, bands, max_frequency).to(device)


Adapter = TextAdapter | ConvAdapter | PatchAdapter


def build_adapter(config: InputConfig) -> Adapter:
    """The adapter that a configuration describes."""
    match config:
        case TextInput():
            return TextAdapter(config)
        case ConvInput():
            return ConvAdapter(config)
        case _:
            return PatchAdapter(config)


class Multimodal(nn.Module):
    """Any modalities as one sequence: each padded to a common width by channels learned for it (2107.14795, 3.3).

    One modality alone stays as it is. What is not given, or is masked, is not read.
    """

    def __init__(self, inputs: Inputs):
        super().__init__()
        adapters = {name: build_adapter(config) for name, config in inputs.named().items()}
        self.adapters = nn.ModuleDict(adapters)
        several = len(adapters) > 1
        self.width = max(adapter.channels for adapter in adapters.values()) + several * inputs.modality_width
        pads = {name: torch.randn(self.width - adapter.channels) * 0.02 for name, adapter in adapters.items()}
        self.modalities = nn.ParameterDict({name: nn.Parameter(pad) for name, pad in pads.items() if several})

    def forward(self, values: Mapping[str, Given], hidden: Mapping[str, Bool[Tensor, "b _"]] | None = None) -> Encoded:
        """The tokens of all that is given, w channels each; `hidden` ones are not read. ValueError for nothing."""
        names = [name for name in self.adapters if name in values]
        if not names:
            raise ValueError(f"none of {', '.join(self.adapters)} is given")
        read = [self._read(name, values[name], (hidden or {}).get(name)) for name in names]
        if all(encoded.keep is None for encoded in read):
            return Encoded(tokens=torch.cat([encoded.tokens for encoded in read], 1))
        keeps = [all_kept(encoded) for encoded in read]
        return Encoded(tokens=torch.cat([encoded.tokens for encoded in read], 1), keep=torch.cat(keeps, 1))

    def _read(self, name: str, given: Given, hidden: Bool[Tensor, "b n"] | None) -> Encoded:
        encoded = self.adapters[name](given.values, given.keep)
        tokens = encoded.tokens
        if name in self.modalities:
            pad = self.modalities[name].expand(*tokens.shape[:2], -1)
            tokens = torch.cat([tokens, pad], -1)
        return Encoded(tokens=tokens, keep=encoded.keep if hidden is None else all_kept(encoded) & ~hidden)


def all_kept(encoded: Encoded) -> Bool[Tensor, "b n"]:
    """`keep`, also where it is None."""
    if encoded.keep is not None:
        return encoded.keep
    return torch.ones(encoded.tokens.shape[:2], dtype=torch.bool, device=encoded.tokens.device)


__all__ = [
    "Adapter",
    "ConvAdapter",
    "Multimodal",
    "PatchAdapter",
    "PositionTable",
    "TextAdapter",
    "all_kept",
    "build_adapter",
]
