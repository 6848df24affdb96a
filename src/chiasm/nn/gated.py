"""Flamingo's two parts: the gated layer that shows pictures to a language model, and the resampler that shortens them.

Letters: b batch · l text length · n what is read · d width · t pictures · f frames · m latents · c width of pictures.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chiasm.nn.attention import Attention, KeyValues
from chiasm.nn.block import FeedForward


class GatedCross(nn.Module):
    """Cross-attention and a feed-forward layer behind tanh gates (2204.14198, section 3.1.2).

    The gates start at 0: at first the layer is the identity, and the language model around it what it was.
    """

    def __init__(self, width: int, heads: int, *, context_width: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm_cross = nn.LayerNorm(width)
        self.attend = Attention(width, heads, context_width=context_width)
        self.gate_cross = nn.Parameter(torch.zeros(()))
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, round(width * mlp_ratio))
        self.gate_mlp = nn.Parameter(torch.zeros(()))

    def project(self, context: Float[Tensor, "b n c"]) -> KeyValues:
        """The keys and values that `forward` reads."""
        return self.attend.project(context)

    def forward(
        self, x: Float[Tensor, "r l d"], context: KeyValues, keep: Bool[Tensor, "r l n"]
    ) -> Float[Tensor, "r l d"]:
        """The same shape; a token that may read nothing gets exactly zero from the cross-attention.

        The rows r are those of the context, or several side by side for each of them (beams).
        """
        shared = len(context.keys)
        queries = self.norm_cross(x).view(shared, -1, x.shape[-1])
        read = self.attend(queries, context, keep=keep.view(shared, -1, keep.shape[-1])).view_as(x)
        read = read.masked_fill(~keep.any(-1, keepdim=True), 0.0)  # the output's bias too
        x = x + self.gate_cross.tanh() * read
        return x + self.gate_mlp.tanh() * self.mlp(x, self.norm_mlp)


class Resampler(nn.Module):
    """A picture's tokens, or those of all frames of a video, as a fixed number of latents (2204.14198, section 3.1.1).

    Unlike in a Perceiver, every layer reads the input again, and keys and values are of the input and the latents
    together. Each frame's tokens carry its learned time; positions within a frame are the picture encoder's.
    """

    def __init__(self, latents: int, width: int, heads: int, *, depth: int, frames: int = 1, mlp_ratio: float = 4.0):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.times = nn.Parameter(torch.randn(frames, width) * 0.02)
        self.layers = nn.ModuleList(ResamplerLayer(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "b t f n c"]) -> Float[Tensor, "b t m c"]:
        """The latents of each picture or video, of up to as many frames as it has times; ValueError for more."""
        b, t, frames, n, _ = tokens.shape
        if frames > len(self.times):
            raise ValueError(f"a video of {frames} frames does not fit {len(self.times)} times")
        read = (tokens + self.times[:frames, None]).view(b * t, frames * n, -1)
        x = self.latents.expand(b * t, -1, -1)
        for layer in self.layers:
            x = layer(x, read)
        return self.norm(x).unflatten(0, (b, t))


class ResamplerLayer(nn.Module):
    """One reading of the input, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm_latents = nn.LayerNorm(width)
        self.norm_input = nn.LayerNorm(width)
        self.read = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, round(width * mlp_ratio))

    def forward(self, x: Float[Tensor, "b m c"], tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b m c"]:
        """The latents after it."""
        latents = self.norm_latents(x)
        x = x + self.read(latents, self.read.project(torch.cat([self.norm_input(tokens), latents], 1)))
        return x + self.mlp(x, self.norm_mlp)
