"""Questions about the drawn shapes, balanced so that neither the words nor the picture alone betrays the answer."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.config import fingerprint, to_dict
from chiasm.data.shapes import COLOURS, SHAPES, SIZES, Drawn, ShapesConfig, draw_shapes
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.types import Example

ANSWERS = ("no", "yes", "0", "1", "2", "3", *COLOURS)
NO, YES, FIRST_NUMBER, FIRST_COLOUR = 0, 1, 2, 6
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""The side on which the first thing lies, as (x to the right, y down)."""
CLEAR_SHARE = 1 / 8
"""How far things must be apart, as a share of the picture's side, for their relation to be beyond dispute."""
ROUNDS = 40
"""Of proportional fitting; the answers to a question then differ in weight by about a thousandth."""

PAIRS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
EXISTENCE = [f"is there a{'n' if pair[0] == 'o' else ''} {pair}?" for pair in PAIRS]
COUNT = [f"how many {what} are there?" for what in (*(f"{shape}s" for shape in SHAPES),
         *(f"{word} shapes" for word in (*COLOURS, *SIZES)))]  # fmt: skip
COLOUR = [f"what colour is the {size}{shape}?" for size in ("", *(f"{size} " for size in SIZES)) for shape in SHAPES]
RELATION = [f"is the {one} {relation} the {other}?" for relation in RELATIONS for one in PAIRS for other in PAIRS]
COMPARISON = [
    *(f"are there more {one}s than {other}s?" for one in SHAPES for other in SHAPES),
    *(f"is the {one} larger than the {other}?" for one in SHAPES for other in SHAPES),
]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is in every picture, words as places in their tables, -1 where a picture has fewer things."""

    colour: Int[np.ndarray, "n slots"]
    shape: Int[np.ndarray, "n slots"]
    size: Int[np.ndarray, "n slots"]
    x: Float[np.ndarray, "n slots"]
    y: Float[np.ndarray, "n slots"]
    side_pixels: int

    @property
    def pair(self) -> Int[np.ndarray, "n slots"]:
        """Colour and shape as one number, the place in PAIRS."""
        return np.where(self.shape < 0, -1, self.colour * len(SHAPES) + self.shape)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Questions that could be asked (q of them): of which picture, places of text and answer, how welcome each is."""

    picture: Int[np.ndarray, " q"]
    text: Int[np.ndarray, " q"]
    answer: Int[np.ndarray, " q"]
    weight: Float[np.ndarray, " q"]
    kind: Int[np.ndarray, " q"]

    def only(self, which: np.ndarray) -> _Asked:
        """Some of them, by a mask or by places."""
        return _Asked(**{name: values[which] for name, values in vars(self).items()})


def questions_source(config: ShapesConfig) -> Source:
    """Questions on drawn shapes: one Example each, several with the same picture (their `group`), the kind its tag.

    Kinds are existence, count, colour, relation and comparison; of single things only existence and colour are asked.
    Whatever is asked is asked of pictures with every answer, each as often (after Goyal et al., 1612.00837, section 3,
    with all answers in place of two), and of one picture as many yes as no are asked, both in expectation: so who sees
    only the words is right at `chance`, and who sees only the picture does no better than with one answer for all.
    A third of the pictures hold things of one colour and a third things of one shape, so that there is more to count.
    What "test-combinations" alone shows, a red triangle for instance, is asked for there alone.
    """
    drawn = draw_shapes(config)
    facts, rng = _facts(drawn), np.random.default_rng((config.seed, 1))
    kinds = KINDS if (facts.shape >= 0).sum() > len(facts.shape) else {name: KINDS[name] for name in SINGLE}
    texts = [(kind, text) for kind, (texts, _) in kinds.items() for text in texts]
    split = np.zeros(len(facts.shape), dtype=np.int64)
    for place, rows in enumerate(drawn.splits.values()):
        split[rows] = place
    asked = _choose(rng, _weighed(_askable(facts, kinds), split), config.questions_per_picture)
    split_of = split[asked.picture]
    splits = {name: np.flatnonzero(split_of == place) for place, name in enumerate(drawn.splits)}
    if not all(map(len, splits.values())):
        raise UserError(f"{config.samples} pictures are too few for balanced questions", "Draw at least a thousand.")
    examples, numbers = [], Counter()
    for picture, text, answer in zip(*(a.tolist() for a in (asked.picture, asked.text, asked.answer)), strict=True):
        kind, question = texts[text]
        key = f"{config.difficulty}-{config.seed}-{picture}"
        examples.append(
            Example(
                image=drawn.pixels[picture],
                texts=(question,),
                key=f"{key}#{numbers[picture]}",
                group=key,
                label=ANSWERS[answer],
                tags=(kind,),
            )
        )
        numbers[picture] += 1
    counts = ", ".join(f"{name} {np.sum(asked.kind == place):,}" for place, name in enumerate(kinds))
    digest = hashlib.blake2b(drawn.pixels.data, digest_size=16)
    digest.update(repr([(example.texts, example.label) for example in examples]).encode())
    return Source(
        name=f"shapes-{config.difficulty}-questions",
        examples=examples,
        splits=splits,
        understood=f"{config.difficulty} shapes: {len(examples):,} questions ({counts}) about {config.samples:,} "
        f"pictures, {config.side_pixels} × {config.side_pixels} pixels; chance is {chance(examples):.1%}",
        fingerprint=fingerprint([to_dict(config), digest.hexdigest()]),
    )


