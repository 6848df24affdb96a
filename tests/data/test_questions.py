"""Answers are true of the drawn things; words alone and pictures alone are at chance, in every split."""

import re
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest

from chiasm.data.layouts import open_source
from chiasm.data.questions import chance, questions_source
from chiasm.data.shapes import COLOURS, HELD_OUT, SHAPES, ShapesConfig, draw_shapes
from chiasm.errors import UserError

CONFIG = ShapesConfig(difficulty="hard", samples=6000, size_pixels=48, questions_per_picture=4)
TESTS = ("val", "test", "test-combinations")
POINTS = 0.02


@cache
def source():
    return questions_source(CONFIG)


@cache
def drawn_things():
    return draw_shapes(CONFIG).things


def things_of(example):
    return drawn_things()[int(example.group.rsplit("-", 1)[1])]


def named(things, words):
    """The things that words such as "small red circle" or "blue shapes" mean."""
    words = [word.rstrip("s") for word in words.split() if word.rstrip("s") != "shape"]
    return [t for t in things if all(word in (t.size, t.colour, t.shape) for word in words)]


def answer(question, things):
    """What a person who reads the question and sees the things says."""
    if found := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if named(things, found[1]) else "no"
    if found := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(named(things, found[1])))
    if found := re.fullmatch(r"what colour is the (.+)\?", question):
        (thing,) = named(things, found[1])
        return thing.colour
    if found := re.fullmatch(r"are there more (.+) than (.+)\?", question):
        return "yes" if len(named(things, found[1])) > len(named(things, found[2])) else "no"
    if found := re.fullmatch(r"is the (.+) larger than the (.+)\?", question):
        (one,), (other,) = (named(things, words) for words in found.groups())
        assert one.size != other.size
        return "yes" if one.radius_pixels > other.radius_pixels else "no"
    one_words, relation, other_words = re.fullmatch(
        r"is the (.+) (left of|right of|above|below) the (.+)\?", question
    ).groups()
    (one,), (other,) = named(things, one_words), named(things, other_words)
    x, y = one.x_pixels - other.x_pixels, one.y_pixels - other.y_pixels
    return "yes" if {"left of": x < 0, "right of": x > 0, "above": y < 0, "below": y > 0}[relation] else "no"


def test_every_answer_is_true_of_the_picture():
    for example in source().examples:
        (question,) = example.texts
        assert answer(question, things_of(example)) == example.label, (question, things_of(example))
    kinds = {"existence", "count", "colour", "relation", "comparison"}
    assert {example.tags for example in source().examples} == {(kind,) for kind in kinds}


def test_a_relation_is_asked_for_only_where_it_is_beyond_dispute():
    for example in source().split("train")[:4000]:
        if example.tags == ("relation",):
            one_words, relation, other_words = re.fullmatch(
                r"is the (.+) (left of|right of|above|below) the (.+)\?", example.texts[0]
            ).groups()
            (one,), (other,) = (named(things_of(example), words) for words in (one_words, other_words))
            x, y = one.x_pixels - other.x_pixels, one.y_pixels - other.y_pixels
            along, across = (x, y) if relation in ("left of", "right of") else (y, x)
            assert abs(along) >= 48 / 8 and (example.label == "no" or abs(along) >= abs(across) + 48 / 8)


def accuracy_by_text(train, test):
    """Of the best answer to each question in training, else of the best to any."""
    best, overall = defaultdict(Counter), Counter()
    for example in train:
        best[example.texts][example.label] += 1
        overall[example.label] += 1
    return np.mean([best.get(e.texts, overall).most_common(1)[0][0] == e.label for e in test])


def accuracy_by_naive_bayes(train, test, words_of, allowed):
    """Of naive Bayes on the words of an example; `allowed` are the answers of the examples' kind."""
    answers, counts = Counter(), defaultdict(Counter)
    for example in train:
        answers[example.tags, example.label] += 1
        counts[example.tags, example.label].update(words_of(example))
    hits = 0
    for example in test:
        scores = {}
        for tags, label in answers:
            if tags == example.tags or not allowed:
                total = answers[tags, label]
                likely = sum(np.log((counts[tags, label][word] + 1) / (total + 2)) for word in words_of(example))
                scores[label] = max(scores.get(label, -np.inf), np.log(total) + likely)
        hits += max(scores, key=scores.get) == example.label
    return hits / len(test)


@pytest.mark.parametrize("split", TESTS)
def test_the_words_alone_are_at_chance(split):
    train, test = list(source().split("train")), list(source().split(split))
    expected = chance(test)
    assert 0.35 < expected < 0.42
    assert accuracy_by_text(train, test) < expected + POINTS
    assert accuracy_by_naive_bayes(train, test, lambda e: e.texts[0].split(), allowed=True) < expected + POINTS


