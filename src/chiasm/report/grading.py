"""Which single answers were right, and on what kinds of examples the model fails most."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from chiasm.metrics import caption_scores, tokenize_caption
from chiasm.report.recorded import SplitRecord

FEWEST = 8
"""Slices of fewer examples say too little."""
KIND = "accuracy_"
"""What the evaluation calls the accuracy of a kind of question, before the kind."""
NO_WORDS = frozenset(("a", "an", "and", "are", "is", "of", "the", "to"))
MOST_WORDS = 400
"""The commonest words of the texts, each of which is a slice."""
LENGTHS = 4
"""Lengths of texts are parted into so many slices."""
FEW = 0.05
"""Where fewer answers than this are exactly right, they are graded instead: captions by ROUGE-L, findings by rank."""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One answer: what it was asked about, what was said, what would have been right, and how right it is."""

    key: str
    group: str
    """Answers about one picture are one group."""
    asked: str
    """The question, or the caption that was to be judged; empty where there is none."""
    text: str
    """What lengths and words are looked at of: the question, or the caption that was to be written or found."""
    said: str
    truths: tuple[str, ...]
    label: str
    kind: str
    grade: float
    """From 0 to 1."""
    sure: float | None
    """The confidence, the probability or the cosine."""
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.grade >= 1


@dataclass(frozen=True, kw_only=True)
class Grades:
    """The answers of a split, and what their grade is called."""

    name: str
    """In words: "right answers"."""
    answers: tuple[Graded, ...]
    sharp: bool = True
    """Answers are right (1) or wrong; false where there are only better and worse ones."""
    heading: str = "What it says"
    best: str = "Best"
    worst: str = "Worst"
    sure: str = ""
    """What `Graded.sure` is: a confidence, a probability, a cosine; empty where there is none."""

    @property
    def shares(self) -> bool:
        """Whether the mean is a share: nothing lies between right and wrong."""
        return self.sharp and all(answer.grade in (0, 1) for answer in self.answers)

    @property
    def mean(self) -> float:
        """Over all of them."""
        return sum(answer.grade for answer in self.answers) / len(self.answers)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The answers that have something in common, and their mean grade with its 95 % interval."""

    by: str
    """What parts the slices: kind, class, length or word."""
    name: str
    answers: int
    value: float
    low: float
    high: float
    weak: bool = False
    """Worse than the whole, even when it is counted how many slices were looked at (Bonferroni)."""


def grade(split: SplitRecord) -> Grades | None:
    """The answers of a split as its lines tell them; None where they are gone."""
    rows = split.told
    if not rows:
        return None
    if "shots" in rows[0]:
        return Grades(name="right last texts", answers=tuple(map(_shown, rows)))
    if "caption" in rows[0]:
        return _captions(rows)
    if "answer" in rows[0]:
        return Grades(
            name="right answers", answers=tuple(map(_answer, rows)), heading="What it answers", sure="probability"
        )
    if "rank" in rows[0]:
        return _findings([row for row in rows if row["rank"] is not None])
    if "filled" in rows[0]:
        answers = tuple(_filled(row) for row in rows if row["right"])
        return Grades(name="gaps filled right", answers=answers, heading="What it fills in")
    if "token_loss" in rows[0]:
        words = {"heading": "What it expects", "best": "Most expected", "worst": "Least expected"}
        return Grades(name="probability per token", answers=tuple(map(_read, rows)), sharp=False, **words)
    rebuilt = tuple(map(_rebuilt, rows))
    return Grades(name="1 less the error", answers=rebuilt, sharp=False, heading="What it gives back")


def slices(split: SplitRecord, grades: Grades) -> tuple[Slice, ...]:
    """By kind of question, class, length and word, the weakest first.

    Without what nearly all answers have in common, and of several names for the same answers only the first.
    """
    kinds = {name.removeprefix(KIND) for name in split.scores if name.startswith(KIND)}
    parted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for by, names in (
        ("kind", lambda answer: [answer.kind] if answer.kind in kinds else []),
        ("class", lambda answer: [answer.label] if answer.label else []),
        ("length", _lengths(grades)),
        ("word", _words(grades)),
    ):
        for place, answer in enumerate(grades.answers):
            for name in names(answer):
                parted[by, name].append(place)
    most = 0.95 * len(grades.answers)
    first: dict[tuple[int, ...], tuple[str, str]] = {}
    for at, places in parted.items():
        if FEWEST <= len(places) <= most:
            first.setdefault(tuple(places), at)
    several = {by for by, many in Counter(by for by, _ in first.values()).items() if many > 1}
    kept = {at: [grades.answers[place] for place in own] for own, at in first.items() if at[0] in several}
    found = [_slice(*at, own, len(kept), grades) for at, own in kept.items()]
    known = [replace(s, **split.scores[KIND + s.name]._asdict()) if s.by == "kind" else s for s in found]
    return tuple(sorted(known, key=lambda s: (s.value, s.high)))


def wilson(mean: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), which is no point where all or none of a few are right.

    For grades between 0 and 1, which vary less than rights and wrongs of the same mean, it is rather too wide.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre, shrink = mean + z * z / (2 * count), 1 + z * z / count
    width = z * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return max(0.0, (centre - width) / shrink), min(1.0, (centre + width) / shrink)


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, for what is never right or wrong and so lies close together."""
    from scipy.stats import t

    width = t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - width), float(np.mean(values) + width)


