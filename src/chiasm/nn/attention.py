"""One attention for self, cross, causal and cached use.

Letters: b batch · l queries · n keys · d width · h heads · k width of a head (d = h k).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from chiasm.nn.linear import linear_of, working_dtype


class KeyValues(NamedTuple):
    """The projected context that attention reads: computed once, read by as many queries as there are."""

    keys: Float[Tensor, "b h n k"]
    values: Float[Tensor, "b h n k"]

    def select(self, rows: Int[Tensor, " r"]) -> KeyValues:
        """The given rows of the batch, in the given order."""
        return KeyValues(self.keys.index_select(0, rows), self.values.index_select(0, rows))


class KeyValueCache:
    """Keys and values of the tokens seen so far; an argument of a call, never state of a module.

    The buffer doubles when it is full, so that appending a token copies that token only.
    """

    def __init__(self) -> None:
        self.length = 0
        self._buffer: Float[Tensor, "2 b h capacity k"] | None = None

    def append(self, new: KeyValues) -> KeyValues:
        """Remember the keys and values of further tokens; returns those of all tokens so far."""
        return self.append_stacked(torch.stack(new).permute(1, 3, 0, 2, 4))

    def append_stacked(self, new: Float[Tensor, "b n 2 h k"]) -> KeyValues:
        """The same with keys and values in one tensor, as one projection makes them: one copy."""
        start, tokens = self.length, new.shape[1]
        self.length = start + tokens
        buffer = self._buffer
        if buffer is None or self.length > buffer.shape[3]:
            buffer = self._buffer = self._grown(new)
        buffer.narrow(3, start, tokens).copy_(new.permute(2, 0, 3, 1, 4))
        return KeyValues._make(buffer.narrow(3, 0, self.length).unbind())

    @property
    def seen(self) -> Float[Tensor, "2 b h n k"]:
        """Keys and values of all tokens so far; there must be some."""
        assert self._buffer is not None
        return self._buffer.narrow(3, 0, self.length)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows of the batch, in the given order: beams that live on, captions that go on."""
        assert self._buffer is not None
        self._buffer = self._buffer.index_select(1, rows)

    def share(self, rows: int) -> None:
        """Make one row of every `rows` side by side, which holds the tokens of the first, then those of the next, … .

        From then on a token is appended for each of them, in this order.
        """
        self._buffer = self.seen.unflatten(1, (-1, rows)).transpose(2, 3).flatten(3, 4)
        self.length *= rows

    def _grown(self, new: Float[Tensor, "b n 2 h k"]) -> Float[Tensor, "2 b h capacity k"]:
        b, _, _, h, k = new.shape
        grown = new.new_empty(2, b, h, max(16, 2 * self.length), k)
        if self._buffer is not None:
            grown[:, :, :, : self._buffer.shape[3]] = self._buffer
        return grown


class StaticCache:
    """A cache whose buffer never moves, and to which a tensor says in which slot the next token's go.

    All slots are handed out, so whoever reads them masks those that hold nothing yet.
    """

    def __init__(self, buffer: Float[Tensor, "2 b h s k"], slot: Int[Tensor, " 1"]):
        self.buffer, self.slot = buffer, slot

    def append_stacked(self, new: Float[Tensor, "b 1 2 h k"]) -> KeyValues:
        """Remember the keys and values of one more token; returns those of all slots."""
        self.buffer.index_copy_(3, self.slot, new.permute(2, 0, 3, 1, 4))
        return KeyValues._make(self.buffer.unbind())


