"""The benchmarks of embedding and of cold start run at toy size."""

import pytest


@pytest.mark.slow
def test_startup(results):
    seconds = {row["what"]: row["seconds"] for row in results("startup.py")}
    assert {"import chiasm", "chiasm --help", "import torch", "chiasm caption, one picture"} <= set(seconds)
    assert all(value > 0 for value in seconds.values())


@pytest.mark.slow
def test_embedding(results):
    pytest.importorskip("open_clip")
    rows = results("embedding.py")
    assert {row["what"] for row in rows} == {"pictures, files to Parquet", "pictures, model alone", "texts"}
    assert all(row["least cosine"] > 0.99 for row in rows)
