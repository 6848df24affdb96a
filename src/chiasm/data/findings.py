"""The findings of `chiasm data check`: numbers, warnings in plain language, as text and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

SHOWN = 3
"""How many examples of a finding the text lists; the JSON has all."""
MANY_SHARED = 0.2
"""The share of pictures with a caption of another picture from which on it is worth a word."""
MANY_BROKEN = 0.05
"""The share of broken pictures at which training stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a picture stands: its split, its key, and its group, if the data names one."""

    split: str
    key: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.key} ({self.split})"


Leaks = dict[tuple[str, str], list[tuple[Place, Place]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A picture that cannot be read, and why."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The least, the middle and the greatest of some numbers; zeros where there are none."""

    least: int
    median: float
    greatest: int

    @classmethod
    def of(cls, values: Sequence[int]) -> Spread:
        """The spread of the values."""
        if not values:
            return cls(least=0, median=0.0, greatest=0)
        return cls(least=min(values), median=float(statistics.median(values)), greatest=max(values))

    def __str__(self) -> str:
        return (
            f"{self.least} to {self.greatest}, median {self.median:g}"
            if self.least < self.greatest
            else f"{self.least}"
        )


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What `inspect_source` found; histograms map a number (of captions, of words) to how often it occurs."""

    name: str
    understood: str
    fingerprint: str
    pictures: dict[str, int]
    unused_pictures: int
    formats: dict[str, int]
    modes: dict[str, int]
    width_pixels: Spread
    height_pixels: Spread
    captions_per_picture: dict[int, int]
    words_per_caption: dict[int, int]
    context_tokens: int | None
    captions_beyond_context: int
    distinct_captions: int
    pictures_sharing_a_caption: int
    broken: list[Broken]
    duplicates: list[list[Place]]
    groups_across_splits: list[str]

    @property
    def total(self) -> int:
        """All pictures in all splits."""
        return sum(self.pictures.values())

    @cached_property
    def leaks(self) -> Leaks:
        """By two splits, each picture of the second that the first holds too, pixel for pixel."""
        return leaks(self.duplicates, list(self.pictures))

    @cached_property
    def warnings(self) -> list[str]:
        """What deserves attention before training, most harmful first."""
        found = [f"The split {name} is empty." for name, count in self.pictures.items() if not count]
        found += [leak_sentence(first, second, pairs) for (first, second), pairs in self.leaks.items()]
        if self.groups_across_splits:
            found.append(
                f"{len(self.groups_across_splits):,} groups of equal pictures lie in several splits: "
                f"{_some(self.groups_across_splits)}."
            )
        if self.broken:
            stop = ", so many that training will stop" if len(self.broken) > MANY_BROKEN * self.total else ""
            some = _some([f"{broken.key} ({broken.reason})" for broken in self.broken])
            found.append(f"{len(self.broken):,} pictures cannot be read{stop}: {some}.")
        if self.captions_beyond_context:
            found.append(
                f"{self.captions_beyond_context:,} captions are longer than the context of {self.context_tokens} "
                "tokens and will lose their end."
            )
        unknown = [same for same in self.duplicates if len({place.group or place for place in same}) > 1]
        if unknown:
            some = _some([" = ".join(map(str, same[:SHOWN])) for same in unknown])
            found.append(f"{_repeated(unknown):,} pictures repeat another one, and the data does not say so: {some}.")
        if self.pictures_sharing_a_caption > MANY_SHARED * self.total:
            found.append(
                f"{self.pictures_sharing_a_caption / self.total:.0%} of the pictures share a caption with another one; "
                "training and scores count such pictures as hits for each other."
            )
        return found

    def to_json(self) -> str:
        """Everything, as JSON."""
        leaks = [
            {"splits": list(splits), "pairs": [[asdict(one), asdict(other)] for one, other in pairs]}
            for splits, pairs in self.leaks.items()
        ]
        return json.dumps(asdict(self) | {"leaks": leaks, "warnings": self.warnings}, indent=2, ensure_ascii=False)

    def as_text(self) -> str:
        """The report as people read it in a terminal."""
        words, texts = self.words_per_caption, self.captions_per_picture
        captions = sum(words.values())
        room = "" if self.context_tokens is None else f"; {self.captions_beyond_context:,} beyond the context"
        unused = f", {self.unused_pictures:,} in no split" if self.unused_pictures else ""
        lines = [
            ("data", self.understood),
            ("pictures", f"{self.total:,} ({_counts(self.pictures)}{unused})"),
            ("readable", f"{self.total - len(self.broken):,}; broken {len(self.broken):,}"),
            ("formats", f"{_counts(self.formats)}; modes {_counts(self.modes)}"),
            ("size", f"width {self.width_pixels}; height {self.height_pixels} pixels"),
            ("captions", f"{captions:,}, {self.distinct_captions:,} different; {_quantiles(texts)} per picture"),
            ("length", f"{_quantiles(words)} words and marks{room}"),
            ("repeated", f"{_repeated(self.duplicates):,} pictures repeat another one, pixel for pixel"),
        ]
        report = [f"{label:<9} {text}" for label, text in lines]
        report += [f"warning   {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(report) + "\n"


def leaks(duplicates: Sequence[Sequence[Place]], order: Sequence[str]) -> Leaks:
    """By two splits in this order, each picture of the second that the first holds too."""
    found: Leaks = {}
    for same in duplicates:
        first_in: dict[str, Place] = {}
        for place in same:
            first_in.setdefault(place.split, place)
        for place in same:
            for split in order[: order.index(place.split)]:
                if split in first_in:
                    found.setdefault((split, place.split), []).append((first_in[split], place))
    return found


def leak_sentence(first: str, second: str, pairs: Sequence[tuple[Place, Place]]) -> str:
    """What is wrong with these pairs of equal pictures, each of the first split and of the second."""
    some = _some([f"{one.key} = {other.key}" for one, other in pairs])
    return f"{len(pairs):,} pictures of {second} stand in {first} too, so its scores would be too good: {some}."


def _repeated(duplicates: Sequence[Sequence[Place]]) -> int:
    return sum(len(same) - 1 for same in duplicates)


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _quantiles(histogram: Mapping[int, int]) -> str:
    """Least, median, 95th percentile and greatest of a histogram."""
    if not histogram:
        return "none"
    total = sum(histogram.values())
    found = []
    for share in (0.5, 0.95):
        below = 0
        for value, count in sorted(histogram.items()):
            below += count
            if below >= share * total:
                found.append(value)
                break
    low, high = min(histogram), max(histogram)
    return f"{low}" if low == high else f"{low} to {high}, median {found[0]}, 95 % up to {found[1]}"


__all__ = ["Broken", "Findings", "Leaks", "Place", "Spread", "leak_sentence", "leaks"]
