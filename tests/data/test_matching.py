"""Wrong captions are wrong, as frequent as right ones, in every split, and near where they shall be."""

from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest

from chiasm.data.emoji import emoji_source
from chiasm.data.matching import WRONG_CAPTIONS, matching_source
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.types import Example

EACH = pytest.mark.parametrize("how", ["random", "text"])


@cache
def emoji():
    return emoji_source()


@cache
def matchings(how):
    return matching_source(emoji(), how)


def source_of(*texts, groups=None, splits=None):
    groups = groups or [""] * len(texts)
    examples = [
        Example(image=np.full((2, 2, 3), i, np.uint8), texts=own, key=f"k{i}", group=group)
        for i, (own, group) in enumerate(zip(texts, groups, strict=True))
    ]
    splits = splits or {"train": np.arange(len(texts))}
    return Source(name="some", examples=examples, splits=splits, understood="some", fingerprint="f")


def pairs(source, split):
    examples = list(source.split(split))
    return list(zip(examples[::2], examples[1::2], strict=True))


@EACH
def test_every_picture_has_its_own_captions_and_wrong_ones(how):
    source = matchings(how)
    assert list(source.splits) == list(emoji().splits)
    for split in emoji().splits:
        own = emoji().split(split)
        found = pairs(source, split)
        assert len(found) == len(own)
        said = {text for example in own for text in example.texts}
        of_group = defaultdict(set)
        for example in own:
            of_group[example.group].update(example.texts)
        for example, (right, wrong) in zip(own, found, strict=True):
            assert right.label == "yes" and wrong.label == "no"
            assert right.texts == example.texts and right.image is wrong.image
            assert right.group == wrong.group == example.group and right.key != wrong.key
            assert set(wrong.texts) <= said - of_group[example.group]
            assert len(set(wrong.texts)) == len(wrong.texts)
            assert len(wrong.texts) in ((WRONG_CAPTIONS, WRONG_CAPTIONS - 1) if split == "train" else (1,))


@EACH
def test_the_words_alone_are_at_chance(how):
    source = matchings(how)
    by_text, by_word = defaultdict(Counter), defaultdict(Counter)
    for example in source.split("train"):
        for text in example.texts:
            by_text[text][example.label] += 1 / len(example.texts)
            for word in text.split():
                by_word[word][example.label] += 1 / len(example.texts)
    for split in ("val", *source.test_splits):
        test = list(source.split(split))
        exact = [by_text[e.texts[0]].most_common(1)[0][0] == e.label if e.texts[0] in by_text else 0.5 for e in test]
        bayes = [
            sum(np.log((by_word[w]["yes"] + 1) / (by_word[w]["no"] + 1)) for w in e.texts[0].split()) > 0 for e in test
        ]
        right = np.mean([guess == (e.label == "yes") for guess, e in zip(bayes, test, strict=True)])
        assert abs(np.mean(exact) - 0.5) < 0.02 and abs(right - 0.5) < 0.02
        first = Counter((e.texts[0], e.label) for e in test)
        assert sum(abs(first[text, "yes"] - first[text, "no"]) for text, _ in first) <= 0.02 * len(test)


def overlap(right, wrong):
    one, other = (set(text.split()) for text in (right.texts[0], wrong.texts[0]))
    return len(one & other) / len(one | other)


def test_near_captions_share_words_and_random_ones_hardly_do():
    shared = {
        how: np.mean([overlap(*pair) for pair in pairs(matchings(how), "test-style")]) for how in ("random", "text")
    }
    assert shared["text"] > 0.25 > 5 * shared["random"]


def test_by_vectors_each_takes_what_fits_its_picture_best():
    words = ["cat", "dog", "car", "van"]
    places = {"cat": 0.0, "dog": 0.1, "car": 2.0, "van": 2.1}

    def vectors(examples, texts):
        def at(text):
            return np.cos(places[text]), np.sin(places[text])

        return np.array([at(e.texts[0]) for e in examples]), np.array([at(text) for text in texts])

    source = matching_source(source_of(*((word,) for word in words)), vectors)
    first = {right.texts[0]: wrong.texts[0] for right, wrong in pairs(source, "train")}
    assert first == {"cat": "dog", "dog": "cat", "car": "van", "van": "car"}


def test_what_is_true_of_the_same_thing_is_never_wrong():
    texts = [("a", "b"), ("b", "c"), ("d",), ("e",), ("f",), ("g",)]
    untrue = {0: "abc", 1: "abc", 2: "de", 3: "de", 4: "f", 5: "g"}
    for seed in range(10):
        source = matching_source(source_of(*texts, groups=["", "", "same", "same", "", ""]), seed=seed)
        for place, (_, wrong) in enumerate(pairs(source, "train")):
            assert wrong.texts and not set(wrong.texts) & set(untrue[place]), (place, wrong.texts)


def test_captions_that_repeat_too_much_are_lent_more_often_than_they_are_right():
    source = matching_source(source_of(*[("dog",)] * 7, ("cat",), ("cow",)))
    assert all(wrong.texts[0] != right.texts[0] for right, wrong in pairs(source, "train"))


def test_the_same_seed_gives_the_same():
    texts = [(f"word {i % 40} and {i}",) for i in range(100)]
    same = [matching_source(source_of(*texts), "text", seed=seed) for seed in (0, 0, 1)]
    said = [[example.texts for example in source.split("train")] for source in same]
    assert said[0] == said[1] != said[2]
    assert same[0].fingerprint == same[1].fingerprint != same[2].fingerprint
    assert "right and a wrong caption (text)" in same[0].understood


def test_a_split_without_a_wrong_caption_is_said():
    with pytest.raises(UserError, match="no caption that is wrong for a picture with the caption 'dog'"):
        matching_source(source_of(("dog",), ("dog",)))


def test_every_second_wrong_caption_of_training_is_easy_and_those_of_tests_are_hard():
    def shared(example, text):
        return bool(set(example.texts[0].split()) & set(text.split()))

    by_rank = defaultdict(list)
    for right, wrong in pairs(matchings("text"), "train"):
        if len(wrong.texts) == WRONG_CAPTIONS:
            for rank, text in enumerate(wrong.texts):
                by_rank[rank].append(shared(right, text))
    hard_first, easy, hard, _ = (np.mean(by_rank[rank]) for rank in range(4))
    assert hard_first > hard - 0.1 > easy + 0.2
    tests = [shared(right, wrong.texts[0]) for right, wrong in pairs(matchings("text"), "test-style")]
    assert np.mean(tests) > easy + 0.2
