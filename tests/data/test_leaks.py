"""Pictures in several splits, found among prepared pixels: the same as are found in the files."""

import numpy as np
import pytest
from PIL import Image

from chiasm.data.cache import prepare_pictures
from chiasm.data.inspect import inspect_source
from chiasm.data.leaks import prepared_leaks
from chiasm.data.source import Source
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig
from chiasm.types import Example


@pytest.fixture
def source(tmp_path):
    """Nine pictures in three splits: two of the tests and one of validation are copies, in other formats, too."""
    rng = np.random.default_rng(0)
    kinds = [rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for _ in range(6)]
    shown = [0, 1, 2, 0, 3, 4, 1, 1, 5]  # by example; the first four train, two validate, three test
    examples = []
    for i, kind in enumerate(shown):
        path = tmp_path / f"{i}.{'bmp' if i % 2 else 'png'}"
        Image.fromarray(kinds[kind]).save(path)
        examples.append(Example(image=path, texts=(f"text {i}",), key=f"k{i}"))
    examples += [Example(image=None, texts=("alone",), key="k9"), Example(image=None, texts=("alone",), key="k10")]
    splits = {"train": np.array([0, 1, 2, 4, 9]), "val": np.array([3, 5]), "test": np.array([6, 7, 8, 10])}
    return Source(name="some", examples=examples, splits=splits, understood="", fingerprint="")


def prepared(source, tmp_path, size=(24, 24), **options):
    config = PreprocessConfig(size=size)
    return {
        split: prepare_pictures(source.split(split), config, name=split, folder=tmp_path / "cache", **options)
        for split in source.splits
    }


def test_the_same_leaks_as_in_the_files(source, tmp_path):
    found = prepared_leaks(prepared(source, tmp_path))
    assert found == inspect_source(source).leaks
    named = {splits: [(one.key, other.key) for one, other in pairs] for splits, pairs in found.items()}
    assert named == {("train", "val"): [("k0", "k3")], ("train", "test"): [("k1", "k6"), ("k1", "k7")]}


def test_broken_pictures_are_no_twins(source, tmp_path):
    for name in ("2.png", "8.png"):
        (tmp_path / name).write_bytes(b"")  # both are black in the file of pixels
    found = prepared_leaks(prepared(source, tmp_path, max_broken_share=None))
    assert {key.key for pairs in found.values() for pair in pairs for key in pair} == {"k0", "k1", "k3", "k6", "k7"}


def test_nothing_is_read_for_it(source, tmp_path):
    assert prepared_leaks(prepared(source, tmp_path, limit_bytes=0)) == {}
    assert prepared_leaks(prepared(source, tmp_path, size=NO_PICTURES)) == {}
