"""Contrastive losses whose matrix of pairs is walked in tiles and never held: exact, in memory linear in the batch.

InfoNCE's sums of rows and columns are streamed over the tiles (as in 1805.02867), and the backward pass computes each
tile again; both directions share one exponential. The sigmoid loss needs no sums first, so one walk gives value and
gradients. Tiles live in one buffer that stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from chiasm.losses.positives import count_positives, positives_of_tiles

LARGEST_EXPONENT = {torch.float32: 60.0, torch.float64: 600.0}
"""exp(this) summed over a batch does not overflow, and what underflows beside exp(-this) does not count."""

PRODUCT = 512
"""Columns of one matrix product: some CPU libraries are several times slower at fp32 products wider than this."""


class ChunkedInfoNce(Function):
    """`info_nce_of_rows` by tiles; `coarse` rounds the factors of its matrix products to bf16, and no sum."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        log_scale: Tensor,
        row_ids: Tensor,
        column_ids: Tensor,
        chunk: int,
        both: bool,
        coarse: bool,
    ) -> Float[Tensor, ""]:
        """Sum the exponentials and the positives' logits of all rows and, if `both`, all columns."""
        walk = partial(tiles, rows, columns, log_scale.exp(), row_ids, column_ids, chunk)
        counts = [count_positives(one, other).double() for one, other in ((row_ids, column_ids), (column_ids, row_ids))]
        with _products(rows, coarse):
            sums, pulled, shift, dtype = _stream(walk, rows, columns, log_scale.exp(), both)
        ctx.save_for_backward(rows, columns, log_scale, row_ids, column_ids, *sums, *counts)
        ctx.shift, ctx.dtype, ctx.chunk, ctx.both, ctx.coarse = shift, dtype, chunk, both, coarse
        of_sides = [
            (total.log() + shift - own / count).mean()
            for total, own, count in zip(sums[: 1 + both], pulled, counts, strict=False)
        ]
        return torch.stack(of_sides).mean().to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax less target, tile by tile; both directions' softmax is one exponential, weighted by both sums.

        A positive's probability is near 1 once pairs are told apart, so its difference to the target is taken in fp64.
        """
        rows, columns, log_scale, row_ids, column_ids, row_sums, column_sums, *counts = ctx.saved_tensors
        row_share, column_share = 1 / ((1 + ctx.both) * len(rows)), 1 / (2 * len(columns))
        row_weight, column_weight = row_share / row_sums, column_share / column_sums
        row_target, column_target = row_share / counts[0], column_share / counts[1]
        row_factor, column_factor = row_weight.to(ctx.dtype), column_weight.to(ctx.dtype)
        scale = log_scale.exp()
        row_grads, column_grads = torch.zeros_like(rows), torch.zeros_like(columns)
        weights = _buffer(rows, columns, ctx.chunk, ctx.dtype)
        with torch.autocast(rows.device.type, enabled=False), _products(rows, ctx.coarse):
            for tile in tiles(rows, columns, scale, row_ids, column_ids, ctx.chunk):
                i, j = tile.rows, tile.columns
                weight, own_weight, target = row_factor[i, None], row_weight[i][tile.row], row_target[i][tile.row]
                if ctx.both:
                    weight = torch.add(weight, column_factor[j], out=_view(weights, tile.logits))
                    own_weight = own_weight + column_weight[j][tile.column]
                    target = target + column_target[j][tile.column]
                own = _exponentials(tile.own, ctx.shift, torch.float64) * own_weight - target
                grads = _exponentials(tile.logits, ctx.shift, ctx.dtype).mul_(weight).to(rows.dtype)
                grads[tile.row, tile.column] = own.to(rows.dtype)
                if ctx.coarse:
                    _add_positives(tile, grads, columns[j], row_grads[i], column_grads[j])
                row_grads[i].addmm_(grads, columns[j])
                column_grads[j].addmm_(grads.T, tile.scaled)
        return *_finished(rows, row_grads, column_grads, scale, gradient, ctx.chunk), *[None] * 5


class ChunkedSigmoid(Function):
    """`sigmoid_of_rows` by tiles; `coarse` as in `ChunkedInfoNce`."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        log_scale: Tensor,
        bias: Tensor,
        row_ids: Tensor,
        column_ids: Tensor,
        chunk: int,
        coarse: bool,
    ) -> Float[Tensor, ""]:
        """Sum the losses and, where they are wanted, their gradients."""
        scale, total, bias_grad = log_scale.exp(), rows.new_zeros(()), rows.new_zeros(())
        wanted = any(ctx.needs_input_grad)
        row_grads, column_grads = (torch.zeros_like(side if wanted else side[:0]) for side in (rows, columns))
        losses = _buffer(rows, columns, chunk, rows.dtype)
        with _products(rows, coarse):
            for tile in tiles(rows, columns, scale, row_ids, column_ids, chunk):
                logits, own = tile.logits.add_(bias), (tile.row, tile.column)
                logits[own] = -logits[own]
                total += torch.ops.aten.softplus.out(logits, out=_view(losses, logits)).sum()
                if wanted:
                    grads = logits.sigmoid_().div_(len(rows))
                    grads[own] = -grads[own]
                    row_grads[tile.rows].addmm_(grads, columns[tile.columns])
                    column_grads[tile.columns].addmm_(grads.T, tile.scaled)
                    bias_grad += grads.sum()
        ctx.save_for_backward(rows, row_grads, column_grads, scale, bias_grad)
        ctx.chunk = chunk
        return total / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass has found."""
        rows, row_grads, column_grads, scale, bias_grad = ctx.saved_tensors
        found = _finished(rows, row_grads.clone(), column_grads.clone(), scale, gradient, ctx.chunk)
        return *found, bias_grad * gradient, *[None] * 4


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of the matrix of pairs; `logits` are overwritten by the next tile, and may be by its reader."""

    rows: slice
    columns: slice
    scaled: Float[Tensor, "r e"]
    logits: Float[Tensor, "r c"]
    row: Int[Tensor, " p"]
    column: Int[Tensor, " p"]
    """Where in the tile its positives are."""

    @property
    def own(self) -> Float[Tensor, " p"]:
        """The positives' logits, a copy."""
        return self.logits[self.row, self.column]