def _slice(by: str, name: str, own: Sequence[Graded], slices: int, grades: Grades) -> Slice:
    values = [answer.grade for answer in own]
    mean = sum(values) / len(values)
    groups = len({answer.group for answer in own})  # answers about one picture go together: they count as one

    def interval(level: float) -> tuple[float, float]:
        return wilson(mean, groups, level) if grades.sharp else student(values, level)

    low, high = interval(0.95)
    weak = interval(1 - 0.05 / slices)[1] < grades.mean
    return Slice(by=by, name=name, answers=len(own), value=mean, low=low, high=high, weak=weak)


def _lengths(grades: Grades) -> Callable[[Graded], Sequence[str]]:
    """ "3 to 5 words": parts of about as many answers each."""
    counts = [len(answer.text.split()) for answer in grades.answers]
    if not max(counts):
        return lambda answer: []
    edges = sorted({int(edge) for edge in np.quantile(counts, np.arange(1, LENGTHS + 1) / LENGTHS, method="lower")})
    starts = [min(counts), *(edge + 1 for edge in edges[:-1])]

    def names(answer: Graded) -> Sequence[str]:
        count = len(answer.text.split())
        low, high = next((low, high) for low, high in zip(starts, edges, strict=True) if count <= high)
        return [f"{high} word{'s' * (high != 1)}" if low == high else f"{low} to {high} words"]

    return names


def _words(grades: Grades) -> Callable[[Graded], Sequence[str]]:
    """Those of the text, the commonest only."""
    split = {answer.key: sorted(set(tokenize_caption(answer.text)) - NO_WORDS) for answer in grades.answers}
    common = dict(Counter(word for words in split.values() for word in words).most_common(MOST_WORDS))
    return lambda answer: [f"“{word}”" for word in split[answer.key] if word in common]


def _captions(rows: Sequence[dict[str, Any]]) -> Grades:
    scores = caption_scores([row["caption"] for row in rows], [row["texts"] for row in rows], resamples=1)
    exact = scores["exact_match"].value >= FEW
    grades = scores["exact_match" if exact else "rouge_l"].per_item
    answers = [
        Graded(
            key=row["key"],
            group=row["key"],
            asked="",
            text=row["texts"][0],
            said=row["caption"],
            truths=tuple(row["texts"]),
            label=row["label"],
            kind="",
            grade=float(own),
            sure=row["confidence"],
        )
        for row, own in zip(rows, grades, strict=True)
    ]
    name = "exactly right captions" if exact else "ROUGE-L of captions"
    return Grades(name=name, answers=tuple(answers), sure="confidence")


def _answer(row: dict[str, Any]) -> Graded:
    return Graded(
        key=row["key"],
        group=row["key"].rpartition("#")[0] or row["key"],
        asked=row["text"],
        text=row["text"],
        said=row["answer"],
        truths=(row["label"],),
        label=row["label"],
        kind=row["kind"],
        grade=float(row["answer"] == row["label"]),
        sure=row["probability"],
    )


def _findings(rows: Sequence[dict[str, Any]]) -> Grades | None:
    if not rows:
        return None
    if sum(row["rank"] <= 1 for row in rows) < FEW * len(rows):
        graded = tuple(_found(row, 1 / row["rank"]) for row in rows)
        return Grades(name="reciprocal rank of the own text", answers=graded, heading="What it finds", sure="cosine")
    firsts = tuple(_found(row, float(row["rank"] <= 1)) for row in rows)
    return Grades(
        name="pictures that find their own text first", answers=firsts, heading="What it finds", sure="cosine"
    )


def _found(row: dict[str, Any], grade: float) -> Graded:
    return Graded(
        key=row["key"],
        group=row["key"],
        asked="",
        text=row["texts"][0],
        said=row["found"],
        truths=tuple(row["texts"]),
        label=row["label"],
        kind="",
        grade=grade,
        sure=row["cosine"],
        note=f"own text at place {row['rank']:,.0f}" if row["rank"] > 1 else "",
    )


def _shown(row: dict[str, Any]) -> Graded:
    return Graded(
        key=row["key"],
        group=row["key"],
        asked="",
        text=row["text"],
        said=row["caption"],
        truths=(row["text"],),
        label="",
        kind="",
        grade=float(row["caption"] == row["text"]),
        sure=None,
        note=f"without the pictures before: {row['without_shots']}",
    )


def _filled(row: dict[str, Any]) -> Graded:
    hits = [right == filled for right, filled in zip(row["right"], row["filled"], strict=True)]
    return Graded(
        key=row["key"],
        group=row["key"],
        asked=row["text"],
        text=row["text"],
        said=", ".join(row["filled"]),
        truths=(", ".join(row["right"]),),
        label="",
        kind="",
        grade=sum(hits) / len(hits),
        sure=None,
    )


def _read(row: dict[str, Any]) -> Graded:
    return Graded(
        key=row["key"],
        group=row["key"],
        asked="",
        text=row["text"],
        said=row["text"],
        truths=(),
        label="",
        kind="",
        grade=math.exp(-row["token_loss"]),  # the geometric mean of its tokens' probabilities
        sure=None,
        note=f"{row['token_loss']:.2f} nats per token",
    )


def _rebuilt(row: dict[str, Any]) -> Graded:
    errors = ", ".join(f"{name} {error:.3f}" for name, error in row["errors"].items())
    return Graded(
        key=row["key"],
        group=row["key"],
        asked="",
        text="",
        said=f"errors: {errors}",
        truths=(),
        label="",
        kind="",
        grade=min(1.0, max(0.0, 1 - next(iter(row["errors"].values())))),
        sure=None,
    )


__all__ = ["Graded", "Grades", "Slice", "grade", "slices", "wilson"]
