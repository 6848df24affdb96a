"""Attention to a context of any length that keeps nothing of the context: it streams through in chunks.

Letters: b batch · h heads · m queries · n tokens of context, p of a chunk · c channels · k, v width of a key, a value.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ELEMENTS = 2**20
"""Of a chunk's attention map, all rows and heads together: as much as stays in a core's cache."""


def stream_attention(
    queries: Float[Tensor, "b h m k"],
    context: Float[Tensor, "b n c"],
    key_value: Float[Tensor, "h_k_v c"],
    eps: float,
    keep: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b h m v"]:
    """What queries read of a context that is normalised (without a gain), then projected to keys and to values.

    The same as projecting the whole and `scaled_dot_product_attention`, and about twice as fast on a CPU for the tens
    of thousands of tokens that latents read: normalised tokens, keys, values and the map exist for one chunk at a time
    and are computed again for the gradient (online softmax, 1805.02867; recomputation as in 2205.14135). Under
    autocast it computes in its type. A row whose tokens are all masked reads zeros.
    """
    kind = context.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else queries.dtype
    read = _Stream.apply(queries * queries.shape[-1] ** -0.5, context, key_value, eps, keep, dtype)
    return read if keep is None else read.masked_fill(~keep.any(1)[:, None, None, None], 0.0)


class _Stream(torch.autograd.Function):
    """Scaled queries, context and weights in; of n tokens' worth it saves the context alone."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, context: Tensor, key_value: Tensor, eps: float, keep: Tensor | None, dtype: Any
    ) -> Tensor:
        b, h, m, k = queries.shape
        value_width = len(key_value) // h - k
        with torch.autocast(context.device.type, enabled=False):
            asked, weight = queries.to(dtype), key_value.to(dtype)
            top = asked.new_full((b, h, m, 1), torch.finfo(dtype).min)
            total = asked.new_zeros((b, h, m, 1), dtype=_sums(dtype))
            read = asked.new_zeros((b, h, m, value_width), dtype=_sums(dtype))
            for part in _chunks(queries, context):
                _, keys, values = _project(context[:, part], weight, asked, eps)
                scores = _scores(asked, keys, keep, part)
                higher = torch.maximum(top, scores.amax(-1, keepdim=True))
                fade = (top.to(total.dtype) - higher).exp()
                likely = scores.sub_(higher).exp_()
                total = total * fade + likely.sum(-1, keepdim=True, dtype=total.dtype)
                read = read * fade + likely @ values.transpose(-2, -1)
                top = higher
            read = (read / total).to(queries.dtype)
        ctx.save_for_backward(queries, context, key_value, keep, top, total, read)
        ctx.eps, ctx.dtype = eps, dtype
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With p = e / total: the gradients of scores are e (g·v - g·read) / total, so that g is divided once."""
        queries, context, key_value, keep, top, total, read = ctx.saved_tensors
        dtype, wants_context = ctx.dtype, ctx.needs_input_grad[1]
        with torch.autocast(context.device.type, enabled=False):
            asked, weight = queries.to(dtype), key_value.to(dtype)
            share = grad / total
            offset = (share * read).sum(-1, keepdim=True).to(dtype)
            share = share.to(dtype)
            grad_queries = torch.zeros_like(read[..., :1]).expand(queries.shape).to(total.dtype, copy=True)
            grad_weight = torch.zeros_like(key_value, dtype=total.dtype)
            grad_context = torch.empty_like(context) if wants_context else None
            for part in _chunks(queries, context):
                tokens = context[:, part].detach().requires_grad_(wants_context)
                with torch.set_grad_enabled(wants_context):
                    normed, keys, values = _project(tokens, weight, asked, ctx.eps)
                likely = _scores(asked, keys, keep, part).sub_(top).exp_()
                grad_values = share.transpose(-2, -1) @ likely
                grad_scores = (share @ values).sub_(offset).mul_(likely)
                grad_queries += grad_scores @ keys.transpose(-2, -1)
                grad_keys = asked.transpose(-2, -1) @ grad_scores
                both = torch.cat([grad_keys.flatten(1, 2), grad_values.flatten(1, 2)], 1)
                grad_weight += (both @ normed.detach()).sum(0)
                if grad_context is not None:
                    back = (both.transpose(1, 2) @ weight).to(normed.dtype)
                    (grad_context[:, part],) = torch.autograd.grad(normed, tokens, back)
        return grad_queries.to(queries.dtype), grad_context, grad_weight.to(key_value.dtype), None, None, None


def _chunks(queries: Tensor, context: Tensor) -> list[slice]:
    b, h, m, _ = queries.shape
    size = max(64, ELEMENTS // (b * h * m))
    return [slice(start, start + size) for start in range(0, context.shape[1], size)]


def _project(
    tokens: Float[Tensor, "b p c"], weight: Float[Tensor, "h_k_v c"], queries: Float[Tensor, "b h m k"], eps: float
) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b h k p"], Float[Tensor, "b h v p"]]:
    """The normalised tokens of a chunk, their keys and their values; tokens last, as the products want them."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=eps).to(weight.dtype)
    h, k = queries.shape[1], queries.shape[3]
    keys, values = (weight.detach() @ normed.detach().transpose(1, 2)).split([h * k, len(weight) - h * k], 1)
    return normed, keys.unflatten(1, (h, k)), values.unflatten(1, (h, -1))


def _scores(queries: Tensor, keys: Tensor, keep: Tensor | None, part: slice) -> Float[Tensor, "b h m p"]:
    scores = queries @ keys
    if keep is not None:
        scores.masked_fill_(~keep[:, None, None, part], torch.finfo(scores.dtype).min)
    return scores


def _sums(dtype: torch.dtype) -> torch.dtype:
    """In what sums over a long context are taken."""
    return torch.promote_types(dtype, torch.float32)
