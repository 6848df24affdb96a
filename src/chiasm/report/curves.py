"""Drawings of one run: its losses, its rates, whether its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from chiasm.metrics.calibration import Calibration
from chiasm.report import svg
from chiasm.report.grading import Graded, wilson

WIDE, NARROW, SMALL = (640, 320), (350, 280), (300, 230)
MOST_POINTS = 400
"""More rows of the log than this are thinned: no screen shows them."""
BINS = 10
PLAIN = "token_loss", "class_loss", "excess_loss"
"""Columns that are, in training, what validation follows: without label smoothing, or above the floor."""
Rows = Sequence[dict[str, float | None]]
Drawn = tuple[svg.Picture, Markup | str]
"""A picture and its caption."""

GROUPS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("learning_rate",), "Learning rate"),
    (("gradient_norm",), "Norm of the gradient before clipping"),
    (("images_per_second",), "Examples per second"),
    (("accuracy",), "Share right in training batches"),
    (("scale",), "Scale of the similarities (1 / temperature)"),
    (("picture_loss", "text_loss", "sound_loss"), "Losses of the inputs"),
    (("token_loss", "contrastive_loss"), "Losses of captions (token) and pairs (contrastive)"),
)


def loss_picture(rows: Rows, unit: str, best_step: int | None) -> Drawn:
    """Training and validation loss against steps, chance where the log knows it, and which weights were kept."""
    both = any(row.get("contrastive_loss") is not None for row in rows)  # then no column is what validation follows
    plain = next((name for name in PLAIN if not both and _points(rows, name)), "loss")
    found = {"training": _points(rows, plain), "validation": _points(rows, "val_loss")}
    if not both:
        found["chance"] = _points([_above_floor(row) for row in rows], "chance")
    lines = {label: points for label, points in found.items() if points}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (label, points) in enumerate(lines.items()):
            style = (
                {"color": svg.MUTED, "linewidth": 1, "linestyle": "--"}
                if label == "chance"
                else {"color": svg.ARMS[place]}
            )
            dots = {"marker": svg.MARKERS[place], "markersize": 4} if len(points) < 30 and label != "chance" else {}
            axes.plot(*zip(*points, strict=True), **style, **dots)
        if best_step is not None and "validation" in lines:
            kept = dict(lines["validation"]).get(best_step)
            if kept is not None:
                axes.plot(
                    [best_step], [kept], "o", color=svg.ARMS[1], markersize=10, fillstyle="none", markeredgewidth=1.5
                )
        axes.set(xlabel="step", ylabel=unit)
        axes.set_ylim(bottom=min(0, *(value for points in lines.values() for _, value in points)))

    words = [_last(label, points) for label, points in lines.items() if label != "chance"]
    alt = f"Loss against steps: {'; '.join(words)}"
    legend = [_swatch(place, label) for place, label in enumerate(lines) if label != "chance"]
    kept = Markup("; the ring marks the step whose weights were kept") if best_step is not None else ""
    dashed = Markup("; dashed: what guessing gives") if "chance" in lines else ""
    return svg.picture(draw, alt, WIDE, NARROW), Markup(" · ").join(legend) + kept + dashed + "."


def rate_pictures(rows: Rows) -> list[Drawn]:
    """A small picture of each other thing that the log holds."""
    gates = tuple(name for name in (rows[0] if rows else {}) if name.startswith("gate_"))
    groups = (*GROUPS, (gates, "How far the gates are open (tanh)"))
    drawn = []
    for names, title in groups:
        lines = {name: points for name in names if (points := _points(rows, name))}
        if lines and (len(names) < 2 or "token_loss" not in names or len(lines) == 2):
            drawn.append(_rates(lines, title))
    return drawn


def reliability_picture(answers: Sequence[Graded], sure: str) -> svg.Picture:
    """How often answers of a confidence, or whatever `sure` calls it, are right, in ten bins, with 95 % intervals."""
    given = np.array([answer.sure for answer in answers], dtype=float)
    right = np.array([answer.right for answer in answers], dtype=float)
    bins = np.minimum((given * BINS).astype(int), BINS - 1)
    filled = [(given[own], right[own]) for place in range(BINS) if (own := bins == place).any()]
    points = [(s.mean(), r.mean(), *wilson(float(r.mean()), len(r)), len(r)) for s, r in filled]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=1, linestyle="--")
        for x, y, low, high, count in points:
            axes.plot([x, x], [low, high], color=svg.ARMS[0], linewidth=1.5)
            axes.plot([x], [y], "o", color=svg.ARMS[0], markersize=4 + 8 * (count / len(answers)) ** 0.5)
        axes.set(xlabel=sure, ylabel="share right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    told = "; ".join(f"at {x:.2f}, {y:.2f} are right" for x, y, *_ in points)
    return svg.picture(draw, f"Share right against {sure}: {told}", (420, 320), NARROW)


def cosines_picture(calibration: Calibration) -> Drawn:
    """What a cosine means: how many true and false pairs reach it, and the probability of a true pair."""
    true, false = calibration.true, calibration.false
    low, high = min(true.cosines[0], false.cosines[0]), max(true.cosine(0.01), false.cosine(0.01))
    cosines = np.linspace(low, min(high, 1.0), 100)
    lines = [true.share(cosines), false.share(cosines), calibration.probability(cosines)]
    threshold = calibration.threshold(0.05)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (line, style) in enumerate(zip(lines, ("-", "-", "--"), strict=True)):
            axes.plot(cosines, line, style, color=svg.ARMS[place])
        axes.axvline(threshold, color=svg.MUTED, linewidth=1)
        axes.set(xlabel="cosine", ylabel="share, probability", ylim=(-0.02, 1.02))

    names = ("true pairs that reach it", "false pairs that reach it", "probability of a true pair")
    legend = Markup(" · ").join(_swatch(place, name) for place, name in enumerate(names))
    alt = f"Shares of true and false pairs by cosine; one in twenty false pairs reaches {threshold:.2f}"
    return svg.picture(
        draw, alt, WIDE, NARROW
    ), legend + f". One in twenty false pairs reaches {threshold:.2f} (the line)."


def _rates(lines: dict[str, list[tuple[float, float]]], title: str) -> Drawn:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, points in enumerate(lines.values()):
            colour = svg.ARMS[place % len(svg.ARMS)]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, marker="o" if len(points) == 1 else None)
        axes.set_xlabel("step")

    alt = f"{title} against steps: " + "; ".join(_last(name, points) for name, points in lines.items())
    names = [name.removeprefix("gate_").replace("_", " ") for name in lines]
    legend = Markup(" · ").join(_swatch(place, name) for place, name in enumerate(names)) if len(names) > 1 else ""
    return svg.picture(draw, alt, SMALL), Markup("{}{}{}").format(title, ": " if legend else "", legend)


def _above_floor(row: dict[str, float | None]) -> dict[str, float | None]:
    """The row with its chance where the curves are: above the floor, if there is one."""
    return row if row.get("chance") is None else row | {"chance": (row["chance"] or 0.0) - (row.get("floor") or 0.0)}


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    points = [(row["step"] or 0.0, value) for row in rows if (value := row.get(name)) is not None]
    return points[:: -(-len(points) // MOST_POINTS) or 1]


def _last(label: str, points: Sequence[tuple[float, float]]) -> str:
    step, value = points[-1]
    told = f"{value:.2e}" if abs(value) < 0.01 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{label.replace('_', ' ')} {told} at step {step:,.0f}"


def _swatch(place: int, label: str) -> Markup:
    colour = place % len(svg.ARMS) + 1
    return Markup('<span class="swatch" style="background:var(--arm-{})"></span>{}').format(colour, label)


__all__ = ["Drawn", "cosines_picture", "loss_picture", "rate_pictures", "reliability_picture"]
