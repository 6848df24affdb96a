"""InfoNCE and the sigmoid loss over the pairs of a batch, where equal pictures and equal texts are positives.

Embeddings have unit length. Everything is computed in fp32, or more if the embeddings are more, under autocast too;
but in tiles, under bf16 autocast or with bf16 embeddings, matrix products take factors rounded to bf16 (sums are fp32).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from chiasm.losses.chunked import ChunkedInfoNce, ChunkedSigmoid
from chiasm.losses.positives import count_positives, positives


def info_nce(
    images: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    log_scale: Float[Tensor, ""],
    image_ids: Int[Tensor, " b"],
    text_ids: Int[Tensor, " b"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Mean of both directions in nats (2103.00020, section 2.3); the target is uniform over a row's positives.

    It cannot fall below `info_nce_floor`. With `chunk` a batch larger than that is walked in tiles of chunk x chunk, in
    the backward pass again: the same value and gradients in memory linear in the batch. ValueError for a chunk below 1.
    """
    ids = torch.stack([image_ids, text_ids])
    return info_nce_of_rows(images, texts, log_scale, ids, ids, chunk=chunk, both=True)


def sigmoid_pairs(
    images: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    image_ids: Int[Tensor, " b"],
    text_ids: Int[Tensor, " b"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over all pairs of a batch of the cross-entropy in nats of "these belong together", by its rows (2303.15343).

    We differ from the paper where pictures or texts repeat: it labels the diagonal alone. `chunk` as in `info_nce`.
    """
    ids = torch.stack([image_ids, text_ids])
    return sigmoid_of_rows(images, texts, log_scale, bias, ids, ids, chunk=chunk)


def info_nce_floor(image_ids: Int[Tensor, " b"], text_ids: Int[Tensor, " b"]) -> float:
    """The least that `info_nce` can be on this batch, in nats: the mean of ln(number of positives)."""
    ids = torch.stack([image_ids, text_ids])
    return (
        count_positives(ids, ids).double().log().mean().item()
    )  # one number for both directions: the relation is mutual


def info_nce_of_rows(
    rows: Float[Tensor, "r e"],
    columns: Float[Tensor, "c e"],
    log_scale: Float[Tensor, ""],
    row_ids: Int[Tensor, "2 r"],
    column_ids: Int[Tensor, "2 c"],
    *,
    chunk: int | None = None,
    both: bool = False,
) -> Float[Tensor, ""]:
    """Mean over rows of the cross-entropy of finding a row's columns; `both`: and of columns finding rows, halved."""
    coarse = _in_bf16(rows, columns)
    rows, columns, log_scale = in_fp32(rows, columns, log_scale)
    with torch.autocast(rows.device.type, enabled=False):
        if _exceed(rows, columns, chunk):
            return ChunkedInfoNce.apply(rows, columns, log_scale, row_ids, column_ids, chunk, both, coarse)
        logits = (log_scale.exp() * rows) @ columns.T
        positive = positives(row_ids, column_ids)
        pulled = logits.where(positive, 0)
        losses = [(logits.logsumexp(d) - pulled.sum(d) / positive.sum(d)).mean() for d in ((1, 0) if both else (1,))]
        return sum(losses, start=rows.new_zeros(())) / len(losses)


def sigmoid_of_rows(
    rows: Float[Tensor, "r e"],
    columns: Float[Tensor, "c e"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    row_ids: Int[Tensor, "2 r"],
    column_ids: Int[Tensor, "2 c"],
    *,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Sum over all pairs of rows and columns, by the number of rows."""
    coarse = _in_bf16(rows, columns)
    rows, columns, log_scale, bias = in_fp32(rows, columns, log_scale, bias)
    with torch.autocast(rows.device.type, enabled=False):
        if _exceed(rows, columns, chunk):
            return ChunkedSigmoid.apply(rows, columns, log_scale, bias, row_ids, column_ids, chunk, coarse)
        logits = (log_scale.exp() * rows) @ columns.T + bias
        return -F.logsigmoid(torch.where(positives(row_ids, column_ids), logits, -logits)).sum() / len(rows)


def in_fp32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in fp32, or as they are where they are more."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def _in_bf16(*sides: Tensor) -> bool:
    """Whether the caller wants bf16 products: embeddings are bf16, or autocast would make them so."""
    kind = sides[0].device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16:
        return all(side.dtype in (torch.float32, torch.bfloat16) for side in sides)
    return all(side.dtype == torch.bfloat16 for side in sides)


def _exceed(rows: Tensor, columns: Tensor, chunk: int | None) -> bool:
    """Whether the matrix is larger than a tile."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    return chunk is not None and max(len(rows), len(columns)) > chunk


__all__ = ["in_fp32", "info_nce", "info_nce_floor", "info_nce_of_rows", "sigmoid_of_rows", "sigmoid_pairs"]
