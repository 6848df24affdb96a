"""The task "is this the caption of this picture?" on any captioned pictures, with wrong captions far or near."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from chiasm.data.source import Source, View
from chiasm.errors import UserError
from chiasm.progress import counting
from chiasm.types import Example

YES, NO = "yes", "no"
WRONG_CAPTIONS = 4
"""Of every training picture; a step draws one of them. Other splits have one."""
NEAREST = 16
"""How many of the nearest captions are considered for each picture."""
BLOCK = 8192
"""Pictures whose captions are compared with each other; of more data, a random block at a time."""
CHUNK = 256
PASSES = 12
"""How often pictures that found no partner look again among themselves before any caption will do."""
FEW_SHARE = 0.1
"""Where fewer than this find a near partner, the others take a random one."""
WORD = re.compile(r"\w+")

Vectors = Callable[[Sequence[Example], Sequence[str]], tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "t e"]]]
"""From pictures and texts to vectors whose inner products say how well a text fits a picture."""
Near = Callable[[np.ndarray, Sequence[str]], Iterator[tuple[int, int]]]
"""From places of pictures and the caption that each lends to pairs of places, the nearest first."""


class Matches(Sequence[Example]):
    """Every example twice: with its own captions ("yes"), then with wrong ones ("no"), both in one group."""

    def __init__(self, examples: Sequence[Example], wrong: Sequence[tuple[str, ...]]):
        self.examples = examples
        self.wrong = wrong

    def __len__(self) -> int:
        return 2 * len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return View(self, np.arange(len(self))[index])
        place, is_wrong = divmod(range(len(self))[index], 2)
        example, answer = self.examples[place], NO if is_wrong else YES
        return replace(
            example,
            texts=self.wrong[place] if is_wrong else example.texts,
            key=f"{example.key}#{answer}",
            group=example.group or example.key,
            label=answer,
            tags=(),
        )


def matching_source(
    source: Source, negatives: Literal["random", "text"] | Vectors = "random", *, seed: int = 0
) -> Source:
    """Every picture of `source` once with its own captions ("yes") and once with captions of its split's others ("no").

    Two pictures lend each other a caption: so every caption is wrong as often as it is right, and neither the words
    nor the picture alone tell the answer. Partners are drawn at random; or their captions have rare words in common
    ("text": the cosine of TF-IDF); or each fits the other's picture best in a model's vectors. In training every
    second wrong caption is random all the same: a model that sees hard pairs alone does not begin to learn (on emoji,
    500 steps left it at chance). A caption is never lent to a picture of which it is said, nor to one that shares a
    caption or its group with such a picture. Where captions repeat too much for pairs, some are wrong more often than
    right. UserError where a picture has no wrong caption.
    """
    parts = [
        _wrong_captions(source, name, negatives, np.random.default_rng((seed, place)))
        for place, name in enumerate(source.splits)
    ]
    ends = np.cumsum([0] + [2 * len(part) for part in parts])
    wrong = [texts for part in parts for texts in part]
    rows = np.concatenate(list(source.splits.values()))
    how = negatives if isinstance(negatives, str) else "near to a model"
    return Source(
        name=f"{source.name}-matching",
        examples=Matches(View(source.examples, rows), wrong),
        splits={name: np.arange(ends[place], ends[place + 1]) for place, name in enumerate(source.splits)},
        understood=f"{source.understood}; matching: each picture with a right and a wrong caption ({how})",
        fingerprint=hashlib.sha256(repr((source.fingerprint, wrong)).encode("utf-8", "surrogatepass")).hexdigest()[:16],
    )


def _wrong_captions(
    source: Source, split: str, negatives: str | Vectors, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """For each picture of a split captions that are wrong, different ones where there are enough."""
    examples = source.split(split)
    texts = [example.texts for example in examples]
    untrue = _true_texts(texts, [example.group for example in examples])
    near = _nearness(negatives, examples, texts)
    wrong: list[list[str]] = [[] for _ in texts]
    rounds = WRONG_CAPTIONS if split == "train" else 1
    with counting(f"Wrong captions for {split}", rounds * len(texts)) as advance:
        for number in range(rounds):
            kind = near if number % 2 == 0 else None
            lent = [own[rng.integers(len(own)) if rounds > 1 else 0] for own in texts]

            def fits(one: int, other: int, lent: list[str] = lent) -> bool:
                return lent[other] not in untrue[one] and lent[other] not in wrong[one]

            left = rng.permutation(len(texts))
            for start in range(0, len(left), BLOCK):
                block = left[start : start + BLOCK]
                for one, other in _partners(block, lent, kind, fits, rng):
                    wrong[one].append(lent[other])
                    wrong[other].append(lent[one])
                advance(len(block))
            _lend_any(wrong, lent, untrue, f"{source.name} {split}", rng)
    return list(map(tuple, wrong))


def _true_texts(texts: Sequence[tuple[str, ...]], groups: Sequence[str]) -> list[frozenset[str]]:
    """For each picture all that is said of it, of its group, and of what shares one of its captions."""
    said_with: dict[str, set[str]] = defaultdict(set)
    said_in: dict[str, set[str]] = defaultdict(set)
    for own, group in zip(texts, groups, strict=True):
        said_in[group].update(own if group else ())
        for text in own:
            said_with[text].update(own)
    known: dict[tuple[tuple[str, ...], str], frozenset[str]] = {}
    for place in zip(texts, groups, strict=True):
        if place not in known:
            own = {*place[0], *said_in[place[1]]}
            known[place] = frozenset(own.union(*(said_with[text] for text in own)))
    return [known[place] for place in zip(texts, groups, strict=True)]


def _partners(
    block: np.ndarray,
    lent: Sequence[str],
    near: Near | None,
    fits: Callable[[int, int], bool],
    rng: np.random.Generator,
) -> Iterator[tuple[int, int]]:
    """Pairs of pictures that can lend each other their captions, the nearest first, each picture once at most."""
    left = block.tolist()
    for _ in range(PASSES):
        rng.shuffle(left)
        order = near(np.array(left), lent) if near else zip(left[::2], left[1::2], strict=False)
        taken: set[int] = set()
        for one, other in order:
            if one not in taken and other not in taken and fits(one, other) and fits(other, one):
                taken |= {one, other}
                yield one, other
        left = [place for place in left if place not in taken]
        if len(left) < 2:
            return
        if len(taken) < FEW_SHARE * len(left):
            near = None


def _lend_any(
    wrong: list[list[str]], lent: Sequence[str], untrue: Sequence[frozenset[str]], where: str, rng: np.random.Generator
) -> None:
    """Give every picture that has none yet a caption that is wrong, be it lent more often than it is right."""
    options: dict[frozenset[str], list[str]] = {}
    for captions, true in zip(wrong, untrue, strict=True):
        if captions:
            continue
        if true not in options:
            options[true] = [text for text in lent if text not in true]
        if not options[true]:
            raise UserError(
                f"{where} has no caption that is wrong for a picture with the caption {min(true)!r}",
                "Matching needs pictures of different things in every split.",
            )
        captions.append(options[true][rng.integers(len(options[true]))])


def _nearness(negatives: str | Vectors, examples: Sequence[Example], texts: Sequence[tuple[str, ...]]) -> Near | None:
    """What lists pairs of pictures by how well each one's lent caption fits the other; None for random ones."""
    if negatives == "random":
        return None
    distinct = list(dict.fromkeys(text for own in texts for text in own))
    number = {text: place for place, text in enumerate(distinct)}
    pictures, vectors = (None, _tf_idf(distinct)) if isinstance(negatives, str) else negatives(examples, distinct)

    def near(places: np.ndarray, lent: Sequence[str]) -> Iterator[tuple[int, int]]:
        numbers = np.array([number[lent[int(place)]] for place in places])
        captions = vectors[numbers]
        seers = captions if pictures is None else pictures[places]
        count = min(NEAREST, len(places) - 1)
        edges = []
        for start in range(0, len(places), CHUNK):
            part = slice(start, start + CHUNK)
            fit = _dense(seers[part] @ captions.T) + _dense(captions[part] @ seers.T)
            fit[numbers[part, None] == numbers] = -np.inf
            best = np.argpartition(-fit, count - 1, axis=1)[:, :count]
            of = np.arange(len(fit))[:, None]
            edges.append((fit[of, best].ravel(), np.broadcast_to(of + start, best.shape).ravel(), best.ravel()))
        fit, one, other = (np.concatenate(column) for column in zip(*edges, strict=True))
        order = np.argsort(-fit, kind="stable")
        order = order[np.isfinite(fit[order])]
        return zip(places[one[order]].tolist(), places[other[order]].tolist(), strict=True)

    return near


def _dense(product: Any) -> np.ndarray:
    return product if isinstance(product, np.ndarray) else product.toarray()


def _tf_idf(texts: Sequence[str]) -> Any:
    """A sparse matrix, a row of length 1 for each text: how often each word occurs, rare words weighing more."""
    from scipy.sparse import csr_array

    words = [Counter(WORD.findall(text.lower())) for text in texts]
    texts_with = Counter(word for counts in words for word in counts)
    place = {word: column for column, word in enumerate(texts_with)}
    values, columns = [], []
    for counts in words:
        row = np.array([n * np.log((1 + len(texts)) / texts_with[word]) for word, n in counts.items()])
        values.append(row / np.linalg.norm(row) if len(row) else row)
        columns.append([place[word] for word in counts])
    starts = np.cumsum([0] + [len(row) for row in columns])
    shape = len(texts), max(1, len(place))
    return csr_array((np.concatenate(values), np.concatenate(columns).astype(np.int64), starts), shape=shape)


__all__ = ["NO", "YES", "Matches", "Vectors", "matching_source"]
