"""One more token through a block that has read the ones before it, in as few calls as that takes.

Of a single row's time in `Block.forward`, half goes into calling modules and looking up what they hold; a `BlockStep`
looks it up once. Its arithmetic is that of the block in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.nn.attention import Attention, KeyValueCache, KeyValues, StaticCache
from chiasm.nn.block import Block


class BlockStep:
    """A block for one token per row; it lives as long as a text is being written."""

    def __init__(self, block: Block):
        own = block.attend_self
        self.heads, self.width = own.heads, own.key_width // own.heads
        self.norm_self, self.norm_mlp = _norm(block.norm_self), _norm(block.norm_mlp)
        self.project = _joined(own)
        self.out = _linear(own.out)
        self.up, self.down = _linear(block.mlp[0]), _linear(block.mlp[2])
        self.act = block.mlp[1].forward
        if block.reads_context:
            self.norm_cross = _norm(block.norm_cross)
            self.query_cross, self.out_cross = _linear(block.attend_cross.query), _linear(block.attend_cross.out)

    def __call__(
        self,
        x: Float[Tensor, "r d"],
        cache: KeyValueCache | StaticCache,
        context: KeyValues | None = None,
        mask: Float[Tensor, "s 1 k n"] | None = None,
    ) -> Float[Tensor, "r d"]:
        """The block applied to the token that follows those in the cache; all of the context can be read.

        With a `mask`, which is added to the scores, `k` texts share what they have read (`KeyValueCache.share`).
        """
        r, d = x.shape
        k = 1 if mask is None else mask.shape[2]
        normed = torch.layer_norm(x, *self.norm_self)
        own = self.project(normed).view(-1, k, 3, self.heads, self.width)
        keys, values = cache.append_stacked(own.narrow(2, 1, 2))
        read = F.scaled_dot_product_attention(own.select(2, 0).transpose(1, 2), keys, values, attn_mask=mask)
        x = x + self.out(read.transpose(1, 2).reshape(r, d))
        if context is not None:
            keys, values = context
            normed = torch.layer_norm(x, *self.norm_cross)
            queries = self.query_cross(normed).view(keys.shape[0], -1, self.heads, self.width)
            read = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values)
            x = x + self.out_cross(read.transpose(1, 2).reshape(r, d))
        normed = torch.layer_norm(x, *self.norm_mlp)
        return x + self.down(self.act(self.up(normed)))


def _norm(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps


def _linear(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if not isinstance(layer, nn.Linear):
        return layer.forward
    return partial(F.linear, weight=layer.weight, bias=layer.bias)


def _joined(own: Attention) -> Callable[[Tensor], Tensor]:
    """Queries, keys and values side by side, by one product where they are plain."""
    query, key_value = own.query, own.key_value
    if not (isinstance(query, nn.Linear) and isinstance(key_value, nn.Linear)):
        parts = _linear(query), _linear(key_value)
        return lambda x: torch.cat([part(x) for part in parts], -1)
    weight, bias = torch.cat([query.weight, key_value.weight]), F.pad(query.bias, (0, len(key_value.weight)))
    return partial(F.linear, weight=weight, bias=bias)
