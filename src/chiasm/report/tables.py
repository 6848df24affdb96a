"""Tables of a comparison, for the page, for `report.md` and for `results.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chiasm.compare.results import ArmResult, Comparison, Difference, Interval
from chiasm.report.page import Table, duration, number, p_value, probability, short, signed
from chiasm.report.plots import ranked

COSTS = ("parameters", "step_flops", "flops", "steps", "samples", "seconds")


def splits(found: Comparison) -> list[str]:
    """All splits with a score, that of the verdict first."""
    return list(dict.fromkeys([found.split, *(split for arm in found.arms for split in arm.scores)]))


def in_order(found: Comparison, split: str) -> list[ArmResult]:
    """All arms: those with a score by rank, then those without."""
    with_score = ranked(found, split)
    return with_score + [arm for arm in found.arms if arm not in with_score]


def scores_table(found: Comparison, split: str) -> Table:
    """Score, difference to the best, and probability of being best, the best arm first."""
    heads = ["arm", found.metric.words, "minus best", "p (Holm)", "P(best)"]
    best = ranked(found, split)[:1]
    rows = []
    for arm in in_order(found, split):
        if split not in arm.scores:
            rows.append([arm.name, "broke", "–", "–", "–"])
            continue
        gap = difference(found, arm.name, split)
        probable = probability(arm.probability_best[split]) if split in arm.probability_best else "–"
        compared = (
            ["best" if arm in best else "–", "–"]
            if gap is None
            else [_gap(gap.difference), (p_value(gap.p_holm), gap.doubt)]
        )
        rows.append([arm.name, estimate(arm.scores[split]), *compared, probable])
    return Table(heads, rows)


def costs_table(found: Comparison) -> Table:
    """What one training of each arm costs, four costs beside each other, and its learning rate."""
    heads = ["arm", "parameters", "FLOPs", "seconds", "samples", "steps", "learning rate"]
    least = {name: min(filter(None, (getattr(a.costs, name) for a in found.arms)), default=1) for name in COSTS}

    def cost(arm: ArmResult, name: str, written: str) -> tuple[str, str]:
        ratio = getattr(arm.costs, name) / least[name]
        return written, "" if ratio < 1.005 else f"× {ratio:.2f}"

    rows = [
        [
            arm.name,
            cost(arm, "parameters", short(arm.costs.parameters)),
            cost(arm, "flops", short(arm.costs.flops)),
            cost(arm, "seconds", duration(arm.costs.seconds)),
            cost(arm, "samples", short(arm.costs.samples)),
            f"{arm.costs.steps:,}",
            f"{arm.learning_rate:.2g}",
        ]
        for arm in in_order(found, found.split)
    ]
    return Table(heads, rows)


def floors_table(found: Comparison) -> Table:
    """What can be had without the whole, on every split."""
    rows = [
        [
            (floor.name, floor.explained),
            *(estimate(floor.scores[s]) if s in floor.scores else "–" for s in splits(found)),
        ]
        for floor in found.floors
    ]
    return Table(["what is left", *splits(found)], rows)


def slices_table(found: Comparison, split: str) -> Table:
    """Score of every arm on every slice of a split."""
    arms = [arm for arm in ranked(found, split) if arm.slices.get(split)]
    names = list(dict.fromkeys(name for arm in arms for name in arm.slices[split]))
    rows = [
        [name, *(estimate(a.slices[split][name]) if name in a.slices[split] else "–" for a in arms)] for name in names
    ]
    return Table(["slice", *(arm.name for arm in arms)], rows)


def failures(found: Comparison) -> list[str]:
    """A sentence for every arm that lost trainings, and why."""
    told = []
    for arm in found.arms:
        broken = [seed for seed in arm.seeds if seed.failed is not None]
        if broken:
            which = ", ".join(str(seed.seed) for seed in broken)
            left = "it has no score" if len(broken) == len(arm.seeds) else "its scores are those of the other seeds"
            why = "; ".join(dict.fromkeys(str(seed.failed).rstrip(".") for seed in broken))
            told.append(f"{arm.name} broke with seed{'s' if len(broken) > 1 else ''} {which}, so {left}: {why}.")
    return told


def difference(found: Comparison, arm: str, split: str) -> Difference | None:
    """An arm's difference to the best of a split; None for the best itself."""
    return next((gap for gap in found.differences if (gap.arm, gap.split) == (arm, split)), None)


def estimate(score: Interval) -> tuple[str, str]:
    """A score, and its interval as small print."""
    return number(score.value), f"{number(score.low)} to {number(score.high)}"


def _gap(gap: Interval) -> tuple[str, str]:
    return signed(gap.value), f"{signed(gap.low)} to {signed(gap.high)}"


def write_csv(found: Comparison, path: Path) -> None:
    """A row for each arm and split, numbers in full, a column for each seed; empty where there is none."""
    rows = list(_flat(found))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)


def _flat(found: Comparison) -> Iterator[dict[str, Any]]:
    seeds = list(dict.fromkeys(seed.seed for arm in found.arms for seed in arm.seeds))
    for split in splits(found):
        for arm in found.arms:
            score, gap = arm.scores.get(split), difference(found, arm.name, split)
            by_seed = {seed.seed: seed.scores[split] for seed in arm.seeds if split in seed.scores}
            yield {
                "arm": arm.name,
                "split": split,
                "metric": found.metric.name,
                **_parts("score", score),
                **_parts("minus_best", gap and gap.difference),
                "p": gap.p if gap else "",
                "p_holm": gap.p_holm if gap else "",
                "different": str(gap.different).lower() if gap else "",
                "probability_best": arm.probability_best.get(split, ""),
                **{name: getattr(arm.costs, name) for name in COSTS},
                "learning_rate": arm.learning_rate,
                **{f"seed_{seed}": by_seed.get(seed, "") for seed in seeds},
                "failed": "; ".join(seed.failed for seed in arm.seeds if seed.failed is not None),
            }


def _parts(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def markdown(table: Table) -> str:
    """A table as GitHub reads it."""
    lines = [
        table.heads,
        ["---", *["--:"] * (len(table.heads) - 1)],
        *([_one_text(c) for c in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _one_text(cell: Any) -> str:
    return str(cell) if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


def plain(text: str) -> str:
    """A text of the user's as one line of Markdown that is no HTML."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


__all__ = [
    "costs_table",
    "difference",
    "estimate",
    "failures",
    "floors_table",
    "in_order",
    "markdown",
    "plain",
    "scores_table",
    "slices_table",
    "splits",
    "write_csv",
]
