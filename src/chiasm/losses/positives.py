"""Which pairs of a contrastive batch belong together: those of one picture or of one text.

Letters: r rows and c columns of the matrix of pairs; ids are "2 r", first the picture's and then the text's.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def positives(rows: Int[Tensor, "2 r"], columns: Int[Tensor, "2 c"]) -> Bool[Tensor, "r c"]:
    """True where row and column have the same picture or the same text."""
    return (rows[0, :, None] == columns[0]) | (rows[1, :, None] == columns[1])


def count_positives(rows: Int[Tensor, "2 r"], columns: Int[Tensor, "2 c"]) -> Int[Tensor, " r"]:
    """How many columns are positives of each row, without the matrix.

    As many as have its picture, and as have its text, less those that have both and were counted twice.
    """
    pictures, texts = (torch.cat([rows[side], columns[side]]).unique(return_inverse=True)[1] for side in (0, 1))
    both = pictures * (texts.max() + 1) + texts
    r = rows.shape[1]
    return _count_equal(pictures, r) + _count_equal(texts, r) - _count_equal(both, r)


def _count_equal(groups: Int[Tensor, " r_and_c"], rows: int) -> Int[Tensor, " r"]:
    """How many of the columns, which follow the rows, are in the group of each row."""
    groups = groups.unique(return_inverse=True)[1]
    return torch.bincount(groups[rows:], minlength=len(groups))[groups[:rows]]


__all__ = ["count_positives", "positives"]
