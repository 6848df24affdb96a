"""Contrastive losses whose matrix of pairs is walked in tiles and never held: exact, in memory linear in the batch.

The log-sum-exps of rows and columns are streamed over the tiles (as in 1805.02867), once for both directions; the
backward pass computes each tile again. The sigmoid loss needs no sums first, so one walk gives value and gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from chiasm.losses.positives import count_positives, positives


class ChunkedInfoNce(Function):
    """`info_nce_of_rows` by tiles."""

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
    ) -> Float[Tensor, ""]:
        """Stream the log-sum-exps and the sums over positives of all rows and, if `both`, all columns."""
        row_lse, row_pulled = rows.new_full((len(rows),), -torch.inf), rows.new_zeros(len(rows))
        column_lse, column_pulled = columns.new_full((len(columns),), -torch.inf), columns.new_zeros(len(columns))
        scaled = rows * log_scale.exp()
        for i, j in tiles(len(rows), len(columns), chunk):
            logits = scaled[i] @ columns[j].T
            pulled = logits.where(positives(row_ids[:, i], column_ids[:, j]), 0)
            row_lse[i] = torch.logaddexp(row_lse[i], logits.logsumexp(1))
            row_pulled[i] += pulled.sum(1)
            if both:
                column_lse[j] = torch.logaddexp(column_lse[j], logits.logsumexp(0))
                column_pulled[j] += pulled.sum(0)
        row_counts = count_positives(row_ids, column_ids).to(rows.dtype)
        column_counts = count_positives(column_ids, row_ids).to(rows.dtype)
        ctx.save_for_backward(rows, columns, log_scale, row_ids, column_ids, row_lse, column_lse)
        ctx.counts, ctx.chunk, ctx.both = (row_counts, column_counts), chunk, both
        of_rows = (row_lse - row_pulled / row_counts).mean()
        return (of_rows + (column_lse - column_pulled / column_counts).mean()) / 2 if both else of_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax less target, tile by tile."""
        rows, columns, log_scale, row_ids, column_ids, row_lse, column_lse = ctx.saved_tensors
        row_share = 1 / (2 * len(rows)) if ctx.both else 1 / len(rows)
        column_share = 1 / (2 * len(columns))
        row_target, column_target = row_share / ctx.counts[0], column_share / ctx.counts[1]
        scale = log_scale.exp()
        scaled, row_grads, column_grads = rows * scale, torch.zeros_like(rows), torch.zeros_like(columns)
        with torch.autocast(rows.device.type, enabled=False):
            for i, j in tiles(len(rows), len(columns), ctx.chunk):
                logits = scaled[i] @ columns[j].T
                target = row_target[i, None] + column_target[j] if ctx.both else row_target[i, None]
                grads = (logits - row_lse[i, None]).exp_().mul_(row_share)
                if ctx.both:
                    grads += logits.sub_(column_lse[j]).exp_().mul_(column_share)
                grads -= target.where(positives(row_ids[:, i], column_ids[:, j]), 0)
                row_grads[i].addmm_(grads, columns[j])
                column_grads[j].addmm_(grads.T, scaled[i])
        return *_finished(rows, row_grads, column_grads, scale, gradient), None, None, None, None


class ChunkedSigmoid(Function):
    """`sigmoid_of_rows` by tiles."""

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
    ) -> Float[Tensor, ""]:
        """Sum the losses and, where they are wanted, their gradients."""
        scale, total, bias_grad = log_scale.exp(), rows.new_zeros(()), rows.new_zeros(())
        scaled, row_grads, column_grads = rows * scale, torch.zeros_like(rows), torch.zeros_like(columns)
        for i, j in tiles(len(rows), len(columns), chunk):
            sign = torch.where(positives(row_ids[:, i], column_ids[:, j]), 1.0, -1.0).to(rows.dtype)
            signed = (scaled[i] @ columns[j].T).add_(bias).mul_(sign)
            total -= torch.nn.functional.logsigmoid(signed).sum()
            if any(ctx.needs_input_grad):
                grads = signed.neg_().sigmoid_().mul_(sign).div_(-len(rows))
                row_grads[i].addmm_(grads, columns[j])
                column_grads[j].addmm_(grads.T, scaled[i])
                bias_grad += grads.sum()
        ctx.save_for_backward(rows, row_grads, column_grads, scale, bias_grad)
        return total / len(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass has found."""
        rows, row_grads, column_grads, scale, bias_grad = ctx.saved_tensors
        return *_finished(rows, row_grads, column_grads, scale, gradient), bias_grad * gradient, None, None, None


def tiles(rows: int, columns: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of at most chunk x chunk that cover the matrix, row by row."""
    for top in range(0, rows, chunk):
        for left in range(0, columns, chunk):
            yield slice(top, top + chunk), slice(left, left + chunk)


def _finished(
    rows: Tensor, row_grads: Tensor, column_grads: Tensor, scale: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rows, columns and log-scale; `row_grads` still lack the scale that is common to them.

    The log-scale's is the sum over pairs of logit x gradient, which is the sum over rows of row · gradient.
    """
    row_grads = row_grads * (scale * gradient)
    log_scale_grad = (rows * row_grads).sum(dtype=torch.float64).to(scale.dtype)
    return row_grads, column_grads * gradient, log_scale_grad


__all__ = ["ChunkedInfoNce", "ChunkedSigmoid", "tiles"]
