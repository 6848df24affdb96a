"""`chiasm data check`: what is broken, repeated, leaking or too long is found, counted and said; the sheet shows it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.data.emoji import emoji_source
from chiasm.data.inspect import inspect_source
from chiasm.data.layouts import open_source
from chiasm.data.sheet import contact_sheet
from chiasm.data.source import Source
from chiasm.text.tokenizer import Tokenizer
from chiasm.types import Example, Picture


def picture(shade: int, kind: str = "PNG", size: tuple[int, int] = (6, 4), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, shade).save(buffer, kind)
    return buffer.getvalue()


def make_source(**splits: list[tuple[Picture, str]]) -> Source:
    examples = [
        Example(image=image, texts=(text,), key=f"{name}{i}")
        for name, rows in splits.items()
        for i, (image, text) in enumerate(rows)
    ]
    ends = np.cumsum([len(rows) for rows in splits.values()])
    rows = {n: np.arange(end - len(splits[n]), end) for n, end in zip(splits, ends, strict=True)}
    return Source(name="made", examples=examples, splits=rows, understood="made here", fingerprint="f")


def test_formats_modes_and_sizes_are_of_the_files():
    source = make_source(
        train=[(picture(1), "a"), (picture(2, "JPEG", (30, 8), "L"), "b"), (picture(3, "GIF", (2, 50), "P"), "c")],
        val=[(picture(4, mode="CMYK", kind="TIFF"), "d"), (np.zeros((3, 5, 3), np.uint8), "e")],
    )
    found = inspect_source(source)
    assert found.pictures == {"train": 3, "val": 2}
    assert found.formats == {"PNG": 1, "JPEG": 1, "GIF": 1, "TIFF": 1, "array": 1}
    assert found.modes == {"RGB": 2, "L": 1, "P": 1, "CMYK": 1}
    assert (found.width_pixels.least, found.width_pixels.median, found.width_pixels.greatest) == (2, 6.0, 30)
    assert (found.height_pixels.least, found.height_pixels.greatest) == (3, 50)
    assert found.warnings == []
    assert "no warnings" in found.as_text()


def test_a_corrupted_folder_lists_exactly_the_broken_pictures(tmp_path: Path):
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_text("this is no picture")
    (tmp_path / "6.png").unlink()
    rows = [f"{i}.png,caption {i}" for i in range(12)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]))
    found = inspect_source(open_source(tmp_path))
    assert sorted(broken.key for broken in found.broken) == ["3.png", "4.png", "5.png", "6.png"]
    assert all(broken.reason for broken in found.broken)
    assert found.formats == {"PNG": 8}
    assert "4 pictures cannot be read, so many that training will stop" in found.as_text()


def test_equal_pixels_are_duplicates_whatever_the_format_and_leaks_name_both_splits():
    source = make_source(
        train=[(picture(1), "a"), (picture(2), "b"), (picture(2, "BMP"), "c"), (picture(3), "d")],
        val=[(picture(9), "e")],
        test=[(picture(2, "TIFF"), "f"), (picture(3), "g"), (picture(1, size=(4, 6)), "h")],
    )
    found = inspect_source(source)
    assert [[place.key for place in same] for same in found.duplicates] == [
        ["train1", "train2", "test0"],
        ["train3", "test1"],
    ]
    pairs = {splits: [(one.key, other.key) for one, other in pairs] for splits, pairs in found.leaks.items()}
    assert pairs == {("train", "test"): [("train1", "test0"), ("train3", "test1")]}
    assert found.warnings[0].startswith("2 pictures of test stand in train too")
    assert "3 pictures repeat another one, and the data does not say so: train1 (train) = train2" in found.warnings[1]


def test_a_picture_in_three_splits_leaks_between_each_two():
    source = make_source(train=[(picture(1), "a")], val=[(picture(1), "b")], test=[(picture(1), "c")])
    assert set(inspect_source(source).leaks) == {("train", "val"), ("train", "test"), ("val", "test")}


def test_captions_are_counted_and_held_against_the_context():
    source = make_source(
        train=[(picture(i), text) for i, text in enumerate(["a dog.", "a dog.", "a big red dog", "x"])]
    )
    found = inspect_source(source, tokenizer_context=5)
    assert found.words_per_caption == {1: 1, 3: 2, 4: 1}
    assert found.captions_per_picture == {1: 4}
    assert found.captions_beyond_context == 1
    assert found.distinct_captions == 3
    assert found.pictures_sharing_a_caption == 2
    text = found.as_text()
    assert "1 captions are longer than the context of 5 tokens" in text
    assert "50% of the pictures share a caption" in text
    assert inspect_source(source).captions_beyond_context == 0


def test_lengths_are_those_of_the_word_level_tokenizer():
    texts = ["a dog.", "the cat's hat, isn't it?", "flag: Côte d’Ivoire", "one o’clock", "10 % off!"]
    found = inspect_source(make_source(train=[(picture(i), text) for i, text in enumerate(texts)]), tokenizer_context=9)
    tokens = Tokenizer.train(texts).lengths(texts)
    assert sorted(n for length, count in found.words_per_caption.items() for n in [length + 2] * count) == sorted(
        tokens
    )
    assert found.captions_beyond_context == sum(length > 9 for length in tokens)


def test_emoji_are_whole_and_their_declared_repetitions_are_no_surprise():
    emoji = emoji_source()
    part = {name: rows[::9] for name, rows in emoji.splits.items()}
    found = inspect_source(
        Source(name="emoji", examples=emoji.examples, splits=part, understood="a ninth", fingerprint="e")
    )
    assert not found.broken and not found.leaks and not found.groups_across_splits
    assert found.formats == {"WEBP": sum(map(len, part.values()))}
    assert found.unused_pictures == 7309 - sum(map(len, part.values()))
    assert found.duplicates
    assert not any("the data does not say so" in warning for warning in found.warnings)


def test_a_group_in_two_splits_and_an_empty_split_are_said():
    examples = [Example(image=picture(i), texts=(str(i),), key=str(i), group="g") for i in range(2)]
    splits = {"train": np.array([0]), "test": np.array([1]), "val": np.array([], dtype=np.int64)}
    found = inspect_source(Source(name="s", examples=examples, splits=splits, understood="", fingerprint=""))
    assert found.groups_across_splits == ["g"]
    assert found.warnings == [
        "The split val is empty.",
        "1 groups of equal pictures lie in several splits: g.",
    ]


def test_json_holds_everything():
    source = make_source(train=[(picture(1), "a"), (b"no", "b")], test=[(picture(1), "c")])
    found = inspect_source(source)
    data = json.loads(found.to_json())
    assert data["broken"] == [{"split": "train", "key": "train1", "reason": found.broken[0].reason}]
    assert data["leaks"][0]["splits"] == ["train", "test"]
    assert data["leaks"][0]["pairs"][0][1]["key"] == "test0"
    assert data["width_pixels"] == {"least": 6, "median": 6.0, "greatest": 6}
    assert data["warnings"] == found.warnings


def test_the_contact_sheet_shows_every_split_and_survives_broken_pictures(tmp_path: Path):
    red = np.zeros((9, 9, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    long = "an uncommonly long caption that will not fit under its picture " * 3 + "Donaudampfschifffahrtsgesellschaft"
    source = make_source(
        train=[(red, long), (b"broken", "gone"), (picture(3), "")], val=[(picture(4), "x" * 99)], test=[]
    )
    contact_sheet(source, tmp_path / "sheet.png", columns=2, rows_per_split=2, side_pixels=64)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    reds = np.argwhere((pixels == [255, 0, 0]).all(-1))
    assert len(reds) == 62 * 62
    assert np.ptp(reds, axis=0).tolist() == [61, 61]
    top, left = reds.min(axis=0)
    assert pixels[top + 2, left + 64 + 12 + 2].tolist() == [211, 211, 211]
    second_row = top + 64 + 4 * 16 + 4 + 12
    assert pixels[second_row + 32, left + 32].tolist() == [3, 0, 0]
    assert (pixels[second_row:] == [4, 0, 0]).all(-1).sum() > 1000


@pytest.mark.parametrize("columns", [1, 5])
def test_a_sheet_has_a_cell_for_each_chosen_example(tmp_path: Path, columns: int):
    source = make_source(train=[(np.full((4, 4, 3), i, np.uint8), str(i)) for i in range(10)])
    contact_sheet(source, tmp_path / "sheet.png", columns=columns, rows_per_split=1, side_pixels=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    centres = [pixels[64, 12 + 44 * i + 2].tolist() for i in range(columns)]
    expected = np.linspace(0, 9, columns).round().astype(int)
    assert [c[0] for c in centres] == expected.tolist()
