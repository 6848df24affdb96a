"""The benchmark of contrastive losses runs, at toy size, and its sides agree."""


def test_contrastive(results):
    rows = [row for row in results("contrastive.py") if not row["side"].startswith("open_clip")]
    assert [(row["loss"], row["side"]) for row in rows] == [
        (loss, side) for loss in ("InfoNCE", "sigmoid") for side in ("plain", "chunked fp32", "chunked bf16")
    ]
    assert all(row["error"] <= (1e-2 if "bf16" in row["side"] else 1e-5) for row in rows)
    assert all(row["MFU"] > 0 for row in rows)
