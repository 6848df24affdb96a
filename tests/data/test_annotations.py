"""COCO captions, Karpathy splits and lists of records become sources like any other layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chiasm.data.layouts import open_source
from chiasm.errors import UserError
from layout_files import assert_pictures_exist, draw, keys, texts, write


def coco(path: Path, **captions: str) -> None:
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(captions)]
    annotations = [{"image_id": i, "id": i, "caption": text} for i, text in enumerate(captions.values())]
    annotations += [{"image_id": 0, "id": 99, "caption": "again"}]
    write(path, json.dumps({"info": {}, "images": images, "annotations": annotations}))


@pytest.mark.parametrize("pictures", ["", "images", "{split}2017", "images/{split}2017"])
@pytest.mark.parametrize("place", ["", "annotations"])
def test_coco_captions(tmp_path: Path, pictures: str, place: str):
    for split in ("train", "val"):
        draw(tmp_path / pictures.format(split=split), f"{split}1.png", f"{split}2.png")
        coco(tmp_path / place / f"captions_{split}2017.json", **{f"{split}1": "one", f"{split}2": "two"})
    source = open_source(tmp_path)
    assert texts(source)["train1.png"] == ("one", "again")
    assert keys(source) == {"train": ["train1.png", "train2.png"], "val": ["val1.png", "val2.png"]}
    assert_pictures_exist(source)
    alone = open_source(tmp_path / place / "captions_train2017.json")
    assert set(alone.splits) == {"train", "val", "test"}
    assert_pictures_exist(alone)


def test_coco_with_the_same_names_in_both_splits(tmp_path: Path):
    for split in ("train", "val"):
        draw(tmp_path, f"{split}2017/a.png")
        coco(tmp_path / "annotations" / f"captions_{split}2017.json", a=split)
    source = open_source(tmp_path)
    assert source.split("val")[0].image == tmp_path / "val2017" / "a.png"
    assert source.split("val")[0].key == "val/a.png"


def test_coco_without_captions_is_refused(tmp_path: Path):
    data = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}
    path = write(tmp_path / "instances.json", json.dumps(data))
    with pytest.raises(UserError, match="annotations have no captions"):
        open_source(path)
    write(path, json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}))
    with pytest.raises(UserError, match="file_name"):
        open_source(path)
    write(path, json.dumps({"images": []}))
    with pytest.raises(UserError, match="an entry lacks"):
        open_source(path)


def test_karpathy_splits_count_restval_as_train(tmp_path: Path):
    draw(tmp_path, "val2014/a.png", "val2014/b.png", "train2014/c.png", "val2014/d.png")
    images = [
        {"filepath": folder, "filename": name, "split": split, "sentences": [{"raw": name}, {"raw": f"A {name}"}]}
        for folder, name, split in [
            ("val2014", "a.png", "restval"),
            ("val2014", "b.png", "val"),
            ("train2014", "c.png", "train"),
            ("val2014", "d.png", "test"),
        ]
    ]
    write(tmp_path / "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    source = open_source(tmp_path)
    assert keys(source) == {
        "train": ["train2014/c.png", "val2014/a.png"],
        "val": ["val2014/b.png"],
        "test": ["val2014/d.png"],
    }
    assert texts(source)["val2014/d.png"] == ("d.png", "A d.png")
    assert_pictures_exist(source)


def test_a_json_list_of_records(tmp_path: Path):
    draw(tmp_path, "a.png")
    path = write(tmp_path / "data.json", json.dumps([{"img": "a.png", "sentences": ["x", "y"]}]))
    assert texts(open_source(path)) == {"a.png": ("x", "y")}
    write(path, '{"images": [')
    with pytest.raises(UserError, match=r"data\.json, line 2: not JSON"):
        open_source(path)
