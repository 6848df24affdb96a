"""Drawings of a comparison: quality against cost, floors, curves, slices, seeds, scaling, learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from chiasm.compare.results import ArmResult, Comparison, Point, Scaling
from chiasm.report.marks import EVEN, cut, few_ticks, mark, name_points, name_rows, score_label
from chiasm.report.page import number, short
from chiasm.report.svg import ARMS, LINE, MARKERS, MUTED, PAPER, Picture, picture

WIDE, NARROW = 760, 350
"""Pixels: a drawing on a desk, and on a phone."""
MINUTES_FROM_SECONDS = 120
Look = dict[str, tuple[str, str]]


def looks(found: Comparison) -> Look:
    """Each arm's colour and marker, the same in every drawing."""
    return {arm.name: (ARMS[place % len(ARMS)], MARKERS[place % len(MARKERS)]) for place, arm in enumerate(found.arms)}


def pareto(found: Comparison) -> Picture | None:
    """Score against what was not held equal: seconds, or else FLOPs; the frontier joins arms that no other beats."""
    arms = [arm for arm in found.arms if found.split in arm.scores]
    if not arms:
        return None
    cost, label = _cost_axis(found)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for arm in arms:
            colour, marker = looks(found)[arm.name]
            mark(axes, [cost(arm)], [arm.scores[found.split]], colour, marker, upright=True)
        edge = frontier([(cost(arm), arm.scores[found.split].value) for arm in arms], found.metric.higher_is_better)
        axes.plot(*zip(*edge, strict=True), color=MUTED, linewidth=1, drawstyle="steps-post", zorder=1)
        axes.set(xlabel=label, ylabel=score_label(found.metric))
        axes.margins(x=0.16, y=0.1)
        few_ticks(axes.xaxis, 5, short)
        few_ticks(axes.yaxis)
        name_points(figure, axes, [(cost(arm), arm.scores[found.split], cut(arm.name)) for arm in arms])

    told = "; ".join(f"{arm.name} {number(arm.scores[found.split].value)} at {short(cost(arm))}" for arm in arms)
    alt = f"{found.metric.words} on {found.split} against {label}: {told}"
    return picture(draw, alt, (WIDE, 380), (NARROW, 320))


