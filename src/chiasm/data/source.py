"""What every data set becomes: a Source of Examples with named splits, and the stable hash that makes splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chiasm.errors import UserError
from chiasm.types import Example


class View(Sequence[Example]):
    """Some examples of a sequence, by index, built only when asked for."""

    def __init__(self, examples: Sequence[Example], indices: np.ndarray):
        self.examples = examples
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return View(self.examples, self.indices[index])
        return self.examples[int(self.indices[index])]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, whatever its files were: examples (often built lazily) and the indices of each split.

    Splits are called "train", "val" and "test", or "test-..." where there are several tests. `understood` says in one
    line what was recognised; `fingerprint` changes when the data does.
    """

    name: str
    examples: Sequence[Example]
    splits: dict[str, np.ndarray]
    understood: str
    fingerprint: str
    interleaved: bool = False
    """Examples of one group are one sequence of pictures and texts, in their order."""

    def split(self, name: str) -> Sequence[Example]:
        """The examples of one split, as a view; UserError naming the known splits where there is no such split."""
        if name not in self.splits:
            known = ", ".join(f"{split} ({len(rows)})" for split, rows in self.splits.items())
            raise UserError(f"The data {self.name!r} has no split {name!r}", f"It has: {known or 'none'}.")
        return View(self.examples, self.splits[name])

    @property
    def test_splits(self) -> list[str]:
        """The names of the splits to test on."""
        return [name for name in self.splits if name.startswith("test")]


def picture_key(example: Example) -> str:
    """The key of an example's picture: of several questions about one, or right and wrong captions, their group."""
    return example.group if example.key.startswith(f"{example.group}#") else example.key


def class_names(examples: Sequence[Example]) -> tuple[str, ...]:
    """The different labels of some examples in order: numbers by value, then words; examples without one have none."""
    names = {example.label for example in examples} - {""}
    return tuple(sorted(names, key=lambda name: (not _is_number(name), float(name) if _is_number(name) else 0, name)))


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def split_by_hash(groups: Sequence[str], *, val_share: float = 0.1, test_share: float = 0.1) -> dict[str, np.ndarray]:
    """Indices of "train", "val" and "test", a group never in two of them; ValueError for shares that leave no train.

    A group's place is the SHA-256 of its name as a fraction in [0, 1): the lowest are tests, the next validate, the
    rest train. So it does not depend on what else is there, with one exception for tiny data: of three or more groups
    each split with a share gets at least one, the one whose fraction comes next. Fewer groups than three all train.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ValueError(f"val_share {val_share} and test_share {test_share} must not be negative and sum below 1")
    fractions = {group: _fraction(group) for group in groups}
    ranked = sorted(fractions, key=lambda group: (fractions[group], group))
    below = [sum(fraction < share for fraction in fractions.values()) for share in (test_share, test_share + val_share)]
    least_val, least_test = int(val_share > 0), int(test_share > 0)
    tests = vals = 0
    if len(ranked) >= 3:
        tests = min(max(below[0], least_test), len(ranked) - 1 - least_val)
        vals = min(max(below[1] - tests, least_val), len(ranked) - 1 - tests)
    names = ["test"] * tests + ["val"] * vals + ["train"] * (len(ranked) - tests - vals)
    place = dict(zip(ranked, names, strict=True))
    return splits_by_name([place[group] for group in groups], order=("train", "val", "test"))


def splits_by_name(names: Sequence[str], order: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Indices of each split, from every example's split name; splits in `order` come first, and may be empty."""
    rows: dict[str, list[int]] = {name: [] for name in order}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: np.array(indices, dtype=np.int64) for name, indices in rows.items()}


def with_less(source: Source, share: float) -> Source:
    """The same data with about this share of its training groups; a smaller share is part of every larger one.

    At least one group stays. ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, it must be above 0 and at most 1")
    if share == 1 or "train" not in source.splits:
        return source
    train = source.splits["train"]
    # Not the hash that made the splits: there, a low place means a test.
    places = np.array([_fraction(f"less {e.group or e.key}") for e in source.split("train")])
    kept = train[places < max(share, places.min(initial=1.0) + 1e-12)]
    return replace(
        source,
        splits=source.splits | {"train": kept},
        understood=f"{source.understood}; {len(kept):,} of {len(train):,} training examples",
        fingerprint=f"{source.fingerprint}-{share:g}",
    )


def _fraction(group: str) -> float:
    return int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32


__all__ = ["Source", "View", "class_names", "picture_key", "split_by_hash", "splits_by_name", "with_less"]
