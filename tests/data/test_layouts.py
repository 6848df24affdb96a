"""Every layout of data on disk becomes the same kind of source; what is wrong with one is said with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chiasm.data.columns import texts_in
from chiasm.data.layouts import open_source
from chiasm.data.rows import canonical_split, split_in_name
from chiasm.data.source import split_by_hash
from chiasm.errors import UserError
from layout_files import assert_pictures_exist, draw, keys, png, texts, write

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
    assert "1 files missing" in open_source(table).understood


def test_missing_pictures_are_kept_unless_all_are_missing(tmp_path: Path):
    draw(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", "image,caption", "a.png,one", "gone.png,two")
    source = open_source(table)
    assert source.examples[1].image == tmp_path / "gone.png"
    assert "1 files missing" in source.understood
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="None of the 2 files"):
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
    write(path, "7")
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
