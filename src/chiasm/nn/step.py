"""One more token through a block that has read the ones before it, in as few calls as that takes.

Of a single row's time in `Block.forward`, half goes into calling modules and looking up what they hold; a `BlockStep`
looks it up once. Its arithmetic is that of the block in evaluation mode.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.nn.attention import KeyValueCache, KeyValues
from chiasm.nn.block import Block


class BlockStep:
    """A block for one token per row; it lives as long as a text is being written."""

    def __init__(self, block: Block):
        own = block.attend_self
        self.heads = own.heads
        self.norm_self, self.norm_mlp = _norm(block.norm_self), _norm(block.norm_mlp)
        self.key_value = own.key_value.weight
        self.query, self.out = _linear(own.query), _linear(own.out)
        self.up, self.down = _linear(block.mlp[0]), _linear(block.mlp[2])
        self.act = block.mlp[1].forward
        if block.reads_context:
            self.norm_cross = _norm(block.norm_cross)
            self.query_cross, self.out_cross = _linear(block.attend_cross.query), _linear(block.attend_cross.out)

    def __call__(
        self, x: Float[Tensor, "r d"], cache: KeyValueCache, context: KeyValues | None = None
    ) -> Float[Tensor, "r d"]:
        """The block applied to the token that follows those in the cache; all of the context can be read."""
        r, d = x.shape
        normed = torch.layer_norm(x, *self.norm_self)
        own = cache.append_stacked(F.linear(normed, self.key_value).view(r, 1, 2, self.heads, -1))
        read = F.scaled_dot_product_attention(F.linear(normed, *self.query).view(r, self.heads, 1, -1), *own)
        x = x + F.linear(read.view(r, d), *self.out)
        if context is not None:
            normed = torch.layer_norm(x, *self.norm_cross)
            queries = F.linear(normed, *self.query_cross).view(len(context.keys), -1, self.heads, d // self.heads)
            read = F.scaled_dot_product_attention(queries.transpose(1, 2), *context)
            x = x + F.linear(read.transpose(1, 2).reshape(r, d), *self.out_cross)
        normed = torch.layer_norm(x, *self.norm_mlp)
        return x + F.linear(self.act(F.linear(normed, *self.up)), *self.down)


def _norm(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps


def _linear(linear: nn.Module) -> tuple[Tensor, Tensor]:
    linear = cast(nn.Linear, linear)
    return linear.weight, linear.bias
