"""The transformer block: pre-norm self-attention, optional cross-attention, feed-forward."""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chiasm.machine import give_back_memory
from chiasm.nn.attention import Attention, KeyValueCache, KeyValues
from chiasm.nn.linear import linear_of

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


class QuickGelu(nn.Module):
    """x · sigmoid(1.702 x), as OpenAI's CLIP has it; written with SiLU, which is one fused operator."""

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The same shape."""
        return F.silu(1.702 * x) / 1.702


class FeedForward(nn.Sequential):
    """Two layers with a GELU (the erf one, unless weights from elsewhere want another) between them."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, activation: Activation = "gelu"):
        acts = {"gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU("tanh"), "quick_gelu": QuickGelu}
        layers = [nn.Linear(width, hidden), acts[activation](), nn.Linear(hidden, width)]
        super().__init__(*layers, *([nn.Dropout(dropout)] if dropout else []))

    def forward(self, x: Float[Tensor, "*n d"], norm: nn.Module | None = None) -> Float[Tensor, "*n d"]:
        """The same shape; of `norm(x)` if a norm is given."""
        if not torch.is_grad_enabled():
            return super().forward(x if norm is None else norm(x))
        up, down = cast(nn.Linear, self[0]), cast(nn.Linear, self[2])
        hidden = up(x) if norm is None else linear_of(norm, x, up.weight, up.bias)
        x = linear_of(self[1], hidden, down.weight, down.bias)
        return self[3](x) if len(self) > 3 else x


class Block(nn.Module):
    """A pre-norm transformer block (1706.03762 with the norms of 2002.04745), with cross-attention on request.

    Cross-attention is there when `context_width` is given; its keys and values come from `project`, once per context.
    With `checkpointing`, training keeps of a block no more than its input, and computes the rest a second time
    (1604.06174).
    """

    checkpointing = False

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        key_width: int | None = None,
        value_width: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.norm_self = nn.LayerNorm(width, norm_eps)
        self.attend_self = Attention(width, heads, key_width=key_width, value_width=value_width)
        self.reads_context = context_width is not None
        if context_width is not None:
            self.norm_cross = nn.LayerNorm(width, norm_eps)
            self.attend_cross = Attention(width, heads, context_width=context_width)
        self.norm_mlp = nn.LayerNorm(width, norm_eps)
        self.mlp = FeedForward(width, round(width * mlp_ratio), dropout, activation)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def project(self, context: Float[Tensor, "b n c"]) -> KeyValues:
        """The keys and values that this block's cross-attention will read."""
        return self.attend_cross.project(context)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        *,
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        context: KeyValues | None = None,
        context_keep: Bool[Tensor, "pictures m"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The block applied to `x`; with a `cache`, `x` continues the tokens that the cache has seen."""
        if self.checkpointing and torch.is_grad_enabled():
            given = x, keep, causal, cache, context, context_keep
            return cast(Tensor, checkpoint(self._forward, *given, use_reentrant=False))
        return self._forward(x, keep, causal, cache, context, context_keep)

    def _forward(
        self,
        x: Float[Tensor, "b l d"],
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None,
        causal: bool,
        cache: KeyValueCache | None,
        context: KeyValues | None,
        context_keep: Bool[Tensor, "pictures m"] | None,
    ) -> Float[Tensor, "b l d"]:
        x = x + self._self(x, keep, causal, cache)
        if context is not None:
            # Beams of one picture are further queries to the same keys, so that no key is ever copied.
            queries = self.norm_cross(x).view(context.keys.shape[0], -1, x.shape[-1])
            x = x + self.drop(self.attend_cross(queries, context, keep=context_keep)).view_as(x)
        return x + self.mlp(x, self.norm_mlp)

    def cross_weights(
        self, x: Float[Tensor, "b l d"], context: KeyValues, context_keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b h l n"]:
        """The map of the causal block's cross-attention, for callers who want to see it."""
        x = x + self._self(x, None, True, None)
        return self.attend_cross.weights(self.norm_cross(x), context, keep=context_keep)

    def self_weights(
        self,
        x: Float[Tensor, "b l d"],
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b h l l"]:
        """The map of the self-attention, for callers who want to see it."""
        normed = self.norm_self(x)
        return self.attend_self.weights(normed, self.attend_self.project(normed), keep=keep, causal=causal)

    def _self(
        self,
        x: Float[Tensor, "b l d"],
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None,
        causal: bool,
        cache: KeyValueCache | None,
    ) -> Float[Tensor, "b l d"]:
        if cache is None:
            return self.drop(self.attend_self.of_itself(x, self.norm_self, keep=keep, causal=causal))
        normed = self.norm_self(x)
        own = cache.append(self.attend_self.project(normed))
        return self.drop(self.attend_self(normed, own, keep=keep, causal=causal))


def checkpoint_blocks(model: nn.Module) -> None:
    """Let every block of a model compute its activations a second time instead of keeping them.

    What they free goes back to the system, in the whole process (`machine.give_back_memory`).
    """
    give_back_memory()
    for module in model.modules():
        if isinstance(module, Block):
            module.checkpointing = True


def compile_blocks(model: nn.Module) -> None:
    """Have torch.compile make one kernel of each block's operators where they can be one; weights keep their names."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()
