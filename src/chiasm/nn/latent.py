"""Learned queries that read a context: attention pooling, Perceiver, resampler."""

from __future__ import annotations

import torch
from torch import nn

from chiasm.nn.attention import Attention
from chiasm.nn.block import Activation, Block, FeedForward
from chiasm.types import Encoded


class LatentReader(nn.Module):
    """A fixed number of learned latents that read a context by cross-attention (2103.03206, section 3.1).

    One latent and no blocks is attention pooling; many latents and several blocks are the Perceiver's encoder. Queries
    and context are normalised (unless `norm_read` is False: weights from elsewhere may have been trained without),
    latents start at std 0.02. The read costs latents × context: linear in the context's length, not constant; only the
    blocks' cost is independent of it.
    """

    def __init__(
        self,
        latents: int,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        blocks: int = 0,
        norm_read: bool = True,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.norm_latents = nn.LayerNorm(width) if norm_read else nn.Identity()
        self.norm_context = nn.LayerNorm(context_width or width) if norm_read else nn.Identity()
        self.read = Attention(width, heads, context_width=context_width)
        self.norm_mlp = nn.LayerNorm(width, norm_eps)
        self.mlp = FeedForward(width, round(width * mlp_ratio), activation=activation)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))

    def forward(self, context: Encoded) -> Encoded:
        """`Encoded` of m latents; `pooled` is their mean. Masked tokens of the context leave no trace."""
        x = self.latents.expand(context.tokens.shape[0], -1, -1)
        keys = self.read.project(self.norm_context(context.tokens))
        x = x + self.read(self.norm_latents(x), keys, keep=context.keep)
        x = x + self.mlp(self.norm_mlp(x))
        for block in self.blocks:
            x = block(x)
        return Encoded(tokens=x, pooled=x.mean(1))