def tiles(
    rows: Float[Tensor, "R e"],
    columns: Float[Tensor, "C e"],
    scale: Float[Tensor, ""],
    row_ids: Int[Tensor, "2 R"],
    column_ids: Int[Tensor, "2 C"],
    chunk: int,
) -> Iterator[Tile]:
    """Tiles of at most chunk x chunk that cover the matrix, row by row."""
    buffer, own = _buffer(rows, columns, chunk, rows.dtype), positives_of_tiles(row_ids, column_ids, chunk)
    for top in range(0, len(rows), chunk):
        i = slice(top, top + chunk)
        scaled = rows[i] * scale
        for left in range(0, len(columns), chunk):
            j = slice(left, left + chunk)
            logits = buffer[: len(scaled) * len(columns[j])].view(len(scaled), -1)
            for out, part in zip(logits.split(PRODUCT, dim=1), columns[j].split(PRODUCT), strict=True):
                torch.mm(scaled, part.T, out=out)
            yield Tile(i, j, scaled, logits, *next(own))


def _stream(
    walk: partial[Iterator[Tile]], rows: Tensor, columns: Tensor, scale: Tensor, both: bool
) -> tuple[list[Tensor], list[Tensor], float, torch.dtype]:
    """Sums of exp(logit - shift) and of positives' logits, of rows and columns, and the exponentials' dtype.

    That is fp64 where fp32 has not the range. The sums are fp64, with positives in full: what a sum has beside its
    largest positive is the loss of a pair that is nearly solved. By Cauchy-Schwarz no logit is above `bound`: the shift
    keeps all exponentials from overflowing. One shift serves rows and columns unless one of them has no logit near the
    others', and its sum underflows.
    """
    bound = float(scale * torch.linalg.vector_norm(rows, dim=1).max() * torch.linalg.vector_norm(columns, dim=1).max())
    for dtype in dict.fromkeys((rows.dtype, torch.float64)):
        largest = LARGEST_EXPONENT[dtype]
        shift = max(0.0, bound - largest)
        sums, pulled = ([side.new_zeros(len(side), dtype=torch.float64) for side in (rows, columns)] for _ in range(2))
        for tile in walk():
            own = tile.own.double()
            exponentials = _exponentials(tile.logits, shift, dtype)
            exponentials[tile.row, tile.column] = 0
            for side, (part, at) in enumerate(((tile.rows, tile.row), (tile.columns, tile.column))[: 1 + both]):
                pulled[side][part].index_add_(0, at, own)
                sums[side][part] += exponentials.sum(1 - side)
                sums[side][part].index_add_(0, at, (own - shift).exp())
        if not any((total < math.exp(-largest)).any() for total in sums[: 1 + both]):
            return sums, pulled, shift, dtype
    raise ValueError(
        f"similarities times scale reach {bound:.0f} while all of one row's are over {2 * largest:.0f} below: "
        "embeddings must have unit length, and the scale must stay below 600"
    )


