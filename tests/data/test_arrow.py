"""Parquet, saved data sets, the Hub and tar shards become sources like any other layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chiasm.data.layouts import open_source
from chiasm.errors import UserError
from layout_files import assert_pictures_exist, draw, keys, png, texts, write_tar

# Parquet and what `datasets` reads


def save_parquet(path: Path, **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_rows_of_equal_bytes_are_one_picture(tmp_path: Path):
    image = [{"bytes": png(i), "path": "same.png"} for i in (1, 2, 1, 3)]
    path = save_parquet(tmp_path / "t.parquet", image=image, caption=["a", "b", "c", "d"], tags=[["x"], [], ["y"], []])
    source = open_source(path)
    assert [example.texts for example in source.examples] == [("a", "c"), ("b",), ("d",)]
    assert [example.image for example in source.examples] == [png(1), png(2), png(3)]
    assert source.examples[0].tags == ("x", "y")
    assert len({example.key for example in source.examples}) == 3
    assert [example.image for example in source.examples[1:]] == [png(2), png(3)]


def test_parquet_pictures_stay_on_disk_and_travel_to_workers(tmp_path: Path):
    noise = np.random.default_rng(0).bytes(200_000)
    image = [{"bytes": noise[i:] + png(1), "path": f"{i}.png"} for i in range(10)]
    source = open_source(save_parquet(tmp_path / "t.parquet", image=image, text=list("abcdefghij")))
    sent = pickle.dumps(source.split("train"))
    assert len(sent) < 100_000
    assert pickle.loads(sent)[0].image == source.split("train")[0].image


def test_parquet_shards_say_their_splits(tmp_path: Path):
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")):
        save_parquet(tmp_path / "data" / f"{name}.parquet", image=[png(i)], text=[name[:5]])
    source = open_source(tmp_path)
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 2, "val": 1}
    assert len(open_source(tmp_path / "data" / "train-*.parquet").examples) == 2


def test_parquet_of_paths_with_classes(tmp_path: Path):
    draw(tmp_path, "pics/a.png", "pics/b.png")
    features = datasets.Features(
        {"file": datasets.Value("string"), "label": datasets.ClassLabel(names=["big_cat", "dog"])}
    )
    table = datasets.Dataset.from_dict({"file": ["pics/a.png", "pics/b.png"], "label": [0, 1]}, features=features)
    table.to_parquet(tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert texts(source) == {"pics/a.png": ("big cat",), "pics/b.png": ("dog",)}
    assert source.examples[0].label == "big_cat"
    assert_pictures_exist(source)


def test_the_same_picture_in_two_splits_stays_in_both(tmp_path: Path):
    path = save_parquet(tmp_path / "t.parquet", image=[png(1), png(1)], text=["a", "b"], split=["train", "test"])
    assert {name: len(rows) for name, rows in open_source(path).splits.items()} == {"train": 1, "val": 0, "test": 1}


def test_broken_parquet_is_said(tmp_path: Path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"t\.parquet cannot be read as Parquet"):
        open_source(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="holds int64"):
        open_source(save_parquet(tmp_path / "u.parquet", image=[1], text=["a"]))


def hub_like() -> datasets.DatasetDict:
    features = datasets.Features({"photo_data": datasets.Image(), "alt_text": datasets.List(datasets.Value("string"))})

    def part(first: int) -> datasets.Dataset:
        rows = {"photo_data": [{"bytes": png(first + i), "path": None} for i in range(2)], "alt_text": [["a", "b"]] * 2}
        return datasets.Dataset.from_dict(rows, features=features)

    return datasets.DatasetDict({"train": part(0), "validation": part(5), "test": part(10)})


def test_a_data_set_saved_to_disk(tmp_path: Path):
    hub_like().save_to_disk(tmp_path / "saved")
    source = open_source(tmp_path / "saved")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert source.split("val")[1].texts == ("a", "b")
    assert source.split("val")[1].image == png(6)
    assert source.fingerprint == open_source(tmp_path / "saved").fingerprint


def test_a_hub_name_is_fetched_through_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(name: str) -> datasets.DatasetDict:
        asked.append(name)
        return hub_like()

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source("owner/some-photos")
    assert asked == ["owner/some-photos"]
    assert source.split("test")[0].image == png(10)
    assert source.understood.startswith("Hub data set owner/some-photos (picture in 'photo_data'")


def test_a_hub_name_that_cannot_be_had_may_be_a_mistyped_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def load(name: str) -> datasets.DatasetDict:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"no path 'photos/dogs' here.*Couldn't reach") as caught:
        open_source("photos/dogs")
    assert "a.jpg beside a.txt" in caught.value.hint
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="There is no photos/dogs\n"):
        open_source("photos/dogs")


# WebDataset


def test_webdataset_shards(tmp_path: Path):
    write_tar(
        tmp_path / "x-0000.tar", **{"a/1.png": png(1), "a/1.txt": "one\nuno\n", "a/2.png": png(2), "a/2.cls": "7"}
    )
    about = json.dumps({"caption": "three", "label": "c", "keywords": ["k"]})
    write_tar(tmp_path / "x-0001.tar", **{"3.jpg": png(3), "3.json": about, "4.txt": "lonely"})
    expected = {"a/1": ("one", "uno"), "a/2": ("7",), "3": ("three",)}
    for path in (tmp_path, tmp_path / "x-{0000..0001}.tar", tmp_path / "x-*.tar"):
        source = open_source(path)
        assert texts(source) == expected
        assert [example.image for example in source.examples] == [png(1), png(2), png(3)]
    assert (source.examples[2].label, source.examples[2].tags) == ("c", ("k",))
    assert "1 rows without a picture skipped" in source.understood


def test_webdataset_splits_text_columns_and_text_beside_json(tmp_path: Path):
    about = json.dumps({"name": "the name", "long": "the long one", "group": "x"})
    for i, split in enumerate(("train", "val", "test")):
        write_tar(tmp_path / f"emoji-{split}-000000.tar", **{"1.webp": png(i), "1.txt": "text", "1.json": about})
    source = open_source(tmp_path)
    assert keys(source) == {"train": ["train/1"], "val": ["val/1"], "test": ["test/1"]}
    assert {example.texts for example in source.examples} == {("text",)}
    assert open_source(tmp_path, text_column="long").examples[0].texts == ("the long one",)
    with pytest.raises(UserError, match=r"1\.json has no column 'wide'"):
        open_source(tmp_path, text_column="wide")


def test_broken_archives_are_said(tmp_path: Path):
    whole = write_tar(tmp_path / "x.tar", **{"1.png": png(1), "1.txt": "one"})
    whole.write_bytes(b"\x1f\x8b no tar" * 100)
    with pytest.raises(UserError, match=r"x\.tar cannot be read as a tar file"):
        open_source(whole)
    with pytest.raises(UserError, match=r"There is no .*y-1\.tar"):
        open_source(tmp_path / "y-{1..2}.tar")
