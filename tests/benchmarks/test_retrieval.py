"""The benchmark of retrieval and captions' scores runs, at toy size, and its sides agree."""


def test_retrieval(results):
    rows = results("retrieval.py")
    assert [row["side"] for row in rows if row["what"] == "retrieval"] == ["naive", "chiasm"]
    assert rows[-1]["what"] == "CIDEr-D" and rows[-1]["side"] == "chiasm"
    assert all(row["s"] > 0 for row in rows)
