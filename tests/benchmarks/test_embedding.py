"""The benchmarks of embedding and of cold start run at toy size."""

import pytest


@pytest.mark.slow
def test_startup(results):
    rows = {row["what"]: row["seconds"] for row in results("startup.py")}
    assert rows["import chiasm"] < rows["import torch"] < rows["chiasm caption, one picture"]
    assert rows["chiasm --help"] > 0


@pytest.mark.slow
def test_embedding(results):
    pytest.importorskip("open_clip")
    rows = results("embedding.py")
    assert {row["what"] for row in rows} == {"pictures, files to Parquet", "pictures, model alone", "texts"}
    assert all(row["least cosine"] > 0.99 for row in rows)
