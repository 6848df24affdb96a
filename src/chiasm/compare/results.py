"""What a comparison found, as `results.json` holds it: written by the experiment, read by tables and by the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasm import config as configs

FILE = "results.json"
FloorName = Literal["chance", "text alone", "picture alone", "shuffled pictures"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What arms are compared by: its name among the scores of an evaluation, what it means, which way is better."""

    name: str
    explained: str
    higher_is_better: bool = True

    @property
    def words(self) -> str:
        """The name for people."""
        return "CIDEr-D" if self.name == "cider_d" else self.name.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one training of an arm costs; seconds are measured, means over its seeds."""

    parameters: int
    step_flops: float
    """Forward and backward, of one batch."""
    flops: float
    """Of all steps."""
    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a training was after a validation."""

    step: int
    samples: int
    flops: float
    seconds: float
    loss: float
    val_loss: float


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A learning rate that was tried: after so many steps, with this validation loss (None: it broke)."""

    learning_rate: float
    steps: int
    val_loss: float | None


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One training: its score on every split, its course, and how long it took; `failed` says why there is none."""

    seed: int
    scores: dict[str, float]
    """By split."""
    others: dict[str, dict[str, float]]
    """By split, the other scores of the evaluation by name."""
    course: tuple[Point, ...]
    seconds: float
    folder: str
    """Relative to the comparison's folder."""
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm: what it is, what it cost, how it did over all seeds and test items."""

    name: str
    about: str
    """One line: the sizes that the solver chose."""
    settings: dict[str, Any]
    """The whole configuration of its runs, as in a run's config.json."""
    learning_rate: float
    tried: tuple[Trial, ...]
    costs: Costs
    seeds: tuple[SeedResult, ...]
    scores: dict[str, Interval]
    """By split: the mean over seeds and items, with the interval over both; no entry where every seed failed."""
    slices: dict[str, dict[str, Interval]]
    """By split and slice ("relation", "2 to 4 words")."""
    probability_best: dict[str, float]
    """By split."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm minus the best arm on a split, paired by seed and item."""

    arm: str
    split: str
    difference: Interval
    p: float
    """Two-sided."""
    p_holm: float
    """Corrected for all differences on the split (Holm 1979)."""
    different: bool
    """p_holm below 0.05."""

    @property
    def doubt(self) -> str:
        """Why no difference is claimed: there may be none, or it is one of so many that one may look so by chance."""
        if self.different:
            return ""
        return "within noise" if self.difference.low <= 0 <= self.difference.high else "not beyond doubt"


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What can be had without the whole: chance, the words alone, the picture alone, exchanged pictures."""

    name: FloorName
    explained: str
    scores: dict[str, Interval]
    """By split."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Loss against the share of the training data, for one arm: points, the fitted power law, what more would bring."""

    arm: str
    fractions: tuple[float, ...]
    examples: tuple[int, ...]
    losses: tuple[Interval, ...]
    exponent: Interval
    """Of the number of examples, of loss above the floor."""
    doubled: Interval
    """The loss that the fit expects of twice the data."""
    verdict: str
    """Would more data help, in a sentence with its uncertainty."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one arm said of a gallery's item."""

    said: str
    right: bool
    probability: float | None = None
    attention: str | None = None
    """A PNG beside results.json."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A test item on which arms disagree."""

    key: str
    split: str
    picture: str | None
    """A PNG beside results.json."""
    asked: str
    """The question or the caption; empty where there is none."""
    truth: str
    answers: dict[str, Answer]
    """By arm."""


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """The data in short."""

    name: str
    understood: str
    fingerprint: str
    splits: dict[str, int]
    broken: int
    findings: tuple[str, ...] = ()
    """Leaks, duplicates and the like."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it."""

    task: str
    metric: Metric
    split: str
    """That of the verdict: the first test split."""
    verdict: tuple[str, ...]
    """Sentences that follow from the numbers."""
    held_equal: str
    """What was the same for all arms, within how much."""
    not_equal: str
    """And what was not."""
    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    floors: tuple[Floor, ...]
    scaling: tuple[Scaling, ...]
    gallery: tuple[Shown, ...]
    data: DataCard
    notes: tuple[str, ...]
    """Plain-language findings of the coach, each with its arm."""
    command: str
    settings: dict[str, Any]
    """The comparison's own, as `compare.json` holds them."""
    versions: dict[str, str]
    machine: str
    minutes: float
    """Of the whole comparison, all its processes together."""


def save(comparison: Comparison, folder: Path) -> None:
    """Write `results.json`."""
    configs.save(comparison, folder / FILE)


def load(folder: Path) -> Comparison:
    """Read it; UserError where it is missing or damaged."""
    return configs.load(Comparison, folder / FILE)
