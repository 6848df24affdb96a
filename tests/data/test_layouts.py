"""Every layout of data on disk becomes the same kind of source; what is wrong with one is said with its place."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chiasm.data.columns import texts_in
from chiasm.data.layouts import open_source
from chiasm.data.rows import canonical_split, split_in_name
from chiasm.data.source import Source, split_by_hash
from chiasm.errors import UserError

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def draw(folder: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(shade))


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, **files: bytes | str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def texts(source: Source) -> dict[str, tuple[str, ...]]:
    return {example.key: example.texts for example in source.examples}


def keys(source: Source) -> dict[str, list[str]]:
    return {name: sorted(example.key for example in source.split(name)) for name in source.splits}


def assert_pictures_exist(source: Source) -> None:
    for example in source.examples:
        data = example.image if isinstance(example.image, bytes) else example.image.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (5, 4)


# Tables beside pictures


def test_imagefolder_metadata_in_json_lines(tmp_path: Path):
    draw(tmp_path, "a.png", "deep/b.png")
    rows = [{"file_name": "a.png", "text": "one"}, {"file_name": "deep/b.png", "text": ["two", "deux"]}]
    write(tmp_path / "metadata.jsonl", *map(json.dumps, rows))
    source = open_source(tmp_path)
    assert texts(source) == {"a.png": ("one",), "deep/b.png": ("two", "deux")}
    assert "picture in 'file_name', captions in 'text'" in source.understood
    assert "2 pictures, 3 captions" in source.understood
    assert_pictures_exist(source)


def test_imagefolder_splits_are_folders(tmp_path: Path):
    for split, shade in (("train", 1), ("validation", 2), ("test", 3)):
        draw(tmp_path / split, "a.png")
        write(tmp_path / split / "metadata.csv", "file_name,caption,label", f"a.png,picture {shade},c{shade}")
    source = open_source(tmp_path)
    assert keys(source) == {"train": ["train/a.png"], "val": ["val/a.png"], "test": ["test/a.png"]}
    assert [source.split(name)[0].texts for name in source.splits] == [("picture 1",), ("picture 2",), ("picture 3",)]
    assert source.split("val")[0].label == "c2"
    assert source.split("val")[0].image == tmp_path / "validation" / "a.png"


@pytest.mark.parametrize("folder", ["", "images", "Images", "Flicker8k_Dataset"])
@pytest.mark.parametrize("header", [["image,caption"], []])
def test_flickr_captions_with_commas_and_several_rows_per_picture(tmp_path: Path, folder: str, header: list[str]):
    draw(tmp_path / folder, "a.png", "b.png")
    rows = ["a.png,A dog, a cat , and a cow .", 'b.png,"A ""big"" man, running"', "a.png,Animals ."]
    write(tmp_path / "captions.txt", *header, *rows)
    source = open_source(tmp_path)
    assert texts(source) == {
        "a.png": ("A dog, a cat , and a cow .", "Animals ."),
        "b.png": ('A "big" man, running',),
    }
    assert_pictures_exist(source)


def test_flickr_tokens(tmp_path: Path):
    draw(tmp_path / "Images", "a.png", "b.png")
    write(tmp_path / "Flickr8k.token.txt", 'a.png#0\t"Go" , he said', "a.png#1\tA man", "b.png#0\tA dog, brown")
    source = open_source(tmp_path)
    assert texts(source) == {"a.png": ('"Go" , he said', "A man"), "b.png": ("A dog, brown",)}
    write(tmp_path / "Flickr8k.token.txt", "a.png#0\tA man", "b.png A dog")
    with pytest.raises(UserError, match=r"token\.txt, line 2"):
        open_source(tmp_path)


def test_flickr30k_results_with_bars(tmp_path: Path):
    draw(tmp_path, "a.png")
    write(tmp_path / "results.csv", "image_name| comment_number| comment", 'a.png| 0| "Two, men', "a.png| 1| People")
    assert texts(open_source(tmp_path / "results.csv")) == {"a.png": ('"Two, men', "People")}


def test_tab_separated_and_a_quoted_line_break(tmp_path: Path):
    draw(tmp_path, "a.png")
    write(tmp_path / "captions.tsv", "image\tcaption", 'a.png\t"two\nlines, one caption"')
    assert texts(open_source(tmp_path)) == {"a.png": ("two lines, one caption",)}


def test_a_split_column_and_named_columns(tmp_path: Path):
    draw(tmp_path, "a.png", "b.png", "c.png")
    rows = ["a.png,no,one,train", "b.png,no,two,dev", "c.png,no,three,test"]
    table = write(tmp_path / "things.csv", "where,text,said,split", *rows)
    source = open_source(table, image_column="where", text_column="said")
    assert keys(source) == {"train": ["a.png"], "val": ["b.png"], "test": ["c.png"]}
    assert texts(source)["b.png"] == ("two",)
    with pytest.raises(UserError, match=r"no column 'caption'\nIts columns: where, text, said, split"):
        open_source(table, image_column="where", text_column="caption")
    with pytest.raises(UserError, match="which column holds the picture"):
        open_source(table)


def test_a_table_for_each_split(tmp_path: Path):
    draw(tmp_path, "a.png", "b.png")
    for split, name in (("train", "a.png"), ("test", "b.png")):
        write(tmp_path / f"{split}.jsonl", json.dumps({"image": name, "caption": split}))
    source = open_source(tmp_path)
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 1, "val": 0, "test": 1}


def test_numbered_captions_make_one_example(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption_0,caption_1,caption_2", "a.png,x,y,x")
    assert texts(open_source(table)) == {"a.png": ("x", "y")}


def test_absolute_paths_and_a_folder_of_pictures_elsewhere(tmp_path: Path):
    draw(tmp_path / "far", "a.png", "b.png")
    table = write(tmp_path / "here" / "t.csv", "image,caption", f"{tmp_path / 'far' / 'a.png'},one", "b.png,two")
    assert_pictures_exist(open_source(table, picture_folder=tmp_path / "far"))
    assert "1 picture files missing" in open_source(table).understood


def test_missing_pictures_are_kept_unless_all_are_missing(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption", "a.png,one", "gone.png,two")
    source = open_source(table)
    assert source.examples[1].image == tmp_path / "gone.png"
    assert "1 picture files missing" in source.understood
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="None of the 2 pictures"):
        open_source(table)


def test_a_picture_name_in_two_folders_is_refused_unless_the_split_tells(tmp_path: Path):
    draw(tmp_path, "train2017/a.png", "val2017/a.png")
    table = write(tmp_path / "t.csv", "image,caption,split", "a.png,one,val")
    assert open_source(table).examples[0].image == tmp_path / "val2017" / "a.png"
    write(table, "image,caption", "a.png,one")
    with pytest.raises(UserError, match=r"Which picture is 'a\.png'"):
        open_source(table)


def test_rows_without_caption_or_picture_are_skipped_and_counted(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption", "a.png,one", "a.png,  ", "b.png", ",three")
    source = open_source(table)
    assert texts(source) == {"a.png": ("one",)}
    assert "1 rows without a picture skipped" in source.understood
    assert "2 rows without a caption skipped" in source.understood
    write(table, "image,caption", "a.png,")
    with pytest.raises(UserError, match="no picture with a caption"):
        open_source(table)


def test_malformed_json_lines_say_the_row(tmp_path: Path):
    path = write(tmp_path / "t.jsonl", '{"image": "a.png", "caption": "x"}', "", '{"image": "a.png", "cap')
    with pytest.raises(UserError, match=r"t\.jsonl, row 3: not JSON"):
        open_source(path)
    write(path, "[1, 2]")
    with pytest.raises(UserError, match="row 1 is not an object"):
        open_source(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,caption\na.png,caf\xe9\n", r"line 2: not UTF-8"),
        (b"image,caption\nhttps://x.org/a.png,x\n", r"record 1, 'image' is a web address"),
        (b"", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "t.csv")


# Texts beside pictures, folders of classes


def test_each_line_of_a_sidecar_is_a_caption(tmp_path: Path):
    draw(tmp_path, "a.png", "deep/b.JPG", "alone.png")
    write(tmp_path / "a.txt", "one", "", "uno")
    write(tmp_path / "deep" / "b.txt", "two")
    source = open_source(tmp_path)
    assert texts(source) == {"a.png": ("one", "uno"), "deep/b.JPG": ("two",)}
    assert "1 rows without a text file of the picture's name skipped" in source.understood
    with pytest.raises(UserError, match="has no columns"):
        open_source(tmp_path, text_column="caption")


def test_sidecars_in_folders_of_splits(tmp_path: Path):
    for split in ("train", "val", "test-style"):
        draw(tmp_path / split, "a.png")
        write(tmp_path / split / "a.txt", split)
    assert keys(open_source(tmp_path)) == {
        "train": ["train/a.png"],
        "val": ["val/a.png"],
        "test-style": ["test-style/a.png"],
    }


def test_class_folders(tmp_path: Path):
    draw(tmp_path, "hot_dog/a.png", "hot_dog/b.png", "cat/a.png")
    source = open_source(tmp_path)
    assert texts(source) == {"cat/a.png": ("cat",), "hot_dog/a.png": ("hot dog",), "hot_dog/b.png": ("hot dog",)}
    assert [example.label for example in source.examples] == ["cat", "hot_dog", "hot_dog"]
    assert sum(map(len, source.splits.values())) == 3


def test_class_folders_in_splits(tmp_path: Path):
    draw(tmp_path, "train/cat/a.png", "train/dog/b.png", "valid/cat/c.png", "test/dog/d.png")
    source = open_source(tmp_path)
    assert keys(source) == {
        "train": ["train/cat/a.png", "train/dog/b.png"],
        "val": ["valid/cat/c.png"],
        "test": ["test/dog/d.png"],
    }
    assert {example.label for example in source.examples} == {"cat", "dog"}


def test_pictures_without_words_are_refused_with_the_known_layouts(tmp_path: Path):
    draw(tmp_path, "a.png", "images/b.png")
    with pytest.raises(UserError, match=r"no known layout\nA folder can hold: .*a\.jpg beside a\.txt"):
        open_source(tmp_path)


# Annotations


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


# All layouts


def test_built_in_names():
    assert open_source("emoji").name == "emoji"
    assert open_source("shapes").name.startswith("shapes")


@pytest.mark.parametrize("path", ["nowhere", "./photos/none", "photos.csv", "a/b.tar"])
def test_a_path_that_does_not_exist_is_said_with_the_known_layouts(path: str):
    with pytest.raises(UserError, match=f"There is no {path}\n.*COCO"):
        open_source(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"a\.pdf is no data set that is known"):
        open_source(write(tmp_path / "a.pdf", "x"))


def test_without_splits_in_the_data_the_pictures_name_decides(tmp_path: Path):
    names = [f"{i}.png" for i in range(20)]
    draw(tmp_path, *names)
    table = write(tmp_path / "t.csv", "image,caption", *(f"{name},{n}" for n in range(2) for name in names))
    source = open_source(table)
    expected = {name: [names[i] for i in rows] for name, rows in split_by_hash(names).items()}
    assert {name: [example.key for example in source.split(name)] for name in source.splits} == expected


def test_a_missing_val_is_carved_out_of_train(tmp_path: Path):
    names = [f"{i}.png" for i in range(30)]
    draw(tmp_path, *names)
    rows = [f"{name},x,{'test' if i < 5 else 'train'}" for i, name in enumerate(names)]
    source = open_source(write(tmp_path / "t.csv", "image,caption,split", *rows))
    found = keys(source)
    assert list(found) == ["train", "val", "test"]
    assert found["test"] == sorted(names[:5])
    assert sorted(found["train"] + found["val"]) == sorted(names[5:])
    assert found["val"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder / "t.csv", "image,caption", "a.png,two"),
        lambda folder: write(folder / "t.csv", "image,caption", "a.png,one", "b.png,one"),
        lambda folder: (folder / "a.png").write_bytes(png(9) + b"more"),
    ],
)
def test_the_fingerprint_changes_exactly_when_the_data_does(tmp_path: Path, change: Callable[[Path], Any]):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption", "a.png,one")
    before = open_source(table).fingerprint
    assert open_source(table).fingerprint == before
    change(tmp_path)
    assert open_source(table).fingerprint != before


def test_captions_in_cells_of_any_kind():
    cells = ["  a \n dog ", None, ["x", {"raw": "y"}], {"text": ["z"]}, 7, "", "x"]
    assert texts_in(cells) == ("a dog", "x", "y", "z", "7")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2017", "train"),
        ("dev", "val"),
        ("x-validation-00000-of-00001.parquet", "val"),
        ("trainstation", ""),
        ("latest", ""),
        ("test_images", "test"),
    ],
)
def test_splits_in_names(name: str, split: str):
    assert split_in_name(name) == split


def test_canonical_splits():
    assert [canonical_split(name) for name in ("Validation", "restval", "test_2016", "fold3")] == [
        "val",
        "train",
        "test-2016",
        "fold3",
    ]
