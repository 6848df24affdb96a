"""Queries that read a context: attention pooling, the Perceiver's two ends, the resampler."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.nn.attention import Attention
from chiasm.nn.block import Activation, Block, FeedForward
from chiasm.nn.stream import stream_attention
from chiasm.types import Encoded


class CrossRead(nn.Module):
    """Queries read a context by cross-attention, then each goes through an MLP (2103.03206, section 3.1).

    Queries and context are normalised (unless `norm_read` is False: weights from elsewhere may have been trained
    without). With `residual` what is read is added to the queries, which otherwise only ask: a query that is a place
    is no part of the answer (2107.14795, appendix E). `key_width` and `value_width` are the width unless given. Costs
    grow with queries × context.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        key_width: int | None = None,
        value_width: int | None = None,
        norm_read: bool = True,
        residual: bool = True,
        mlp_ratio: float = 4.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.norm_queries = nn.LayerNorm(width) if norm_read else nn.Identity()
        self.norm_context = nn.LayerNorm(context_width or width) if norm_read else nn.Identity()
        self.attend = Attention(width, heads, context_width=context_width, key_width=key_width, value_width=value_width)
        self.residual = residual
        self.norm_mlp = nn.LayerNorm(width, norm_eps)
        self.mlp = FeedForward(width, round(width * mlp_ratio), activation=activation)

    def forward(self, queries: Float[Tensor, "b m d"], context: Encoded) -> Float[Tensor, "b m d"]:
        """What each query makes of the context; masked tokens of the context leave no trace."""
        if _is_long(context.tokens) and isinstance(self.norm_context, nn.LayerNorm):
            read = self._stream(self.norm_queries(queries), context, self.norm_context)
        else:
            keys = self.attend.project(self.norm_context(context.tokens))
            read = self.attend(self.norm_queries(queries), keys, keep=context.keep)
        x = queries + read if self.residual else read
        return x + self.mlp(x, self.norm_mlp)

    def weights(self, queries: Float[Tensor, "b m d"], context: Encoded) -> Float[Tensor, "b h m n"]:
        """The attention map that `forward` applies, for callers who want to see it."""
        keys = self.attend.project(self.norm_context(context.tokens))
        return self.attend.weights(self.norm_queries(queries), keys, keep=context.keep)

    def _stream(self, queries: Float[Tensor, "b m d"], context: Encoded, norm: nn.LayerNorm) -> Float[Tensor, "b m d"]:
        """The same without ever holding all keys and values; the norm's gain and bias move into the projection.

        Its bias adds the same to every score of a query, which leaves no trace, and to what is read.
        """
        attend, weight = self.attend, self.attend.key_value.weight
        asked = attend.query(queries).unflatten(-1, (attend.heads, -1)).transpose(1, 2)
        read = stream_attention(asked, context.tokens, weight * norm.weight, norm.eps, context.keep)
        read = read.transpose(1, 2).flatten(2) + F.linear(norm.bias, weight[attend.key_width :])
        if context.keep is not None:
            read = read.masked_fill(~context.keep.any(1)[:, None, None], 0.0)
        return attend.out(read)


LONG = 2048
"""From so many tokens on a CPU reads faster in chunks; GPUs have a kernel of their own."""


def _is_long(tokens: Float[Tensor, "b n c"]) -> bool:
    return tokens.device.type == "cpu" and tokens.shape[1] >= LONG


class LatentReader(nn.Module):
    """A fixed number of learned latents that read a context, and then each other in `blocks` transformer blocks.

    One latent and no blocks is attention pooling; many latents and several blocks are Perceiver IO's encoder
    (2107.14795, section 3.1). Latents start at std 0.02; `reading` goes to `CrossRead`, `mlp_ratio` to the blocks too.
    The read costs latents × context: linear in the context's length, not constant; only the blocks' cost is independent
    of it.
    """

    def __init__(
        self, latents: int, width: int, heads: int, *, blocks: int = 0, mlp_ratio: float = 4.0, **reading: Any
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.read = CrossRead(width, heads, mlp_ratio=mlp_ratio, **reading)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio) for _ in range(blocks))

    def forward(self, context: Encoded) -> Encoded:
        """`Encoded` of m latents; `pooled` is their mean. Masked tokens of the context leave no trace."""
        x = self.read(self._queries(context), context)
        for block in self.blocks:
            x = block(x)
        return Encoded(tokens=x, pooled=x.mean(1))

    def weights(self, context: Encoded) -> Float[Tensor, "b h m n"]:
        """Where each latent reads, for callers who want to see it."""
        return self.read.weights(self._queries(context), context)

    def _queries(self, context: Encoded) -> Float[Tensor, "b m d"]:
        return self.latents.expand(context.tokens.shape[0], -1, -1)