def chance(examples: Sequence[Example]) -> float:
    """How often the best guess from the words alone is right: the mean of 1 / (answers that the question can have).

    That is 2 for yes or no, and otherwise how many different answers the same words have among these examples.
    """
    answers: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for example in examples:
        answers[example.texts].add(example.label)
    binary = set(ANSWERS[: YES + 1])
    return float(np.mean([1 / (2 if example.label in binary else len(answers[example.texts])) for example in examples]))


def _facts(drawn: Drawn) -> _Facts:
    slots = max(map(len, drawn.things))
    words: dict[str, list[str]] = {"colour": list(COLOURS), "shape": list(SHAPES), "size": list(SIZES)}
    table = np.full((5, len(drawn.things), slots), -1.0)
    for row, things in enumerate(drawn.things):
        for slot, thing in enumerate(things):
            places = [names.index(getattr(thing, what)) for what, names in words.items()]
            table[:, row, slot] = *places, thing.x_pixels, thing.y_pixels
    colour, shape, size = table[:3].astype(np.int64)
    return _Facts(colour=colour, shape=shape, size=size, x=table[3], y=table[4], side_pixels=drawn.pixels.shape[1])


def _existence(facts: _Facts) -> list[np.ndarray]:
    """Every pair, in every picture; above all those that are absent though their colour and their shape are there."""
    there = _counts(facts.pair, len(PAIRS)) > 0
    colours, shapes = (_counts(f, len(t)) > 0 for f, t in ((facts.colour, COLOURS), (facts.shape, SHAPES)))
    near = (0.01 + colours[:, :, None]) * (0.01 + shapes[:, None, :])
    picture, text = np.indices(there.shape).reshape(2, -1)
    return [picture, text, np.where(there, YES, NO).ravel(), np.where(there, 1, near.reshape(there.shape)).ravel()]


def _count(facts: _Facts) -> list[np.ndarray]:
    tables = (facts.shape, SHAPES), (facts.colour, COLOURS), (facts.size, SIZES)
    counts = np.concatenate([_counts(values, len(words)) for values, words in tables], axis=1)
    picture, text = np.indices(counts.shape).reshape(2, -1)
    return [picture, text, FIRST_NUMBER + counts.ravel()]