def frontier(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The points (cost, score) that no other beats in one without losing in the other, by rising cost."""
    sign = 1 if higher_is_better else -1
    edge: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not edge or sign * score > sign * edge[-1][1]:
            edge.append((cost, score))
    return edge


def floors(found: Comparison) -> Picture | None:
    """What can be had without the whole, beside the arms, on one scale."""
    bare = [(floor.name, floor.scores[found.split]) for floor in found.floors if found.split in floor.scores]
    if not bare:
        return None
    arms = [(arm.name, arm.scores[found.split]) for arm in ranked(found, found.split)]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        mark(axes, range(len(bare)), [score for _, score in bare], MUTED, "o", hollow=True)
        for row, (name, score) in enumerate(arms, len(bare)):
            mark(axes, [row], [score], *looks(found)[name])
        axes.axhline(len(bare) - 0.5, color=LINE, linewidth=1)
        name_rows(axes, [name for name, _ in (*bare, *arms)])
        axes.set(xlabel=score_label(found.metric))
        few_ticks(axes.xaxis)

    told = "; ".join(f"{name} {number(score.value)}" for name, score in (*bare, *arms))
    height = 60 + 28 * (len(bare) + len(arms))
    return picture(draw, f"{found.metric.words} on {found.split}: {told}", (WIDE, height), (NARROW, height))


def curves(found: Comparison) -> list[Picture]:
    """Validation loss against samples, FLOPs and seconds; a thin line for each seed, a thick one for their mean."""
    if not any(seed.course for arm in found.arms for seed in arm.seeds):
        return []
    longest = max(seed.course[-1].seconds for arm in found.arms for seed in arm.seeds if seed.course)
    minutes = longest > MINUTES_FROM_SECONDS
    across: dict[str, Callable[[Point], float]] = {
        "samples": lambda point: float(point.samples),
        "FLOPs": lambda point: point.flops,
        "minutes" if minutes else "seconds": lambda point: point.seconds / (60 if minutes else 1),
    }
    return [_curve(found, name, value) for name, value in across.items()]


def _curve(found: Comparison, name: str, value: Callable[[Point], float]) -> Picture:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for arm in found.arms:
            colour, marker = looks(found)[arm.name]
            whole = [seed.course for seed in arm.seeds if seed.course and seed.failed is None]
            for course in (seed.course for seed in arm.seeds if seed.course):
                across, loss = [value(point) for point in course], [point.val_loss for point in course]
                axes.plot(across, loss, color=colour, linewidth=0.8, alpha=0.45 if len(whole) > 1 else 1)
            mean = mean_course(whole, value)
            if mean:
                axes.plot(*zip(*mean, strict=True), color=colour, zorder=3)
                axes.plot(*mean[-1], color=colour, marker=marker, markersize=6, zorder=4, clip_on=False)
        if axes.get_ylim()[0] > 0 and axes.dataLim.y1 > 5 * axes.dataLim.y0:
            axes.set_yscale("log")
        axes.set(xlabel=f"{name}", xlim=(0, None))
        few_ticks(axes.xaxis, 4, short)
        few_ticks(axes.yaxis)

    alt = f"Validation loss of {', '.join(arm.name for arm in found.arms)} against {name}"
    return picture(draw, alt, (300, 260))


def mean_course(courses: Sequence[Sequence[Point]], value: Callable[[Point], float]) -> list[tuple[float, float]]:
    """Means over seeds of (value, validation loss), at the steps that all of them validated."""
    by_step = [{point.step: point for point in course} for course in courses]
    steps = sorted(set.intersection(*(set(points) for points in by_step))) if by_step else []
    at = [[points[step] for points in by_step] for step in steps]
    return [(float(np.mean([value(p) for p in ps])), float(np.mean([p.val_loss for p in ps]))) for ps in at]


def slices(found: Comparison, split: str) -> Picture | None:
    """Score of every arm on every slice of a split."""
    arms = [arm for arm in ranked(found, split) if arm.slices.get(split)]
    names = list(dict.fromkeys(name for arm in arms for name in arm.slices[split]))
    if not names:
        return None

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        apart = 0.76 / len(arms)
        for place, arm in enumerate(arms):
            scores = {row: arm.slices[split][name] for row, name in enumerate(names) if name in arm.slices[split]}
            rows = [row + apart * (place - (len(arms) - 1) / 2) for row in scores]
            mark(axes, rows, list(scores.values()), *looks(found)[arm.name], small=True)
        for row in range(1, len(names)):
            axes.axhline(row - 0.5, color=LINE, linewidth=0.8)
        name_rows(axes, names)
        axes.set(xlabel=score_label(found.metric))
        few_ticks(axes.xaxis)

    best = {name: max((a for a in arms if name in a.slices[split]), key=_key(found, split, name)) for name in names}
    told = "; ".join(f"{name}: {a.name} {number(a.slices[split][name].value)}" for name, a in best.items())
    height = 56 + len(names) * (14 + 13 * len(arms))
    return picture(
        draw, f"{found.metric.words} on {split} by slice, best arm of each: {told}", (WIDE, height), (NARROW, height)
    )


def seeds(found: Comparison) -> Picture | None:
    """A point for every seed of every arm; thin lines join the same seed, a bar is the mean."""
    arms = ranked(found, found.split)
    numbers = list(dict.fromkeys(seed.seed for arm in arms for seed in arm.seeds if found.split in seed.scores))
    if len(numbers) < 2:
        return None
    scores = [{seed.seed: seed.scores[found.split] for seed in arm.seeds if found.split in seed.scores} for arm in arms]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for seed in numbers:
            rows = [row for row, by_seed in enumerate(scores) if seed in by_seed]
            axes.plot([scores[row][seed] for row in rows], rows, color=MUTED, linewidth=0.6, alpha=0.6, zorder=1)
        for row, (arm, by_seed) in enumerate(zip(arms, scores, strict=True)):
            colour, marker = looks(found)[arm.name]
            axes.plot(
                list(by_seed.values()),
                [row] * len(by_seed),
                marker,
                color=colour,
                markersize=8 * EVEN.get(marker, 1.0),
                mec=PAPER,
            )
            axes.plot([float(np.mean(list(by_seed.values())))] * 2, [row - 0.28, row + 0.28], color=colour, linewidth=2)
        name_rows(axes, [arm.name for arm in arms])
        axes.set(xlabel=score_label(found.metric))
        few_ticks(axes.xaxis)

    told = "; ".join(
        f"{arm.name} {', '.join(number(score) for score in by_seed.values())}"
        for arm, by_seed in zip(arms, scores, strict=True)
    )
    height = 60 + 34 * len(arms)
    return picture(draw, f"{found.metric.words} of every seed: {told}", (WIDE, height), (NARROW, height))


def scaling(found: Comparison, measured: Scaling) -> Picture:
    """Loss against examples with its power law, and what it expects of twice the data."""
    colour, marker = looks(found)[measured.arm]
    most = max(measured.examples)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        law = power_law(measured)
        within, beyond = np.geomspace(min(measured.examples), most, 40), np.geomspace(most, 2 * most, 20)
        axes.plot(within, law(within), color=colour, linewidth=1.5)
        axes.plot(beyond, law(beyond), color=colour, linewidth=1.5, linestyle=(0, (3, 3)))
        last = measured.losses[measured.examples.index(most)]
        rise = np.log2(beyond / most)  # from the last measurement's interval to that of the forecast
        below = (
            law(beyond) - (1 - rise) * (last.value - last.low) - rise * (measured.doubled.value - measured.doubled.low)
        )
        above = (
            law(beyond)
            + (1 - rise) * (last.high - last.value)
            + rise * (measured.doubled.high - measured.doubled.value)
        )
        axes.fill_between(beyond, below, above, color=colour, alpha=0.15, linewidth=0)
        mark(axes, measured.examples, measured.losses, colour, marker, upright=True)
        mark(axes, [2 * most], [measured.doubled], colour, marker, upright=True, hollow=True)
        axes.set_xscale("log")
        ticks = [*measured.examples, 2 * most]
        axes.set_xticks(ticks, labels=[short(n) for n in ticks], minor=False)
        axes.xaxis.minorticks_off()
        axes.set(xlabel="training examples", ylabel="loss")
        few_ticks(axes.yaxis)

    told = ", ".join(
        f"{number(x.value)} at {short(n)}" for n, x in zip(measured.examples, measured.losses, strict=True)
    )
    told += f"; {number(measured.doubled.value)} expected at {short(2 * most)}"
    alt = f"Loss of {measured.arm} against training examples: {told}"
    return picture(draw, alt, (WIDE, 320), (NARROW, 280))


def power_law(measured: Scaling) -> Callable[[np.ndarray], np.ndarray]:
    """The curve through the forecast for twice the data, with the fitted exponent, nearest to the measurements."""
    examples, losses = np.array(measured.examples, float), np.array([loss.value for loss in measured.losses])
    exponent, twice = measured.exponent.value, 2 * examples.max()
    rise = examples**-exponent - twice**-exponent
    scale = float(rise @ (losses - measured.doubled.value) / (rise @ rise)) if exponent else 0.0
    return lambda n: measured.doubled.value + scale * (n**-exponent - twice**-exponent)


def rates(found: Comparison) -> Picture | None:
    """Validation loss of the learning rates tried; filled: the one taken, larger: trained for longer."""
    tried = [(arm, trial) for arm in found.arms for trial in arm.tried]
    losses = [trial.val_loss for _, trial in tried if trial.val_loss is not None]
    if not losses:
        return None
    longest = max(trial.steps for _, trial in tried)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        aside = {arm.name: 1.08 ** (place - (len(found.arms) - 1) / 2) for place, arm in enumerate(found.arms)}
        for arm, trial in tried:
            colour, marker = looks(found)[arm.name]
            taken = trial.learning_rate == arm.learning_rate
            at, size = trial.learning_rate * aside[arm.name], 4 + 5 * (trial.steps / longest) ** 0.5
            if trial.val_loss is None:
                axes.plot(at, 0.97, "x", color=colour, markersize=6, transform=axes.get_xaxis_transform())
            else:
                axes.plot(
                    at, trial.val_loss, marker, color=colour, mfc=colour if taken else "none", mew=1.4, markersize=size
                )
        axes.set_xscale("log")
        ticks = sorted({trial.learning_rate for _, trial in tried})
        kept = ticks if len(ticks) <= 6 else ticks[:: -(-len(ticks) // 6)]
        axes.set_xticks(kept, labels=[f"{rate:.0e}".replace("e-0", "e-") for rate in kept])
        axes.xaxis.minorticks_off()
        axes.margins(y=0.15)
        axes.set(xlabel="learning rate", ylabel="validation loss")
        few_ticks(axes.yaxis)

    return picture(draw, "Validation loss of every learning rate tried, for each arm", (WIDE, 320), (NARROW, 280))


def ranked(found: Comparison, split: str) -> list[ArmResult]:
    """Arms with a score on the split, the best first."""
    sign = -1 if found.metric.higher_is_better else 1
    return sorted((arm for arm in found.arms if split in arm.scores), key=lambda arm: sign * arm.scores[split].value)


def _key(found: Comparison, split: str, name: str) -> Callable[[ArmResult], float]:
    sign = 1 if found.metric.higher_is_better else -1
    return lambda arm: sign * arm.slices[split][name].value


def _cost_axis(found: Comparison) -> tuple[Callable[[ArmResult], float], str]:
    if found.settings.get("equal") != "flops":
        return lambda arm: arm.costs.flops, "FLOPs of training"
    if max(arm.costs.seconds for arm in found.arms) > MINUTES_FROM_SECONDS:
        return lambda arm: arm.costs.seconds / 60, "minutes of training"
    return lambda arm: arm.costs.seconds, "seconds of training"


__all__ = [
    "curves",
    "floors",
    "frontier",
    "looks",
    "mean_course",
    "pareto",
    "power_law",
    "ranked",
    "rates",
    "scaling",
    "seeds",
    "slices",
]
