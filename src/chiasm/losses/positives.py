"""Which pairs of a contrastive batch belong together: those of one picture or of one text.

Letters: r rows and c columns of the matrix of pairs; ids are "2 r", first the picture's and then the text's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

DENSE = 64
"""With more positives than this in a row, on average, tiles are compared pair by pair."""


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


def positives_of_tiles(
    rows: Int[Tensor, "2 r"], columns: Int[Tensor, "2 c"], chunk: int
) -> Iterator[tuple[Int[Tensor, " p"], Int[Tensor, " p"]]]:
    """The places (row, column) of the positives within each tile of chunk x chunk, row by row of tiles.

    Few positives are found by sorting, in memory and time that do not grow with the matrix.
    """
    ordered, order = columns.contiguous().sort(dim=1)
    first, last = (torch.searchsorted(ordered, rows.contiguous(), right=right) for right in (False, True))
    dense = int((last - first).sum()) > DENSE * rows.shape[1]
    lefts = torch.arange(0, columns.shape[1] + chunk, chunk, device=columns.device)
    for top in range(0, rows.shape[1], chunk):
        i = slice(top, top + chunk)
        if dense:
            for part in columns.split(chunk, dim=1):
                row, column = positives(rows[:, i], part).nonzero(as_tuple=True)
                yield row, column
            continue
        row, column = _pairs(rows[:, i], columns, first[:, i], last[:, i], order)
        ends = torch.searchsorted(column, lefts).tolist()
        for left, start, end in zip(lefts.tolist(), ends, ends[1:], strict=False):
            yield row[start:end], column[start:end] - left


def _pairs(
    rows: Int[Tensor, "2 r"],
    columns: Int[Tensor, "2 c"],
    first: Int[Tensor, "2 r"],
    last: Int[Tensor, "2 r"],
    order: Int[Tensor, "2 c"],
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Rows and columns of the positives, by column; first to last are a row's places in the order of the columns."""
    found = []
    for begin, many, by_id in zip(first, last - first, order, strict=True):
        row = torch.repeat_interleave(many)
        place = torch.arange(len(row), device=row.device) + (begin - (many.cumsum(0) - many))[row]
        found.append((row, by_id[place]))
    of_pictures, (row, column) = found
    other = rows[0, row] != columns[0, column]  # those of one picture are there already
    row, column = (torch.cat([one, more[other]]) for one, more in zip(of_pictures, (row, column), strict=True))
    by_column = column.argsort()
    return row[by_column], column[by_column]


def _count_equal(groups: Int[Tensor, " r_and_c"], rows: int) -> Int[Tensor, " r"]:
    """How many of the columns, which follow the rows, are in the group of each row."""
    groups = groups.unique(return_inverse=True)[1]
    return torch.bincount(groups[rows:], minlength=len(groups))[groups[:rows]]


__all__ = ["count_positives", "positives", "positives_of_tiles"]