def causal_keep(queries: int, keys: int, device: torch.device | str = "cpu") -> Bool[Tensor, "l n"]:
    """True where a query may read a key: itself and what lies before it, the last query aligned with the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def prefix_causal_keep(prefix: int, words: int, device: torch.device | str = "cpu") -> Bool[Tensor, "n n"]:
    """True where a token may read another, of a prefix and the words behind it (1910.10683, figure 4, right).

    The prefix's tokens read each other in both directions, and no word; a word reads the prefix, the words before, and
    itself.
    """
    keep = causal_keep(prefix + words, prefix + words, device)
    keep[:prefix, :prefix] = True
    return keep


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (1706.03762, section 3.2).

    Differs from the paper in its biases: a key's bias is inert under softmax and a value's bias is one with the
    output's, so only queries and outputs have one. A query whose keys are all masked reads zeros.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        key_width: int | None = None,
        value_width: int | None = None,
    ):
        super().__init__()
        self.heads = heads
        self.key_width, self.value_width = key_width or width, value_width or width
        for inner in (self.key_width, self.value_width):
            if heads < 1 or inner % heads:
                raise ValueError(f"width {inner} is not a multiple of heads {heads}")
        self.query = nn.Linear(width, self.key_width)
        self.key_value = nn.Linear(context_width or width, self.key_width + self.value_width, bias=False)
        self.out = nn.Linear(self.value_width, width)

    def project(self, context: Float[Tensor, "b n c"]) -> KeyValues:
        """The keys and values of a context."""
        keys, values = self.key_value(context).split((self.key_width, self.value_width), -1)
        return KeyValues(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (keys, values)))

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        context: KeyValues,
        *,
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b l d"]:
        """What each query reads from the context; `keep` is False at keys that must not be read."""
        queries = self._queries(x)
        l, n = queries.shape[2], context.keys.shape[2]
        mask = None
        if keep is not None or (causal and l > 1):  # one query, aligned with the last key, sees every key
            mask = _mask(l, n, keep, causal, x.device)
        read = (_product if _is_short(queries, n) else F.scaled_dot_product_attention)(queries, *context, mask)
        if mask is not None and (keep is not None or l > n):  # only then can a query have no key at all
            read = read.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return self.out(read.transpose(1, 2).flatten(2))

    def of_itself(
        self,
        x: Float[Tensor, "b l d"],
        norm: nn.Module,
        *,
        keep: Bool[Tensor, "b l"] | Bool[Tensor, "b l l"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b l d"]:
        """`forward` of `norm(x)` on its own keys and values.

        If they are few, in training on a CPU, by one projection and fewer copies.
        """
        l = x.shape[1]
        short = x.device.type == "cpu" and torch.is_grad_enabled() and l <= _most_keys(working_dtype(x))
        if not short or self.key_width != self.value_width:
            x = norm(x)
            return self(x, self.project(x), keep=keep, causal=causal)
        scale = (self.key_width // self.heads) ** -0.5  # of the weights, which are fewer than the queries
        weight = torch.cat([self.query.weight * scale, self.key_value.weight])
        bias = F.pad(self.query.bias * scale, (0, 2 * self.key_width))
        mask = None if keep is None and not causal else _mask(l, l, keep, causal, x.device)
        read = cast(Tensor, SelfProduct.apply(linear_of(norm, x, weight, bias), self.heads, mask))
        if mask is not None and keep is not None:
            read = read.masked_fill(~mask.any(-1)[:, 0, :, None], 0.0)
        return self.out(read)

    def weights(
        self,
        x: Float[Tensor, "b l d"],
        context: KeyValues,
        *,
        keep: Bool[Tensor, "b n"] | Bool[Tensor, "b l n"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b h l n"]:
        """The attention map that `forward` applies, for callers who want to see it."""
        queries = self._queries(x)
        scores = (queries @ context.keys.transpose(-2, -1)).float() * queries.shape[-1] ** -0.5
        mask = _mask(queries.shape[2], context.keys.shape[2], keep, causal, x.device)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)

    def _queries(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b h l k"]:
        b, l, _ = x.shape
        return self.query(x).view(b, l, self.heads, -1).transpose(1, 2)


SHORT_KEYS = 160
"""Up to so many keys the plain product trains faster on a CPU than the fused kernel, whose backward pass is slow."""
SHORT_KEYS_BF16 = 512
"""The same in bf16, in which the fused kernel's backward pass is slower still."""


def _is_short(queries: Tensor, keys: int) -> bool:
    return queries.device.type == "cpu" and queries.requires_grad and keys <= _most_keys(queries.dtype)


def _most_keys(dtype: torch.dtype) -> int:
    return SHORT_KEYS_BF16 if dtype == torch.bfloat16 else SHORT_KEYS


def _product(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Float[Tensor, "b h l k"]:
    """What `scaled_dot_product_attention` computes, written out; the kernel of the softmax sums in fp32."""
    queries = (queries * queries.shape[-1] ** -0.5).contiguous()  # products of strided heads are many times slower
    keys, values = keys.contiguous(), values.contiguous()
    scores = queries @ keys.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, _least(scores.dtype))
    return scores.softmax(-1).to(values.dtype) @ values


class SelfProduct(Function):
    """`_product` of queries, keys and values that lie side by side, as one projection makes them, scaled already.

    They are copied once, heads first, and their gradients once back; of the scores only the shares are held.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, heads: int, mask: Tensor | None) -> Float[Tensor, "b l d"]:
        """What each token reads, its heads side by side."""
        b, l, _ = projected.shape
        parts = projected.view(b, l, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)
        queries, keys, values = parts
        shares = torch.bmm(queries, keys.mT)
        if mask is not None:
            shares.view(b, heads, l, l).masked_fill_(~mask, _least(shares.dtype))
        shares = torch.softmax(shares, -1)
        ctx.save_for_backward(parts, shares)
        return torch.bmm(shares, values).view(b, heads, l, -1).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of all three, side by side."""
        parts, shares = ctx.saved_tensors
        (queries, keys, values), gradients = parts, torch.empty_like(parts)
        b, l, _ = gradient.shape
        gradient = gradient.view(b, l, len(queries) // b, -1).transpose(1, 2).reshape(queries.shape)
        torch.bmm(shares.mT, gradient, out=gradients[2])
        of_scores = torch.ops.aten._softmax_backward_data(torch.bmm(gradient, values.mT), shares, -1, shares.dtype)
        torch.bmm(of_scores, keys, out=gradients[0])
        torch.bmm(of_scores.mT, queries, out=gradients[1])
        return gradients.unflatten(1, (b, -1)).permute(1, 3, 0, 2, 4).reshape(b, l, -1), None, None


def _least(dtype: torch.dtype) -> float:
    """The score of a key that must not be read: finite in the softmax, in fp32."""
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)


def _mask(
    queries: int, keys: int, keep: Tensor | None, causal: bool, device: torch.device
) -> Bool[Tensor, "#b 1 #l n"]:
    mask = torch.ones(1, 1, 1, keys, dtype=torch.bool, device=device)
    if keep is not None:
        mask = keep[:, None, None, :] if keep.ndim == 2 else keep[:, None]
    if causal:
        mask = mask & causal_keep(queries, keys, device)
    return mask
