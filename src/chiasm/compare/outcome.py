"""From finished jobs to results: scores of all arms as one table, statistics on it, courses, costs, slices."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

import chiasm
from chiasm import config as configs
from chiasm.compare.budget import Solved
from chiasm.compare.config import CompareConfig, Machinery, TaskName
from chiasm.compare.jobs import Outcome
from chiasm.compare.results import ArmResult, Costs, DataCard, Difference, Interval, Metric, Point, SeedResult, Trial
from chiasm.compare.sizes import about
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.common import Items
from chiasm.machine import trained_on
from chiasm.metrics.comparing import Compared, Estimate, compare_arms
from chiasm.train.callbacks import read_metrics
from chiasm.types import Example

METRICS = {
    "accuracy": Metric(name="accuracy", explained="share of examples answered right"),
    "exact_match": Metric(name="exact_match", explained="share of captions equal to one of the picture's own"),
    "cider_d": Metric(name="cider_d", explained="agreement of n-grams with the picture's own captions, from 0 to 10"),
    "token_loss": Metric(
        name="token_loss", explained="nats per token of the picture's own caption", higher_is_better=False
    ),
    "image_to_text_mrr": Metric(
        name="image_to_text_mrr", explained="mean of 1 / rank of the picture's first own text among the split's texts"
    ),
}
BOUNDS = {"cider_d": (0.0, 10.0), "token_loss": (0.0, np.inf)}
"""Least and greatest scores, where they are not 0 and 1."""
MOST_SLICES = 20
FEWEST_IN_SLICE = 10
"""Slices with fewer groups of items tell nothing."""


@dataclass(frozen=True)
class Table:
    """One split's scores of all arms that have any, on the seeds that all of these finished."""

    split: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Float[np.ndarray, "arms seeds items"]
    items: Items


def metric_of(task: TaskName, data: str, named: str | None) -> Metric:
    """What arms are compared by; of captions CIDEr-D, but exact matches where captions are exactly true or false."""
    usual = {"caption": "exact_match" if data == "shapes" else "cider_d", "retrieve": "image_to_text_mrr"}
    name = named or usual.get(task, "accuracy")
    known = {"caption": ("exact_match", "cider_d", "token_loss"), "retrieve": ("image_to_text_mrr",)}
    if name not in known.get(task, ("accuracy",)):
        raise UserError(f"{task} is not scored by {name}", f"Known: {', '.join(known.get(task, ('accuracy',)))}.")
    return METRICS[name]


def tables(
    config: CompareConfig,
    splits: Sequence[str],
    outcomes: Mapping[str, Outcome],
    items: Callable[[str, str], Items],
    metric: Metric,
) -> dict[str, Table]:
    """By split. An arm of which every training broke is left out, and so are seeds that broke for any other arm.

    UserError where fewer than two arms are left, or no common seed.
    """
    good = {
        arm.name: {seed for seed in config.seeds if outcomes[job_name(arm.name, seed)].failed is None}
        for arm in config.arms
    }
    arms = tuple(name for name, seeds in good.items() if seeds)
    seeds = tuple(seed for seed in config.seeds if all(seed in good[arm] for arm in arms))
    if len(arms) < 2 or not seeds:
        reasons = {o.failed for o in outcomes.values() if o.failed is not None}
        raise UserError(
            f"Fewer than two arms were trained to their end with a common seed: {'; '.join(sorted(reasons))}",
            "Mend what is named, and run the command again: what is finished is kept.",
        )
    found = {}
    for split in splits:
        told = {(arm, seed): items(job_name(arm, seed), split) for arm in arms for seed in seeds}
        first = told[arms[0], seeds[0]]
        assert all(one.keys == first.keys for one in told.values()), "arms were scored on different items"
        scores = np.array([[told[arm, seed].values[metric.name] for seed in seeds] for arm in arms])
        found[split] = Table(split, arms, seeds, scores, first)
    return found


def job_name(arm: str, seed: int) -> str:
    """The folder of one training of an arm."""
    return f"arms/{arm}/seed-{seed}"


def compared(table: Table, metric: Metric, rows: np.ndarray | None = None) -> Compared:
    """The statistics of a table, or of some of its items."""
    _, groups = np.unique(np.array(table.items.groups), return_inverse=True)
    scores = table.scores if rows is None else table.scores[..., rows]
    return compare_arms(
        scores,
        groups if rows is None else groups[rows],
        higher_is_better=metric.higher_is_better,
        bounds=BOUNDS.get(metric.name, (0.0, 1.0)),
    )


def differences_of(found: Mapping[str, Compared], by_split: Mapping[str, Table]) -> tuple[Difference, ...]:
    """Every arm less the best one, on every split."""
    return tuple(
        Difference(
            arm=by_split[split].arms[d.arm],
            split=split,
            difference=_interval(d.difference),
            p=d.p,
            p_holm=d.p_holm,
            different=d.different,
        )
        for split, one in found.items()
        for d in one.differences
    )


