"""Slices and their intervals: against scipy, against loops, and on answers whose weakness is known."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from chiasm.evaluate import Estimate
from chiasm.report.grading import Graded, Grades, grade, slices, student, wilson
from chiasm.report.recorded import SplitRecord


def split(*rows, **scores):
    return SplitRecord(name="test", pictures=len(rows), broken=0, scores=scores, told=rows)


def answers(texts, right, labels=("",), groups=None):
    """Rows of answers.jsonl."""
    return [
        {
            "split": "test",
            "key": f"{place if groups is None else groups[place]}#{place}",
            "text": text,
            "answer": "yes" if hit else "no",
            "probability": 0.5,
            "label": "yes",
            "kind": labels[place % len(labels)],
        }
        for place, (text, hit) in enumerate(zip(texts, right, strict=True))
    ]


@pytest.mark.parametrize(("right", "count"), [(0, 8), (3, 8), (8, 8), (40, 100)])
@pytest.mark.parametrize("level", [0.95, 0.999])
def test_wilson_is_scipys(right, count, level):
    known = binomtest(right, count).proportion_ci(level, "wilson")
    assert wilson(right / count, count, level) == pytest.approx((known.low, known.high), abs=1e-12)


def test_student_is_scipys():
    values = np.random.default_rng(0).uniform(size=20)
    known = t.interval(0.9, 19, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(20))
    assert student(values.tolist(), 0.9) == pytest.approx(known)


def test_slices_are_those_of_loops():
    random = np.random.default_rng(0)
    texts = [
        " ".join(random.choice(["red", "blue", "big", "is", "dog"], size=random.integers(1, 5))) for _ in range(80)
    ]
    right = random.uniform(size=80) < 0.6
    record = split(*answers(texts, right))
    found = {(s.by, s.name): s for s in slices(record, grade(record))}
    for word in ("red", "blue", "big", "dog"):
        own = [hit for text, hit in zip(texts, right, strict=True) if word in text.split()]
        assert (found["word", f"“{word}”"].answers, found["word", f"“{word}”"].value) == (
            len(own),
            pytest.approx(np.mean(own)),
        )
    assert ("word", "“is”") not in found
    lengths = [s for s in found.values() if s.by == "length"]
    assert sum(s.answers for s in lengths) == 80 and len(lengths) > 1
    for s in lengths:
        low, high = (int(number) for number in (s.name.split()[0], s.name.split(" word")[0].split()[-1]))
        assert s.answers == sum(low <= len(text.split()) <= high for text in texts)
    assert [s.value for s in slices(record, grade(record))] == sorted(s.value for s in found.values())


def test_the_same_answers_are_one_slice_and_few_are_none():
    texts = ["red apple"] * 20 + ["blue sky"] * 20 + ["odd one"] * 5
    record = split(*answers(texts, [True] * 45, labels=("",)))
    assert {s.name for s in slices(record, grade(record))} == {"“apple”", "“blue”"}


def test_kinds_are_as_the_evaluation_has_them():
    own = Estimate(0.5, 0.1, 0.9)
    record = split(
        *answers(["what"] * 40, [True, False] * 20, labels=("count", "colour")), accuracy_count=own, accuracy_colour=own
    )
    kinds = [s for s in slices(record, grade(record)) if s.by == "kind"]
    assert {s.name for s in kinds} == {"count", "colour"}
    assert all((s.value, s.low, s.high) == tuple(own) for s in kinds)
    assert not [s for s in slices(split(*record.told), grade(record)) if s.by == "kind"], "keywords are no kinds"


def test_answers_about_one_picture_count_as_one():
    texts, right = ["red", "blue"] * 40, [True, False] * 40
    alone, together = (
        {s.name: s for s in slices(record, grade(record))}["“red”"]
        for record in (split(*answers(texts, right)), split(*answers(texts, right, groups=[p // 8 for p in range(80)])))
    )
    assert (alone.low, together.low) == (pytest.approx(wilson(1.0, 40)[0]), pytest.approx(wilson(1.0, 10)[0]))


def test_what_is_weak_is_marked_and_luck_is_not():
    random = np.random.default_rng(0)
    marked = 0
    for _ in range(40):
        texts = [f"w{random.integers(15)} v{random.integers(15)}" for _ in range(300)]
        record = split(*answers(texts, random.uniform(size=300) < 0.6))
        marked += any(s.weak for s in slices(record, grade(record)))
    assert marked <= 5  # 0.05 of 40 are expected, in the direction that is looked at half of that
    texts = ["hard"] * 60 + ["plain"] * 240
    record = split(*answers(texts, random.uniform(size=300) < np.where(np.arange(300) < 60, 0.2, 0.8)))
    assert [s.name for s in slices(record, grade(record)) if s.weak] == ["“hard”"]


def test_captions_are_graded_by_degree_where_few_are_exact():
    def row(place, caption):
        return {
            "split": "test",
            "key": str(place),
            "caption": caption,
            "confidence": 0.5,
            "texts": ["a red dog"],
            "label": "",
        }

    exact = grade(split(*(row(place, "a red dog" if place % 2 else "a red cat") for place in range(40))))
    assert exact.shares and exact.mean == 0.5
    near = grade(split(*(row(place, "a red cat" if place % 2 else "two cows") for place in range(40))))
    assert near.name.startswith("ROUGE") and not near.shares
    assert sorted({answer.grade for answer in near.answers}) == [0.0, pytest.approx(2 / 3)]


def test_findings_are_graded_by_rank_where_few_come_first():
    def row(place, rank):
        own = {
            "split": "test",
            "key": str(place),
            "found": "a",
            "cosine": 0.1,
            "rank": rank,
            "texts": ["b"],
            "label": "",
        }
        return own if rank else own | {"texts": [], "rank": None}

    firsts = grade(split(row(0, 1.0), row(1, 4.0), row(2, None)))
    assert [answer.grade for answer in firsts.answers] == [1.0, 0.0]
    later = grade(split(row(0, 2.0), row(1, 4.0)))
    assert [answer.grade for answer in later.answers] == [0.5, 0.25] and not later.shares
    assert grade(split(row(0, None))) is None and grade(split()) is None


def test_the_mean_of_grades():
    answers = tuple(
        Graded(key="k", group="k", asked="", text="", said="", truths=(), label="", kind="", grade=value, sure=None)
        for value in (0.0, 0.25, 1.0)
    )
    assert Grades(name="", answers=answers).mean == pytest.approx(1.25 / 3)
