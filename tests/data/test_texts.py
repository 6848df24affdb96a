"""Text files as data: which files are text, a line an example, splits, and long texts in parts that fit."""

from dataclasses import replace

import numpy as np
import pytest

from chiasm.data.layouts import open_source
from chiasm.data.shapes import ShapesConfig, shapes_source
from chiasm.data.texts import in_contexts, text_files
from chiasm.errors import UserError
from chiasm.text import Tokenizer

LINES = [f"line number {i} of the book" for i in range(40)]


def texts(source, split):
    return [example.texts[0] for example in source.split(split)]


def test_every_line_of_a_file_is_an_example_without_a_picture(tmp_path):
    (tmp_path / "book.txt").write_text("\ufeff  " + "\r\n\r\n".join(LINES) + "\n", encoding="utf-8")
    source = open_source(tmp_path / "book.txt")
    examples = list(source.examples)
    assert [example.texts for example in examples] == [(line,) for line in LINES]
    assert examples[1].key == "book.txt:3" and all(example.image is None for example in examples)
    rows = np.concatenate(list(source.splits.values()))
    assert sorted(rows) == list(range(40)) and list(source.splits) == ["train", "val", "test"]
    assert "40 lines" in source.understood


def test_equal_lines_are_never_on_two_sides_and_the_place_of_a_line_is_its_own(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(LINES * 2), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(["another", *LINES]), encoding="utf-8")
    first, second = open_source(tmp_path / "a.txt"), open_source(tmp_path / "b.txt")
    sides = [set(texts(first, split)) for split in first.splits]
    assert sum(map(len, sides)) == 40
    for split in first.splits:
        assert set(texts(second, split)) - {"another"} == set(texts(first, split))


@pytest.mark.parametrize("names", [("train.txt", "valid.txt", "test.txt"), ("train/a.txt", "val/a.txt", "test/a.txt")])
def test_files_and_folders_may_name_the_splits(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    source = open_source(tmp_path)
    assert {split: texts(source, split) for split in source.splits} == {
        split: [f"text of {name}"] for split, name in zip(("train", "val", "test"), names, strict=True)
    }


def test_a_folder_of_books_is_split_by_line(tmp_path):
    for name in ("one", "test_of_time"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {line}" for line in LINES), encoding="utf-8")
    source = open_source(tmp_path)
    assert len(source.split("train")) > len(source.split("test")) > 0


@pytest.mark.parametrize(
    "first",
    ["image,caption", "dog.jpg\ta dog", "1000.jpg#0\tA child", "file_name|text"],
)
def test_a_table_of_captions_is_no_text(tmp_path, first):
    (tmp_path / "captions.txt").write_text(f"{first}\nx.jpg,a thing\n", encoding="utf-8")
    assert text_files(tmp_path / "captions.txt") == [] == text_files(tmp_path)


def test_a_folder_with_anything_else_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("a dog, and a picture", encoding="utf-8")
    assert text_files(tmp_path) == [tmp_path / "a.txt"]
    (tmp_path / "a.jpg").write_bytes(b"")
    assert text_files(tmp_path) == []


def test_files_without_text_or_of_another_encoding_are_refused_with_the_place(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no text"):
        open_source(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"fine\n\xff\xfe")
    with pytest.raises(UserError, match=r"a\.txt, line 2: not UTF-8"):
        open_source(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize("context", [5, 8, 13])
def test_parts_fit_and_say_together_what_the_text_said(tmp_path, kind, context):
    long = "the old man  sat by the sea, and looked at the ships that went by. " * 3
    (tmp_path / "a.txt").write_text(f"short\n{long}\n" + "\n".join(LINES), encoding="utf-8")
    source = open_source(tmp_path / "a.txt")
    tokenizer = Tokenizer.train([long, *LINES, "short"], kind=kind, vocab_size=400)
    parted = in_contexts(source, tokenizer, context)
    assert list(parted.splits) == list(source.splits)
    for split in source.splits:
        parts = list(parted.split(split))
        assert max(tokenizer.lengths([example.texts[0] for example in parts]), default=0) <= context
        assert "".join("".join(texts(parted, split)).split()) == "".join("".join(texts(source, split)).split())
        assert len({example.key for example in parts}) == len(parts)
    assert in_contexts(parted, tokenizer, context).splits["train"].tolist() == parted.splits["train"].tolist()


def test_short_captions_stay_the_examples_that_they_were():
    source = shapes_source(ShapesConfig(samples=30, difficulty="lesson"))
    tokenizer = Tokenizer.train([text for example in source.examples for text in example.texts])
    parted = in_contexts(source, tokenizer, 32)
    for split in source.splits:
        assert [example.key for example in parted.split(split)] == [example.key for example in source.split(split)]


def test_one_word_that_does_not_fit_is_left_to_the_loader(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmnop and more\n", encoding="utf-8")
    source = open_source(tmp_path / "a.txt")
    tokenizer = Tokenizer.train(["x"], kind="bpe", vocab_size=260)
    parted = in_contexts(replace(source, splits={"train": np.array([0])}), tokenizer, 10)
    assert texts(parted, "train") == ["abcdefghijklmnop", "and", "more"]
