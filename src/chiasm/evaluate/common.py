"""Scores of splits with their intervals, whatever the model: the values, their table, and their files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from chiasm.data.cache import Broken, Pictures, prepare_pictures
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.metrics.intervals import mean_interval
from chiasm.predict import ClipPredictor
from chiasm.predict.loading import ROWS
from chiasm.progress import counting
from chiasm.types import Example


class Estimate(NamedTuple):
    """A score and its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelScores:
    """How many pictures each label has, its share right, and what was taken for what."""

    templates: tuple[str, ...]
    """Of which prompts were made; none where the labels are a model's own classes."""
    pictures: dict[str, int]
    per_class: dict[str, Estimate]
    confusion: Float[np.ndarray, "c c"]
    """Pictures of the row's label that were given the column's, in the order of `pictures`."""


@dataclass(frozen=True)
class Search:
    """A text, the places of the pictures nearest to it, the nearest first, and which of them it is true of."""

    text: str
    places: tuple[int, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Items:
    """The scores of single test items (n of them), for whoever compares models on them."""

    keys: tuple[str, ...]
    groups: tuple[str, ...]
    """Items of one group show the same thing, and are drawn together."""
    kinds: tuple[str, ...]
    """Kinds of questions; empty strings where there are none."""
    values: dict[str, Float[np.ndarray, " n"]]
    """By the name of the score whose mean over items is, or nearly is, the split's; `<name>_shuffled` is what would be
    scored if pictures were exchanged, `<name>_baseline` by the words alone without a model."""

    @classmethod
    def of(cls, examples: Sequence[Example], values: dict[str, np.ndarray]) -> Items:
        """The scores of these examples, in their order."""
        return cls(
            keys=tuple(e.key for e in examples),
            groups=tuple(map(group_of, examples)),
            kinds=tuple(map(kind_of, examples)),
            values=values,
        )


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: scores by name, which of them a table shows, and what the model said of every picture."""

    split: str
    pictures: int
    scores: dict[str, Estimate]
    columns: tuple[str, ...]
    told: Sequence[Any]
    """A dataclass per picture."""
    broken: tuple[Broken, ...]
    labels: LabelScores | None = None
    searches: Sequence[Search] = ()
    """A few, to look at."""
    counted: str = "pictures"
    """What `pictures` counts, where it is not those."""
    items: Items | None = None
    """None where nobody compares models of this kind."""


def group_of(example: Example) -> str:
    """What the example shows, which others may show too: its group, or itself."""
    return example.group or example.key


def kind_of(example: Example) -> str:
    """The kind of its question, the first tag; empty where it has none."""
    return example.tags[0] if example.tags else ""


def readable(
    source: Source, split: str, preprocess: PreprocessConfig, max_broken_share: float
) -> tuple[list[Example], Pictures]:
    """The examples of a split whose pictures can be read, and all its pictures; UserError where none can."""
    examples = source.split(split)
    pictures = prepare_pictures(examples, preprocess, name=f"{source.name} {split}", max_broken_share=max_broken_share)
    if not len(pictures.good):
        raise UserError(f"No picture of the split {split!r} can be read", "`chiasm data check` lists the reasons.")
    return [examples[int(i)] for i in pictures.good], pictures


def embed_pictures(
    predictor: ClipPredictor, pictures: Pictures, rows: Int[np.ndarray, " n"], split: str
) -> Float[np.ndarray, "n e"]:
    """Vectors of the pictures in these rows."""
    vectors = np.empty((len(rows), predictor.embed_width), np.float32)
    with counting(f"Embedding {split}", len(rows)) as advance:
        for start in range(0, len(rows), ROWS):
            pixels = pictures.pixels_of(rows[start : start + ROWS])
            vectors[start : start + ROWS] = predictor.embed_pixels(pixels)
            advance(len(pixels))
    return vectors


def beside(own: Sequence[SplitScores], other: Sequence[SplitScores], name: str) -> list[SplitScores]:
    """For a table: a model's scores, those that it has when it computes in another way, and by how much these differ.

    Intervals of differences are paired by item where scores are means over items, and else not given.
    """
    rows = []
    for one, two in zip(own, other, strict=True):
        shared = one.items.values.keys() & two.items.values.keys() if one.items and two.items else set()
        differences = {}
        for score in one.scores.keys() & two.scores.keys():
            change = two.scores[score].value - one.scores[score].value
            low = high = float("nan")
            if one.items and two.items and score in shared:
                low, high = mean_interval(two.items.values[score] - one.items.values[score])
            differences[score] = Estimate(change, low, high)
        changed = replace(two, split=f"{two.split}, difference", scores=differences)
        rows += [one, replace(two, split=f"{two.split}, {name}"), changed]
    return rows


def scores_table(results: Sequence[SplitScores]) -> str:
    """The scores as a Markdown table, a row per split: value and 95 % interval."""
    columns = list(dict.fromkeys(name for result in results for name in result.columns))
    counted = " or ".join(dict.fromkeys(result.counted for result in results)) or "pictures"
    lines = [f"| split | {counted} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for result in results:
        shown = [result.scores.get(name) for name in columns]
        lines.append(f"| {result.split} | {result.pictures:,} | " + " | ".join(map(_cell, shown)) + " |")
    return "\n".join(lines)


def _cell(score: Estimate | None) -> str:
    if score is None:
        return ""
    value = f"{round(score.value, 3) + 0.0:.3f}"  # no minus before a zero
    return value if math.isnan(score.low) else f"{value} ({score.low:.3f} to {score.high:.3f})"


def write_results(results: Sequence[SplitScores], folder: Path, told: str) -> None:
    """`evaluation.json`, `evaluation.md`, what was said of each picture as the JSON lines file `told`, and
    `classes-SPLIT.csv` where pictures have labels."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        r.split: {
            "pictures": r.pictures,
            "broken": len(r.broken),
            "scores": {n: s._asdict() for n, s in r.scores.items()},
            **({"templates": r.labels.templates} if r.labels is not None and r.labels.templates else {}),
        }
        for r in results
    }
    (folder / "evaluation.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "evaluation.md").write_text(scores_table(results) + "\n", encoding="utf-8")
    with (folder / told).open("w", encoding="utf-8") as file:
        for result in results:
            for row in result.told:
                file.write(json.dumps({"split": result.split} | asdict(row), ensure_ascii=False) + "\n")
    for result in results:
        if result.labels is not None:
            _write_classes(result.labels, folder / f"classes-{result.split}.csv")


def _write_classes(labels: LabelScores, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "pictures", "top1", "low", "high"))
        for label, score in labels.per_class.items():
            writer.writerow((label, labels.pictures[label], *(f"{value:.4f}" for value in score)))
