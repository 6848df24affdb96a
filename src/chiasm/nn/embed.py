"""How pictures and words become tokens: patches, token tables, and positions (learned, sin-cos, Fourier)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class PatchEmbed(nn.Module):
    """Cut pictures into patches and project each (2010.11929, eq. 1): a convolution whose stride is its kernel.

    It is computed as one product of matrices: quicker on CPUs, and a grid's vectors lie together in memory.
    """

    def __init__(self, patch_pixels: int, width: int, channels: int = 3):
        super().__init__()
        self.patch_pixels = patch_pixels
        self.project = nn.Conv2d(channels, width, patch_pixels, stride=patch_pixels)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """One vector per patch, as a grid; ValueError where the picture is not a whole number of patches."""
        if any(side % self.patch_pixels for side in images.shape[2:]):
            raise ValueError(f"a picture of {tuple(images.shape[2:])} pixels is not a whole number of "
                             f"{self.patch_pixels}-pixel patches")  # fmt: skip
        b, c, height, width = images.shape
        p = self.patch_pixels
        patches = images.reshape(b, c, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.project.weight.flatten(1), self.project.bias).permute(0, 3, 1, 2)


class TokenEmbed(nn.Module):
    """A table of tokens plus a table of learned positions; the position of the first token is an argument."""

    def __init__(self, vocabulary: int, context: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context, width) * 0.02)

    def forward(
        self, ids: Int[Tensor, "b l"], start: int = 0, positions: Int[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """Token and position vectors added, each token at its own position if any are given.

        ValueError beyond the position table.
        """
        end = start + ids.shape[1]
        if end > len(self.positions):
            raise ValueError(f"a text of {end} tokens does not fit a context of {len(self.positions)}")
        own = self.positions[start:end] if positions is None else F.embedding(positions, self.positions)
        return self.tokens(ids) + own


class GridPositions(nn.Module):
    """A learned vector for each place of a grid, starting as sin-cos; interpolated where the grid differs."""

    def __init__(self, rows: int, columns: int, width: int):
        super().__init__()
        self.table = nn.Parameter(sincos_grid(rows, columns, width).permute(2, 0, 1).contiguous())

    def forward(self, rows: int, columns: int) -> Float[Tensor, "d rows columns"]:
        """Positions for a grid of this size."""
        return resize_grid(self.table, rows, columns)


def resize_grid(table: Float[Tensor, "d rows columns"], rows: int, columns: int) -> Float[Tensor, "d height width"]:
    """Positions for another resolution: bicubic in fp32, by target size (not by factor, which rounds wrongly)."""
    if table.shape[1:] == (rows, columns):
        return table
    resized = F.interpolate(table[None].float(), size=(rows, columns), mode="bicubic", align_corners=False)
    return resized[0].to(table.dtype)


def sincos_grid(rows: int, columns: int, width: int) -> Float[Tensor, "rows columns d"]:
    """Fixed 2-D sin-cos positions (2104.02057, as MAE uses them): half the width for the row, half for the column."""
    if width % 4:
        raise ValueError(f"2-D sin-cos positions need a width that is a multiple of 4, not {width}")
    frequencies = 10_000.0 ** (-torch.arange(width // 4) / (width // 4))
    halves = []
    for places in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"):
        angles = places[..., None] * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, -1)


def fourier_features(size: tuple[int, ...], bands: int, max_frequency: float | None = None) -> Float[Tensor, "n f"]:
    """Fourier positions of every place of a grid (2103.03206, section 3.2): f = axes × (2 bands + 1).

    Positions run over [-1, 1]; frequencies are linear from 1 to `max_frequency` / 2 (per axis its size / 2, the
    Nyquist frequency), times π; the raw position is concatenated.
    """
    axes = [torch.linspace(-1.0, 1.0, side) if side > 1 else torch.zeros(1) for side in size]
    features = []
    for side, places in zip(size, torch.meshgrid(*axes, indexing="ij"), strict=True):
        frequencies = torch.linspace(1.0, (max_frequency or side) / 2, bands) * math.pi
        angles = places[..., None] * frequencies
        features += [places[..., None], angles.sin(), angles.cos()]
    return torch.cat(features, -1).flatten(0, -2)