@pytest.mark.parametrize("split", TESTS)
def test_the_picture_alone_is_at_chance(split):
    train, test = list(source().split("train")), list(source().split(split))
    commonest = Counter(example.label for example in train).most_common(1)[0][0]
    share = np.mean([example.label == commonest for example in test])

    def seen(example):
        words = [{getattr(t, what) for t in things_of(example)} for what in ("colour", "shape", "size")]
        numbers = [f"{len(some)} of {place}" for place, some in enumerate([things_of(example), *words])]
        return set().union(*words, numbers)

    assert accuracy_by_naive_bayes(train, test, seen, allowed=False) < share + POINTS
    for kinds in (("existence",), ("relation",), ("comparison",)):
        of_kind = [example for example in test if example.tags == kinds]
        same = [example for example in train if example.tags == kinds]
        assert accuracy_by_naive_bayes(same, of_kind, seen, allowed=True) < 0.5 + 2.5 * 0.5 / len(of_kind) ** 0.5


def test_of_every_kind_the_answers_are_equally_frequent():
    by_kind = defaultdict(Counter)
    for example in source().split("train"):
        by_kind[example.tags[0]][example.label] += 1
    assert set(by_kind["count"]) == set("0123") and set(by_kind["colour"]) == set(COLOURS)
    for kind, counts in by_kind.items():
        least = 0.65 if kind == "colour" else 0.85  # four of the eight colours lack one of the four shapes
        assert min(counts.values()) > least * max(counts.values()), (kind, counts)


def test_pictures_are_shared_and_stay_in_their_split():
    split_of = {}
    for name in source().splits:
        for example in source().split(name):
            assert split_of.setdefault(example.group, name) == name
            assert example.key.startswith(f"{example.group}#")
    assert len(split_of) > 0.99 * CONFIG.samples
    assert len({example.key for example in source().examples}) == len(source().examples)
    assert 3.9 < len(source().examples) / CONFIG.samples <= 4
    one, two = source().examples[:2]
    assert one.group == two.group and np.shares_memory(one.image, two.image)
    assert max(Counter(example.group for example in source().examples).values()) == 4
    for places in source().splits.values():  # no picture is asked the same thing twice
        asked = [(source().examples[int(i)].group, source().examples[int(i)].texts) for i in places]
        assert len(asked) == len(set(asked))


def test_a_held_out_pair_is_asked_for_only_where_it_occurs():
    for split in ("train", "val", "test"):
        text = " ".join(example.texts[0] for example in source().split(split))
        assert not any(f"{colour} {shape}" in text for colour, shape in HELD_OUT)
    text = " ".join(example.texts[0] for example in source().split("test-combinations"))
    assert all(f"{colour} {shape}" in text for colour, shape in HELD_OUT)


def test_the_colour_or_the_shape_of_an_absent_pair_is_there_and_often_both():
    asked = [e for e in source().split("train") if e.tags == ("existence",) and e.label == "no"]
    words = [re.fullmatch(r"is there an? (.+) (.+)\?", e.texts[0]).groups() for e in asked]
    there = [sum(bool(named(things_of(e), word)) for word in pair) for e, pair in zip(asked, words, strict=True)]
    assert np.mean(np.equal(there, 0)) < 0.03 and np.mean(np.equal(there, 2)) > 0.2


@pytest.mark.parametrize("difficulty", ["lesson", "easy"])
def test_of_single_things_existence_and_colour_are_asked(difficulty):
    config = ShapesConfig(difficulty=difficulty, samples=1500, questions_per_picture=2)
    source, things = questions_source(config), draw_shapes(config).things
    assert {example.tags for example in source.examples} == {("existence",), ("colour",)}
    for example in source.examples:
        assert answer(example.texts[0], things[int(example.group.rsplit("-", 1)[1])]) == example.label
    train = list(source.split("train"))
    for split in source.test_splits:
        test = list(source.split(split))
        assert accuracy_by_text(train, test) < chance(test) + 2.5 * 0.5 / len(test) ** 0.5


def test_the_same_seed_asks_the_same_and_another_does_not():
    config = ShapesConfig(difficulty="hard", samples=300, questions_per_picture=3)
    first, again = (open_source("shapes", shapes=config) for _ in range(2))
    other = questions_source(ShapesConfig(difficulty="hard", samples=300, questions_per_picture=3, seed=1))
    said = [[(e.key, e.texts, e.label) for e in source.examples] for source in (first, again, other)]
    assert said[0] == said[1] != said[2] and first.fingerprint == again.fingerprint != other.fingerprint
    assert "questions (existence" in first.understood and "about 300 pictures" in first.understood
    assert len(SHAPES) == 4


def test_captions_are_what_they_were_without_questions():
    drawn = draw_shapes(ShapesConfig(difficulty="hard", samples=200))
    alike = [len({t.shape for t in things}) == 1 or len({t.colour for t in things}) == 1 for things in drawn.things]
    assert np.mean(alike) < 0.35


def test_too_few_pictures_and_impossible_numbers_are_said():
    with pytest.raises(UserError, match="10 pictures are too few"):
        questions_source(ShapesConfig(difficulty="hard", samples=10, questions_per_picture=4))
    with pytest.raises(ValueError, match="questions_per_picture is -1"):
        ShapesConfig(questions_per_picture=-1)
