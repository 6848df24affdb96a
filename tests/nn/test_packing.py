"""Packed texts keep every token, its position and its neighbours, and only those; they take as few rows as they can."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.nn import packing
from chiasm.nn.packing import WORTH, _fitted


def real(lengths, longest=None):
    return torch.arange(longest or max(lengths)) < torch.tensor(lengths)[:, None]


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_every_token_lies_once_and_a_text_in_one_piece(lengths):
    found = packing(real(lengths))
    if found is None:
        return
    b, l = len(lengths), max(lengths)
    assert len(found.positions) <= WORTH * b and len(found.positions) * l >= sum(lengths)
    ids = torch.arange(b * l).view(b, l) + 1
    packed = found.pack(ids, real(lengths), pad=0)
    assert packed[packed > 0].tolist() and sorted(packed[packed > 0].tolist()) == sorted(ids[real(lengths)].tolist())
    for text, length in enumerate(lengths):
        row, start = (int(v[0]) for v in (packed == ids[text, 0]).nonzero(as_tuple=True))
        assert packed[row, start : start + length].tolist() == ids[text, :length].tolist()
        assert found.positions[row, start : start + length].tolist() == list(range(length))
        reads = found.keep[row, start]
        assert reads.nonzero().flatten().tolist() == list(range(start, start + length))
    unpacked = found.unpack(packed[..., None].float(), real(lengths))[..., 0]
    assert torch.equal(unpacked, ids.float() * real(lengths))


@given(long=st.lists(st.integers(16, 29), min_size=1, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_texts_that_fill_rows_in_pairs_are_paired(long, seed):
    lengths = np.random.default_rng(seed).permutation([*long, *(30 - length for length in long)])
    rows, starts = _fitted(lengths, 30)
    assert rows.max() + 1 == len(long)
    assert sorted(zip(rows, starts, strict=True)) == sorted({*zip(rows, starts, strict=True)})


def test_where_little_is_padded_or_nothing_fits_nothing_is_packed():
    assert packing(real([5, 5, 4, 5])) is None
    assert packing(real([6, 4, 4, 4, 4])) is None  # much is padded, and yet no two fit
    assert len(packing(real([6, 2, 2, 2, 2, 2, 2])).positions) == 3
    assert packing(torch.zeros(0, 5, dtype=torch.bool)) is None


@pytest.mark.parametrize("pad", [0, 7])
def test_places_without_a_text_hold_the_pad_and_read_no_text(pad):
    found = packing(real([5, 2, 2, 1, 1]))
    packed = found.pack(torch.full((5, 5), 3), real([5, 2, 2, 1, 1]), pad)
    empty = packed == pad
    assert int(empty.sum()) == len(found.positions) * 5 - 11
    for row, place in empty.nonzero().tolist():
        assert torch.equal(found.keep[row, place], empty[row])
