"""Flamingo's benchmark runs at toy size, beside its peer where that is installed."""


def test_flamingo(results):
    rows = results("flamingo.py")
    own = [(row["what"], row["precision"]) for row in rows if row["side"] == "chiasm"]
    assert own == [(what, precision) for what in ("resampler", "gated layer") for precision in ("fp32", "bf16")]
    assert all(row["ms"] > 0 and row["apart"] < 0.1 for row in rows)
