"""Marks of drawings: a score with its interval, names of rows and points, few ticks."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from chiasm.compare.results import Interval, Metric
from chiasm.report.svg import INK, PAPER

NAME_LETTERS = 24
EVEN = {"^": 1.2, "v": 1.2, "D": 0.85, "P": 1.15, "X": 1.15, "p": 1.15}
"""Sizes of markers that look as large as a disc of 1."""
PLACES = (
    (10, 3, "left", "bottom"),
    (-10, 3, "right", "bottom"),
    (10, -3, "left", "top"),
    (-10, -3, "right", "top"),
    (10, 14, "left", "bottom"),
    (10, -14, "left", "top"),
)
"""Of a name beside its point, in the order of liking: offset in pixels, and the name's side that is put there."""


def score_label(metric: Metric) -> str:
    """A metric's name, and which way is better."""
    return f"{cut(metric.words)} ({'higher' if metric.higher_is_better else 'lower'} is better)"


def mark(
    axes: Any, at: Sequence[float | int], scores: Sequence[Interval], colour: str, marker: str,
    *, upright: bool = False, hollow: bool = False, small: bool = False,
) -> None:  # fmt: skip
    """Scores with their intervals, lying at these heights or upright at these places."""
    low, high, values = ([getattr(score, name) for score in scores] for name in ("low", "high", "value"))
    (axes.vlines if upright else axes.hlines)(at, low, high, color=colour, linewidth=1.6 if small else 2, zorder=2)
    face, edge = (PAPER, colour) if hollow else (colour, PAPER)
    size, width = (6.5 if small else 9) * EVEN.get(marker, 1.0), 1.4 if hollow else 0.8
    across, up = (at, values) if upright else (values, at)
    axes.plot(across, up, marker, color=colour, mfc=face, mec=edge, mew=width, markersize=size, zorder=3)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Names at the left of rows, the first on top."""
    axes.set_yticks(range(len(names)), labels=[cut(name) for name in names], parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def few_ticks(axis: Any, most: int = 6, written: Callable[[float], str] | None = None) -> None:
    """At most `most` ticks on an axis (1, 2, 5 of each power on a logarithmic one), `written` as one likes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

    logarithmic = axis.get_scale() == "log"
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if logarithmic else MaxNLocator(most, steps=[1, 2, 5, 10]))
    plain = FuncFormatter(lambda value, _: f"{value:g}") if logarithmic else ScalarFormatter(useOffset=False)
    axis.set_major_formatter(plain if written is None else FuncFormatter(lambda value, _: written(value)))
    axis.set_minor_formatter(NullFormatter())


def name_points(figure: Any, axes: Any, points: Sequence[tuple[float | int, Interval, str]]) -> None:
    """Write names beside points where there is room; the legend has those that find none."""
    figure.draw_without_rendering()
    renderer, inside = figure._get_renderer(), axes.get_window_extent()
    taken = [_around(axes, at, score) for at, score, _ in points]
    for at, score, name in points:
        for x, y, side, level in PLACES:
            text = axes.annotate(
                name, (at, score.value), (x, y), textcoords="offset points", ha=side, va=level, parse_math=False
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            if box.x0 >= inside.x0 and box.x1 <= figure.bbox.x1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _around(axes: Any, at: float | int, score: Interval) -> Any:
    """The box in pixels that a point and its interval take."""
    from matplotlib.transforms import Bbox

    (left, low), (right, high) = axes.transData.transform([(at, score.low), (at, score.high)])
    return Bbox([[left - 6, min(low, high)], [right + 6, max(low, high)]])


def cut(name: str) -> str:
    """A name that fits beside a drawing: words lose their end, one long word its middle (its end may be a number)."""
    if " " in name or len(name) <= NAME_LETTERS:
        return textwrap.shorten(name, NAME_LETTERS, placeholder=" …")
    return f"{name[: NAME_LETTERS // 2]}…{name[1 - NAME_LETTERS // 2 :]}"


__all__ = ["EVEN", "cut", "few_ticks", "mark", "name_points", "name_rows", "score_label"]
