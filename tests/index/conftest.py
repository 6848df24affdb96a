"""A small embedder whose vectors are easily foretold, and folders of pictures for it."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.types import Example


class Projection:
    """Mean colours of a picture's quarters, or a text's hash, through one fixed random matrix."""

    embed_width = 16
    preprocess = PreprocessConfig(size=(8, 8), resize="squash")
    calibration = None

    def __init__(self, fingerprint="one"):
        self.fingerprint = fingerprint
        self.embedded = []

    def embed_pixels(self, pixels):
        self.embedded.append(len(pixels))
        quarters = pixels.reshape(len(pixels), 2, 4, 2, 4, 3).mean((2, 4)).reshape(len(pixels), 12)
        return unit((quarters / 255 - 0.5) @ np.random.default_rng(0).standard_normal((12, self.embed_width)))

    def embed_texts(self, texts):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        return unit(np.stack([np.random.default_rng(seed).standard_normal(self.embed_width) for seed in seeds]))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def embedder():
    return Projection()


@pytest.fixture
def make_embedder():
    return Projection


@pytest.fixture
def paint():
    """A function that writes a picture whose colours a seed decides."""

    def paint(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)

    return paint


@pytest.fixture
def make_source():
    """A function that makes a source of examples, or of all files in a folder."""

    def make(examples):
        if not isinstance(examples, list):
            paths = sorted(path for path in examples.iterdir() if path.suffix == ".png")
            examples = [
                Example(image=path, texts=(f"text of {path.stem}",), key=path.name, label=f"label {path.stem[-1]}")
                for path in paths
            ]
        return Source(
            name="pictures", examples=examples, splits={"all": np.arange(len(examples))}, understood="", fingerprint=""
        )

    return make


@pytest.fixture
def folder(tmp_path, paint):
    """A folder of twenty pictures."""
    for i in range(20):
        paint(tmp_path / "pictures" / f"{i:02}.png", i)
    return tmp_path / "pictures"