def _add_positives(tile: Tile, grads: Tensor, columns: Tensor, row_grads: Tensor, column_grads: Tensor) -> None:
    """Add the positives, most of the gradient, in fp32 and not in the coarse products, unless they are many."""
    if len(tile.row) > 2 * len(tile.scaled):
        return
    own = grads[tile.row, tile.column][:, None]
    grads[tile.row, tile.column] = 0
    row_grads.index_add_(0, tile.row, own * columns[tile.column])
    column_grads.index_add_(0, tile.column, own * tile.scaled[tile.row])


def _exponentials(logits: Tensor, shift: float, dtype: torch.dtype) -> Tensor:
    """exp(logits - shift), in the logits' own memory if they have that dtype."""
    logits = logits.to(dtype)
    return (logits.sub_(shift) if shift else logits).exp_()


def _buffer(rows: Tensor, columns: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
    """Memory for the values of any tile."""
    return rows.new_empty(min(chunk, len(rows)) * min(chunk, len(columns)), dtype=dtype)


def _view(buffer: Tensor, like: Tensor) -> Tensor:
    return buffer[: like.numel()].view_as(like)


def _products(rows: Tensor, coarse: bool) -> AbstractContextManager[None]:
    """Within it, factors of matrix products are rounded to bf16 (on a GPU: TF32) if `coarse`; sums stay fp32.

    A product's fp32 result and sums are what bf16 tensors would lose. Where the machine has no such product, or torch
    is older than 2.9, it is plain fp32.
    """
    matmul = torch.backends.cuda.matmul if rows.is_cuda else getattr(torch.backends.mkldnn, "matmul", None)
    if not coarse or not hasattr(matmul, "fp32_precision"):
        return nullcontext()
    return _set(matmul, "tf32" if rows.is_cuda else "bf16")


@contextmanager
def _set(matmul: Any, precision: str) -> Iterator[None]:
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _finished(
    rows: Tensor, row_grads: Tensor, column_grads: Tensor, scale: Tensor, gradient: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rows, columns and log-scale, the first two in place; `row_grads` still lack the common scale.

    The log-scale's is the sum over pairs of logit x gradient, which is the sum over rows of row · gradient.
    """
    row_grads.mul_(scale * gradient)
    of_parts = [
        (part * grad).sum(dtype=torch.float64)
        for part, grad in zip(rows.split(chunk), row_grads.split(chunk), strict=True)
    ]
    return row_grads, column_grads.mul_(gradient), torch.stack(of_parts).sum().to(scale.dtype)


__all__ = ["ChunkedInfoNce", "ChunkedSigmoid", "tiles"]