def _colour(facts: _Facts) -> list[np.ndarray]:
    """The colour of the one thing of its shape, or of its size and shape."""
    sized = np.where(facts.shape < 0, -1, (1 + facts.size) * len(SHAPES) + facts.shape)
    parts = [
        [picture, text[picture, slot], FIRST_COLOUR + facts.colour[picture, slot]]
        for text in (facts.shape, sized)
        for picture, slot in [np.nonzero(_is_unique(text))]
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _relation(facts: _Facts) -> list[np.ndarray]:
    """Yes where the way there is clearly the longest, no where the thing is clearly on the opposite side."""
    pair, unique, clear = facts.pair, _is_unique(facts.pair), facts.side_pixels * CLEAR_SHARE
    parts = []
    for one, other in ((i, j) for i in range(pair.shape[1]) for j in range(pair.shape[1]) if i != j):
        x, y = facts.x[:, one] - facts.x[:, other], facts.y[:, one] - facts.y[:, other]
        for place, (right, down) in enumerate(RELATIONS.values()):
            along, across = x * right + y * down, np.abs(x * down + y * right)
            yes, no = along >= across + clear, along <= -clear
            picture = np.flatnonzero(unique[:, one] & unique[:, other] & (yes | no))
            text = (place * len(PAIRS) + pair[picture, one]) * len(PAIRS) + pair[picture, other]
            parts.append([picture, text, np.where(yes[picture], YES, NO)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _comparison(facts: _Facts) -> list[np.ndarray]:
    """More of one shape than of another, where one of them is there; larger, where both are and differ in size."""
    counts = _counts(facts.shape, len(SHAPES))
    parts = []
    for one in range(len(SHAPES)):
        for other in range(len(SHAPES)):
            text = one * len(SHAPES) + other
            if one != other:
                picture = np.flatnonzero(counts[:, one] + counts[:, other])
                more = counts[picture, one] > counts[picture, other]
                parts.append([picture, np.full_like(picture, text), np.where(more, YES, NO)])
                picture = np.flatnonzero((counts[:, one] == 1) & (counts[:, other] == 1))
                sizes = [facts.size[picture, (facts.shape[picture] == shape).argmax(axis=1)] for shape in (one, other)]
                picture, larger = picture[sizes[0] != sizes[1]], (sizes[0] > sizes[1])[sizes[0] != sizes[1]]
                text += len(SHAPES) ** 2
                parts.append([picture, np.full_like(picture, text), np.where(larger, YES, NO)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


KINDS: dict[str, tuple[list[str], Callable[[_Facts], list[np.ndarray]]]] = {
    "existence": (EXISTENCE, _existence),
    "count": (COUNT, _count),
    "colour": (COLOUR, _colour),
    "relation": (RELATION, _relation),
    "comparison": (COMPARISON, _comparison),
}
"""Each kind's texts, and what of it can be asked of pictures: pictures, places of texts, answers, perhaps weights."""
SINGLE = ("existence", "colour")
"""The kinds that make sense where a picture has one thing."""


def _counts(values: Int[np.ndarray, "n slots"], words: int) -> Int[np.ndarray, "n words"]:
    return (values[:, :, None] == np.arange(words)).sum(axis=1)


def _is_unique(values: Int[np.ndarray, "n slots"]) -> Bool[np.ndarray, "n slots"]:
    return ((values[:, :, None] == values[:, None, :]).sum(axis=2) == 1) & (values >= 0)


def _askable(facts: _Facts, kinds: dict[str, tuple[list[str], Callable[[_Facts], list[np.ndarray]]]]) -> _Asked:
    parts, first = [], 0
    for kind, (texts, ask) in enumerate(kinds.values()):
        picture, text, answer, *weight = ask(facts)
        ones = np.ones(len(picture))
        parts.append([picture, first + text, answer, weight[0] if weight else ones, np.full(len(picture), kind)])
        first += len(texts)
    picture, text, answer, weight, kind = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Asked(picture=picture, text=text, answer=answer, weight=weight, kind=kind)


def _weighed(asked: _Asked, split: Int[np.ndarray, " n"]) -> _Asked:
    """With weights that sum to 1 for every picture, and within a split to the same for all answers to one text.

    A picture's weight is shared equally by the kinds, and a kind's by yes and no. Iterative proportional fitting
    scales by text and by picture in turn, down from what could be asked: texts that have one answer, and kinds that
    have only yes or only no for a picture, are left out.
    """
    while True:
        text = split[asked.picture] * (asked.text.max() + 1) + asked.text
        cell = text * len(ANSWERS) + asked.answer
        kind = asked.picture * len(KINDS) + asked.kind
        part = kind * 2 + (asked.answer == NO)
        answers = (np.bincount(cell, minlength=(text.max() + 1) * len(ANSWERS)) > 0).reshape(-1, len(ANSWERS)).sum(1)
        binary = asked.answer <= YES
        parts = (np.bincount(part, minlength=2 * kind.max() + 2) > 0).reshape(-1, 2).sum(1)
        good = (answers[text] > 1) & (~binary | (parts[kind] == 2))
        if good.all():
            break
        asked = asked.only(good)
    weight = asked.weight
    for _ in range(ROUNDS):
        of_cell, of_text = np.bincount(cell, weight), np.bincount(text, weight)
        weight = weight * (of_text[text] / (answers[text] * of_cell[cell]))
        weight /= np.bincount(part, weight)[part] * np.where(binary, 2, 1)
        weight /= np.bincount(asked.picture, weight)[asked.picture]
    return _Asked(**vars(asked) | {"weight": weight})


def _choose(rng: np.random.Generator, asked: _Asked, per_picture: int) -> _Asked:
    """At most `per_picture` questions of each picture, each expected as often as its weight says.

    Systematic sampling: the weights of a picture are laid end to end, scaled to that many, and what covers a whole
    number, after a random shift, is chosen; so the questions spread over the kinds. A picture for which a question
    would be longer than 1 has fewer.
    """
    asked = asked.only(np.lexsort((rng.random(len(asked.picture)), asked.kind, asked.picture)))
    pictures = asked.picture.max() + 1
    ends = np.cumsum(asked.weight)
    first = np.searchsorted(asked.picture, np.arange(pictures))
    longest = np.full(pictures, 1 / per_picture)
    np.maximum.at(longest, asked.picture, asked.weight)
    scale = np.floor(1 / longest + 1e-6)[asked.picture]
    covered = (ends - np.concatenate([[0], ends])[first][asked.picture]) * scale + rng.random(pictures)[asked.picture]
    return asked.only(np.floor(covered) > np.floor(covered - asked.weight * scale))


__all__ = ["chance", "questions_source"]
