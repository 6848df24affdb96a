"""The benchmark of decoding runs at toy size; it stops by itself where tokens differ."""

import pytest


def test_decoding(results):
    rows = results("decoding.py")
    assert [(row["mode"], row["batch"]) for row in rows] == [
        (mode, batch) for mode in ("greedy", "beam 4", "sample") for batch in (1, 4)
    ]
    assert all(row["ratio"] >= row["ratio to best"] > 0 for row in rows)


def test_int8(results):
    (row,) = results("int8.py")
    assert row["layers in int8"] > 4
    assert row["ratio"] == pytest.approx(row["int8 tokens/s"] / row["fp32 tokens/s"])
    assert 0 < row["first logits apart"] < 0.1
