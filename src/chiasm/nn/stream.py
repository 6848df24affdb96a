"""Attention to a context of any length that keeps nothing of the context: it streams through in chunks.

Letters: b batch · h heads · m queries · n tokens of context, p of a chunk · c channels · k, v width of a key, a value.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from chiasm.nn.linear import working_dtype

ELEMENTS = 2**20
"""Of a chunk's attention map, or of its keys and values, all rows together: as much as stays in a core's cache."""
SAFE = 40.0
"""No exponential of so large a score, nor a sum of them, leaves the range of fp32 and bf16: it needs no maximum."""


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
    read = _Stream.apply(queries * queries.shape[-1] ** -0.5, context, key_value, eps, keep, working_dtype(queries))
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
            shifted = _largest_score(queries, key_value) > SAFE or dtype == torch.float16
            top = asked.new_full((b, h, m, 1), torch.finfo(dtype).min) if shifted else None
            total = asked.new_zeros((b, h, m, 1), dtype=_sums(dtype))
            read = asked.new_zeros((b, h, m, value_width), dtype=_sums(dtype))
            parts, room = _chunks(asked, context, weight)
            for part in parts:
                _, keys, values = _project(context[:, part], weight, asked, eps)
                likely = _scores(asked, keys, keep, part, room)
                if top is not None:
                    higher = torch.maximum(top, likely.amax(-1, keepdim=True))
                    fade = (top.to(total.dtype) - higher).exp()
                    likely, total, read, top = likely.sub_(higher), total * fade, read * fade, higher
                likely.exp_()
                total += likely.sum(-1, keepdim=True)
                read += likely @ values.transpose(-2, -1)
            total.clamp_(min=torch.finfo(total.dtype).tiny)  # a row without tokens has read nothing
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
            parts, room = _chunks(asked, context, weight)
            other = torch.empty_like(room)
            for part in parts:
                tokens = context[:, part].detach().requires_grad_(wants_context)
                with torch.set_grad_enabled(wants_context):
                    normed, keys, values = _project(tokens, weight, asked, ctx.eps)
                likely = _scores(asked, keys, keep, part, room)
                likely = (likely if top is None else likely.sub_(top)).exp_()
                grad_values = share.transpose(-2, -1) @ likely
                grad_scores = _product(share, values, other).sub_(offset).mul_(likely)
                grad_queries += grad_scores @ keys.transpose(-2, -1)
                grad_keys = asked.transpose(-2, -1) @ grad_scores
                both = torch.cat([grad_keys.flatten(1, 2), grad_values.flatten(1, 2)], 1)
                grad_weight += (both @ normed.detach()).sum(0)
                if grad_context is not None:
                    back = (both.transpose(1, 2) @ weight).to(normed.dtype)
                    (grad_context[:, part],) = torch.autograd.grad(normed, tokens, back)
        return grad_queries.to(queries.dtype), grad_context, grad_weight.to(key_value.dtype), None, None, None


def _chunks(queries: Tensor, context: Tensor, key_value: Tensor) -> tuple[list[slice], Tensor]:
    """Where chunks begin and end, and room for the map of one."""
    b, h, m, _ = queries.shape
    size = ELEMENTS // (b * max(h * m, len(key_value)))
    size = min(max(64, size), 2**15)  # so many weights of at most 1 have a sum in fp16
    parts = [slice(start, start + size) for start in range(0, context.shape[1], size)]
    return parts, queries.new_empty(b * h * m * min(size, context.shape[1]))


def _project(
    tokens: Float[Tensor, "b p c"], weight: Float[Tensor, "h_k_v c"], queries: Float[Tensor, "b h m k"], eps: float
) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b h k p"], Float[Tensor, "b h v p"]]:
    """The normalised tokens of a chunk, their keys and their values; tokens last, as the products want them."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=eps).to(weight.dtype)
    h, k = queries.shape[1], queries.shape[3]
    both = F.linear(weight.detach(), normed.detach().flatten(0, 1))  # so, not as a product of a transposed batch
    both = both.unflatten(1, normed.shape[:2]).transpose(0, 1)
    keys, values = both.split([h * k, len(weight) - h * k], 1)
    return normed, keys.unflatten(1, (h, k)), values.unflatten(1, (h, -1))


def _product(one: Tensor, other: Tensor, room: Tensor) -> Float[Tensor, "b h m p"]:
    """The product of matrices, where the last chunk's was: to be given fresh memory costs as much as to compute it."""
    shape = (*one.shape[:-1], other.shape[-1])
    out = room[: math.prod(shape)].view(shape)
    torch.bmm(one.flatten(0, 1), other.flatten(0, 1), out=out.flatten(0, 1))
    return out


def _scores(queries: Tensor, keys: Tensor, keep: Tensor | None, part: slice, room: Tensor) -> Float[Tensor, "b h m p"]:
    scores = _product(queries, keys, room)
    if keep is not None:
        scores.masked_fill_(~keep[:, None, None, part], torch.finfo(scores.dtype).min)
    return scores


def _largest_score(queries: Float[Tensor, "b h m k"], key_value: Float[Tensor, "h_k_v c"]) -> float:
    """What no score can exceed: a normalised token is no longer than the square root of its channels."""
    _, h, _, k = queries.shape
    channels = queries.float() @ key_value[: h * k].unflatten(0, (h, k)).float()
    return float(channels.norm(dim=-1).max()) * channels.shape[-1] ** 0.5


def _sums(dtype: torch.dtype) -> torch.dtype:
    """In what sums over a long context are taken."""
    return torch.promote_types(dtype, torch.float32)