def slices_of(table: Table, metric: Metric, examples: Mapping[str, Example]) -> dict[str, dict[str, Interval]]:
    """By arm and slice: the kinds of questions, else the lengths of texts in three parts, in words."""
    found: dict[str, dict[str, Interval]] = {arm: {} for arm in table.arms}
    for name, rows in _slices(table.items, examples).items():
        if len({table.items.groups[int(row)] for row in rows}) >= FEWEST_IN_SLICE:
            for arm, mean in zip(table.arms, compared(table, metric, rows).means, strict=True):
                found[arm][name] = _interval(mean)
    return found


def _slices(items: Items, examples: Mapping[str, Example]) -> dict[str, np.ndarray]:
    kinds = np.array(items.kinds)
    names = [str(kind) for kind in np.unique(kinds) if kind]
    if 2 <= len(names) <= MOST_SLICES:
        return {name: np.flatnonzero(kinds == name) for name in names}
    words = np.array([len(text[0].split()) if (text := examples[key].texts) else 0 for key in items.keys])
    ends = np.unique(np.quantile(words, [0, 1 / 3, 2 / 3, 1]).round().astype(int))
    if len(ends) < 3:
        return {}
    lows = [ends[0], *(ends[1:-1] + 1)]
    parts = zip(lows, ends[1:], strict=True)
    return {
        f"{low} to {high} words" if low < high else f"{low} words": np.flatnonzero((words >= low) & (words <= high))
        for low, high in parts
    }


def arm_result(
    arm: Solved,
    config: CompareConfig,
    tried: tuple[Trial, ...],
    outcomes: Mapping[str, Outcome],
    found: Mapping[str, Compared],
    by_split: Mapping[str, Table],
    slices: Mapping[str, dict[str, dict[str, Interval]]],
    folder: Path,
    metric: Metric,
) -> ArmResult:
    """Everything that is told of one arm."""
    name = arm.arm.name
    seeds = tuple(_seed_result(arm, seed, outcomes[job_name(name, seed)], folder, metric) for seed in config.seeds)
    places = {split: table.arms.index(name) for split, table in by_split.items() if name in table.arms}
    done = [outcomes[job_name(name, seed)] for seed in config.seeds]
    done = [outcome for outcome in done if outcome.failed is None]
    steps = round(float(np.mean([outcome.steps for outcome in done]))) if done else arm.steps or 0
    costs = Costs(
        parameters=arm.parameters,
        step_flops=arm.step_flops,
        flops=arm.step_flops * steps,
        steps=steps,
        samples=steps * arm.arm.settings.train.batch_size,
        seconds=float(np.mean([outcome.seconds for outcome in done])) if done else 0.0,
    )
    return ArmResult(
        name=name,
        about=about(arm.arm.settings.model),
        settings=configs.to_dict(arm.arm.settings),
        learning_rate=arm.arm.settings.train.learning_rate,
        tried=tried,
        costs=costs,
        seeds=seeds,
        scores={split: _interval(found[split].means[place]) for split, place in places.items()},
        slices={split: slices[split][name] for split in places},
        probability_best={split: found[split].probability_best[place] for split, place in places.items()},
    )


def _seed_result(arm: Solved, seed: int, outcome: Outcome, folder: Path, metric: Metric) -> SeedResult:
    name = job_name(arm.arm.name, seed)
    batch = arm.arm.settings.train.batch_size
    rows = [row for row in read_metrics(folder / name / "run" / "metrics.csv") if row.get("val_loss") is not None]
    course = tuple(
        Point(
            step=int(row["step"]),
            samples=int(row["step"]) * batch,
            flops=row["step"] * arm.step_flops,
            seconds=row["seconds"],
            loss=row["loss"],
            val_loss=row["val_loss"],
        )
        for row in rows
    )
    return SeedResult(
        seed=seed,
        scores={split: own[metric.name] for split, own in outcome.scores.items() if metric.name in own},
        others=dict(outcome.scores),
        course=course,
        seconds=outcome.seconds,
        folder=name,
        failed=outcome.failed,
    )


def data_card(source: Source, run: Path) -> DataCard:
    """The data in short; a run on them knows what could not be read."""
    quarantine = run / "quarantine.jsonl"
    broken = len(quarantine.read_text(encoding="utf-8").splitlines()) if quarantine.exists() else 0
    splits = {name: len(rows) for name, rows in source.splits.items()}
    return DataCard(
        name=source.name,
        understood=source.understood,
        fingerprint=source.fingerprint,
        splits=splits,
        broken=broken,
    )


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "chiasm": chiasm.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def machine(machinery: Machinery) -> str:
    """What the trainings ran on, in a line."""
    at_once = f"{machinery.workers} trainings at a time" if machinery.workers > 1 else "one training at a time"
    threads = f"{machinery.threads} threads" if machinery.threads > 1 else "one thread"
    return f"{trained_on()}, {platform.system()}; {at_once}, {threads} each"


def _interval(found: Estimate) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high)


__all__ = [
    "Table",
    "arm_result",
    "compared",
    "data_card",
    "differences_of",
    "job_name",
    "machine",
    "metric_of",
    "slices_of",
    "tables",
    "versions",
]
