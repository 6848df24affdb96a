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
        self.heads, self.width = own.heads, own.key_width // own.heads
        self.norm_self, self.norm_mlp = _norm(block.norm_self), _norm(block.norm_mlp)
        joined = own.query.weight, own.key_value.weight  # one product instead of two
        self.project = torch.cat(joined), F.pad(own.query.bias, (0, len(own.key_value.weight)))
        self.out = _linear(own.out)
        self.up, self.down = _linear(block.mlp[0]), _linear(block.mlp[2])
        self.act = block.mlp[1].forward
        if block.reads_context:
            self.norm_cross = _norm(block.norm_cross)
            self.query_cross, self.out_cross = _linear(block.attend_cross.query), _linear(block.attend_cross.out)

    def __call__(
        self,
        x: Float[Tensor, "r d"],
        cache: KeyValueCache,
        context: KeyValues | None = None,
        mask: Float[Tensor, "s 1 k n"] | None = None,
    ) -> Float[Tensor, "r d"]:
        """The block applied to the token that follows those in the cache; all of the context can be read.

        With a `mask`, which is added to the scores, `k` texts share what they have read (`KeyValueCache.share`).
        """
        r, d = x.shape
        k = 1 if mask is None else mask.shape[2]
        normed = torch.layer_norm(x, *self.norm_self)
        own = F.linear(normed, *self.project).view(-1, k, 3, self.heads, self.width)
        keys, values = cache.append_stacked(own.narrow(2, 1, 2))
        read = F.scaled_dot_product_attention(own.select(2, 0).transpose(1, 2), keys, values, attn_mask=mask)
        x = x + F.linear(read.transpose(1, 2).reshape(r, d), *self.out)
        if context is not None:
            keys, values = context
            normed = torch.layer_norm(x, *self.norm_cross)
            queries = F.linear(normed, *self.query_cross).view(keys.shape[0], -1, self.heads, self.width)
            read = F.scaled_dot_product_attention(queries.transpose(1, 2), keys, values)
            x = x + F.linear(read.transpose(1, 2).reshape(r, d), *self.out_cross)
        normed = torch.layer_norm(x, *self.norm_mlp)
        return x + F.linear(self.act(F.linear(normed, *self.up)), *self.down)


def _norm(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps


def _linear(linear: nn.Module) -> tuple[Tensor, Tensor]:
    linear = cast(nn.Linear, linear)
    return linear.weight, linear.bias
