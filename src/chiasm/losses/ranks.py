"""Contrastive losses of a batch that is spread over ranks, with the gradients of one process that holds it all.

Each rank's loss is the mean over its own rows, with all ranks' rows as columns. The mean of the ranks' losses is the
loss of the whole batch; the mean of their gradients, as DDP takes it, is its gradient. Rows and columns meet by id, so
ids must mean the same on all ranks. Without a process group these are the losses of one process.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from chiasm.losses.contrastive import in_fp32, info_nce, info_nce_of_rows, sigmoid_of_rows


def info_nce_across_ranks(
    images: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    log_scale: Float[Tensor, ""],
    image_ids: Int[Tensor, " b"],
    text_ids: Int[Tensor, " b"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """This rank's `info_nce`: its pictures find texts of all ranks, and its texts pictures; `b` is equal on all."""
    if not _spread():
        return info_nce(images, texts, log_scale, image_ids, text_ids, chunk=chunk)
    ids = torch.stack([image_ids, text_ids])
    all_ids = _gather_ids(ids)
    all_images, all_texts = gather(torch.cat(in_fp32(images, texts), dim=1)).chunk(2, dim=1)
    to_texts = info_nce_of_rows(images, all_texts, log_scale, ids, all_ids, chunk=chunk)
    to_images = info_nce_of_rows(texts, all_images, log_scale, ids, all_ids, chunk=chunk)
    return (to_texts + to_images) / 2


def sigmoid_across_ranks(
    images: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    image_ids: Int[Tensor, " b"],
    text_ids: Int[Tensor, " b"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """This rank's `sigmoid_pairs`: its pictures with the texts of all ranks; `b` is equal on all."""
    ids = torch.stack([image_ids, text_ids])
    all_ids = _gather_ids(ids)
    return sigmoid_of_rows(images, gather(*in_fp32(texts)), log_scale, bias, ids, all_ids, chunk=chunk)


def gather(rows: Float[Tensor, "b e"]) -> Float[Tensor, "b_of_all_ranks e"]:
    """The rows of all ranks in the order of ranks; without a process group, the rows.

    A rank's gradient is the sum of what all ranks' losses say of its rows: that of the *sum* of the ranks' losses.
    """
    return _Gather.apply(rows) if _spread() else rows


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return _gathered(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[distributed.get_rank() * ctx.rows :][: ctx.rows]


def _gather_ids(ids: Int[Tensor, "2 b"]) -> Int[Tensor, "2 b_of_all_ranks"]:
    """The ids of all ranks; raises on every rank where batches differ, which would hang or mix up the rows."""
    if not _spread():
        return ids
    lengths = _gathered(torch.tensor([ids.shape[1]], device=ids.device)).tolist()
    if len(set(lengths)) > 1:
        raise ValueError(f"the ranks' batches have {lengths} rows; they must be equal (drop the last, smaller batch)")
    return _gathered(ids.T).T


def _gathered(rows: Tensor) -> Tensor:
    everyone = [
        torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
    ]
    distributed.all_gather(everyone, rows.contiguous())
    return torch.cat(everyone)


def _spread() -> bool:
    """Whether there is a process group."""
    return distributed.is_available() and distributed.is_initialized()


__all__ = ["gather", "info_nce_across_ranks", "sigmoid_across_ranks"]
