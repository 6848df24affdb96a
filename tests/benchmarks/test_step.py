"""The training steps beside their peers' run, at toy size."""


def test_step(results):
    rows = results("step.py")
    ours = [row for row in rows if row["side"].startswith("chiasm")]
    assert [row["side"] for row in ours] == [
        "chiasm, bf16", "chiasm, checkpointing, bf16", "chiasm, bf16", "chiasm, bf16"
    ]  # fmt: skip
    assert all(row["ms"] > 0 and row["GFLOP"] > 0 for row in rows)
