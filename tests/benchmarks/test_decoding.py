"""The benchmark of decoding runs at toy size; it stops by itself where tokens differ."""


def test_decoding(results):
    rows = results("decoding.py")
    assert [(row["mode"], row["batch"]) for row in rows] == [
        (mode, batch) for mode in ("greedy", "beam 4", "sample") for batch in (1, 4)
    ]
    assert all(row["ratio"] >= row["ratio to best"] > 0 for row in rows)
