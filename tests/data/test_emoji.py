"""The built-in emoji: the README's counts, and splits that hold out what they say."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from PIL import Image

from chiasm.data.emoji import emoji_source
from chiasm.data.source import Source


@pytest.fixture(scope="module")
def emoji() -> Source:
    return emoji_source()


def test_splits_have_the_readmes_counts(emoji: Source):
    counts = {name: len(rows) for name, rows in emoji.splits.items()}
    assert counts == {"train": 4438, "val": 488, "test-concept": 478, "test-style": 1566, "test-both": 168}
    assert len(emoji.examples) == 7309
    assert emoji.test_splits == ["test-style", "test-concept", "test-both"]


def test_each_test_holds_out_what_its_name_says(emoji: Source):
    def vendors(split: str) -> set[str]:
        return {example.key.split("/")[0] for example in emoji.split(split)}

    def concepts(split: str) -> set[str]:
        return {example.key.split("/")[1] for example in emoji.split(split)}

    assert vendors("train") == vendors("val") == vendors("test-concept") == {"noto", "twemoji", "fluent"}
    assert vendors("test-style") == vendors("test-both") == {"openmoji"}
    assert concepts("test-style") == concepts("train")
    assert concepts("test-both") == concepts("test-concept")
    assert not (concepts("val") | concepts("test-concept")) & concepts("train")


def test_pictures_are_one_group_exactly_when_their_pixels_agree(emoji: Source):
    names_of_bytes: dict[bytes, set[str]] = {}
    groups_of_bytes: dict[bytes, set[str]] = {}
    for example in emoji.examples:
        names_of_bytes.setdefault(example.image, set()).add(example.texts[0])
        groups_of_bytes.setdefault(example.image, set()).add(example.group)
    assert all(len(groups) == 1 for groups in groups_of_bytes.values())
    assert len(groups_of_bytes) == len({example.group for example in emoji.examples}) == 7309 - 84
    assert all(set(example.texts) == names_of_bytes[example.image] for example in emoji.examples)


def test_no_group_is_in_two_splits(emoji: Source):
    places = Counter(group for name in emoji.splits for group in {example.group for example in emoji.split(name)})
    assert set(places.values()) == {1}


def test_an_example_carries_name_keywords_and_class(emoji: Source):
    grin = next(example for example in emoji.examples if example.key == "noto/1f600")
    assert grin.texts == ("grinning face",)
    assert {"cheerful", "grin"} <= set(grin.tags)
    assert grin.label == "Smileys & Emotion"
    with Image.open(io.BytesIO(grin.image)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("WEBP", (96, 96), "RGB")
    assert len({example.key for example in emoji.examples}) == 7309


def test_the_same_picture_has_several_names_its_own_first(emoji: Source):
    flags = [example for example in emoji.split("train") if example.key.startswith("noto/") and len(example.texts) > 1]
    assert flags
    for example in flags:
        twins = [twin for twin in flags if twin.group == example.group]
        assert {twin.texts[0] for twin in twins} == set(example.texts)
