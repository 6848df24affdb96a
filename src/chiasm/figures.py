"""Pictures of results: learning curves, attention, captions, retrieval, search hits, confusions, calibration."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "height width 3"]
RIGHT = "tab:green"
FINE_PIXELS = 200
"""So many pixels show light without steps."""
LINE_INCHES = 0.12
"""A line of small text."""


def curves_figure(rows: Sequence[dict[str, Any]], path: Path, unit: str = "loss, nats") -> None:
    """Training and validation loss, and learning rate, against steps."""
    figure, axes = _subplots(1, 2, (9.0, 3.6))
    for name, label in (("loss", "training, as minimised"), ("val_loss", "validation")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes[0, 0].plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
    axes[0, 0].set(xlabel="step", ylabel=unit)
    if axes[0, 0].lines:
        axes[0, 0].legend(frameon=False)
    points = [(row["step"], row["learning_rate"]) for row in rows if row.get("learning_rate") is not None]
    if points:
        axes[0, 1].plot(*zip(*points, strict=True), color="tab:gray")
    axes[0, 1].set(xlabel="step", ylabel="learning rate")
    _save(figure, path)


def gates_figure(rows: Sequence[dict[str, Any]], gates: Sequence[str], path: Path) -> None:
    """The tanh of each gate of a Flamingo against steps."""
    figure, axes = _subplots(1, 1, (6.0, 3.6))
    for name in gates:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            style = "--" if name.endswith("mlp") else "-"
            axes[0, 0].plot(*zip(*points, strict=True), style, label=name.removeprefix("gate_").replace("_", " "))
    axes[0, 0].set(xlabel="step", ylabel="tanh of the gate")
    if axes[0, 0].lines:
        axes[0, 0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def attention_figure(
    picture: Pixels, words: Sequence[str], maps: Float[np.ndarray, "l rows columns"], path: Path
) -> None:
    """The picture once per word, lit where the decoder looked when it wrote that word."""
    columns, side = min(len(words) + 1, 6), 1.7
    lines = -(-(len(words) + 1) // columns)
    figure, axis = _sheet((side + 0.2) * columns, (side + 0.4) * lines)
    shown = [picture, *(_lit(picture, seen) for seen in maps)]
    for place, (seen, word) in enumerate(zip(shown, ("picture", *words), strict=False)):
        left, top = (side + 0.2) * (place % columns) + 0.1, (side + 0.4) * (place // columns) + 0.3
        _put(axis, seen, left, top, side)
        axis.text(left + side / 2, top - 0.05, word, fontsize=10, ha="center", va="bottom", parse_math=False)
    _save(figure, path)


def _lit(picture: Pixels, seen: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "h w 3"]:
    """The picture in gray, under the light of what was seen: at least `FINE_PIXELS` wide or high."""
    from matplotlib import colormaps

    times = -(-FINE_PIXELS // max(picture.shape[:2]))
    gray = ((picture.mean(-1, keepdims=True) + 80) / 335).repeat(times, 0).repeat(times, 1)
    share = Image.fromarray(((seen - seen.min()) / max(float(np.ptp(seen)), 1e-12)).astype(np.float32))
    soft = share.resize((2 * share.width, 2 * share.height), Image.Resampling.BILINEAR)  # or bicubic would overshoot
    strength = np.clip(np.asarray(soft.resize((gray.shape[1], gray.shape[0]), Image.Resampling.BICUBIC)), 0, 1)
    return 0.35 * gray + 0.65 * colormaps["inferno"](strength)[..., :3]


def occlusion_figure(picture: Pixels, fall: Float[np.ndarray, "rows columns"], path: Path, *, strongest: float) -> None:
    """The picture in dim gray, lit where covering it made an answer less likely, at its own size and without margins.

    `strongest` is the fall, in nats, of the brightest light; places that spoke against the answer have none.
    """
    from matplotlib import colormaps

    height, width = picture.shape[:2]
    share = Image.fromarray(np.clip(fall / strongest, 0, 1).astype(np.float32))
    strength = np.clip(np.asarray(share.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)[..., None]
    gray = 0.1 + 0.3 * picture.mean(-1, keepdims=True) / 255
    light = colormaps["inferno"](strength[..., 0])[..., :3]
    shown = 1 - (1 - gray) * (1 - light)  # added: so what matters more is brighter, whatever the picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * shown).round().astype(np.uint8)).save(path)


def gallery_figure(
    pictures: Sequence[Pixels],
    captions: Sequence[str],
    path: Path,
    *,
    colours: Sequence[str] = (),
    columns: int = 8,
    title: str = "",
) -> None:
    """Pictures in a grid with their captions below; `colours` of the captions, black where none are given."""
    texts = ["\n".join("\n".join(textwrap.wrap(line, 22)) for line in caption.split("\n")) for caption in captions]
    side, above = 1.5, "\n".join(textwrap.wrap(title, 20 * columns))
    starts = range(0, len(pictures), columns)
    heights = [max(text.count("\n") + 1 for text in texts[start : start + columns]) for start in starts]
    tops = np.cumsum([0.17 * len(above.split("\n")), *(side + 0.18 + LINE_INCHES * lines for lines in heights)])
    figure, axis = _sheet((side + 0.1) * columns, max(side, float(tops[-1])))
    axis.text((side + 0.1) * columns / 2, 0, above, fontsize=10, ha="center", va="top", parse_math=False)
    for place, (picture, text) in enumerate(zip(pictures, texts, strict=False)):
        left, top = (side + 0.1) * (place % columns) + 0.05, float(tops[place // columns]) + 0.05
        bottom = _put(axis, picture, left, top, side)
        colour = colours[place] if colours else "black"
        below = {"ha": "center", "va": "top", "fontsize": 7, "color": colour, "parse_math": False}
        axis.text(left + side / 2, bottom + 0.05, text, **below)
    _save(figure, path)


def grid_figure(
    pictures: Sequence[Pixels],
    scores: Sequence[float],
    captions: Sequence[str],
    path: Path,
    *,
    title: str = "",
    columns: int = 5,
) -> None:
    """Search hits, the best first, each with its score and caption; `title` is what was searched for."""
    texts = [f"{score:.3f}\n{caption}" for score, caption in zip(scores, captions, strict=True)]
    gallery_figure(pictures, texts, path, columns=max(1, min(columns, len(pictures))), title=title)


def retrieval_figure(
    queries: Sequence[str], hits: Sequence[Sequence[Pixels]], right: Sequence[Sequence[bool]], path: Path
) -> None:
    """Each query beside its hits, the best first; right ones are framed in green, wrong ones in gray."""
    cell, columns = 1.5, 1 + max((len(row) for row in hits), default=0)
    figure, axis = _sheet(cell * columns, cell * max(1, len(queries)))
    for line, (query, row, flags) in enumerate(zip(queries, hits, right, strict=False)):
        text = "\n".join(textwrap.wrap(query, 20, max_lines=7, placeholder=" …"))
        axis.text(cell - 0.1, cell * (line + 0.5), text, fontsize=9, ha="right", va="center", parse_math=False)
        for place, (picture, is_right) in enumerate(zip(row, flags, strict=False), 1):
            frame = {"color": RIGHT, "linewidth": 4} if is_right else {"color": "lightgray", "linewidth": 1}
            _put(axis, picture, cell * place + 0.05, cell * line + 0.05, cell - 0.1, frame)
    _save(figure, path)


def confusion_figure(
    confusion: Float[np.ndarray, "c c"], names: Sequence[str], path: Path, *, most_classes: int = 30
) -> None:
    """Which classes (rows) were given which names (columns), as shares of each row.

    Of more than `most_classes` classes only those with the most errors are shown.
    """
    wrong = confusion.sum(0) + confusion.sum(1) - 2 * np.diagonal(confusion)
    shown = np.sort(np.argsort(-wrong, kind="stable")[:most_classes])
    shares = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1e-12))[np.ix_(shown, shown)]
    size = 2.2 + 0.36 * len(shown)
    figure, axes = _subplots(1, 1, (size + 0.6, size))
    axis = axes[0, 0]
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [textwrap.shorten(names[int(i)], 24, placeholder=" …") for i in shown]
    axis.set_xticks(range(len(shown)), labels=labels, fontsize=8, rotation=60, ha="right", parse_math=False)
    axis.set_yticks(range(len(shown)), labels=labels, fontsize=8, parse_math=False)
    axis.set(xlabel="given", ylabel="true")
    if len(shown) < len(names):
        axis.set_title(f"the {len(shown)} of {len(names)} classes with the most errors", fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.7)
    _save(figure, path)


def calibration_figure(
    cosines: Float[np.ndarray, " n"],
    true_share: Float[np.ndarray, " n"],
    false_share: Float[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    path: Path,
    *,
    threshold: float | None = None,
) -> None:
    """What a cosine means: the shares of true and of false pairs that reach it, and the probability of a true pair."""
    figure, axes = _subplots(1, 1, (5.4, 3.6))
    axis = axes[0, 0]
    axis.plot(cosines, true_share, color=RIGHT, label="true pairs that reach it")
    axis.plot(cosines, false_share, color="tab:gray", label="false pairs that reach it")
    axis.plot(cosines, probability, color="tab:blue", linestyle="--", label="probability of a true pair")
    if threshold is not None:
        axis.axvline(threshold, color="black", linewidth=0.8, label=f"threshold {threshold:.3f}")
    axis.set(xlabel="cosine", ylabel="share, probability", ylim=(-0.02, 1.02))
    axis.legend(frameon=False, fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))  # off the lines
    _save(figure, path)


def interpolation_figure(
    alphas: Sequence[float],
    new: Sequence[tuple[float, float, float]],
    old: Sequence[tuple[float, float, float]],
    path: Path,
    *,
    score: str,
    best: float,
) -> None:
    """Scores (value, low, high) on the new and the old data: against alpha, and against each other."""
    figure, axes = _subplots(1, 2, (9.0, 3.8))
    for values, label, colour in ((new, "new data", "tab:blue"), (old, "old data", "tab:orange")):
        value, low, high = zip(*values, strict=True)
        axes[0, 0].plot(alphas, value, marker=".", color=colour, label=label)
        axes[0, 0].fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
    axes[0, 0].axvline(best, color="black", linewidth=0.8, label=f"best, alpha {best:g}")
    axes[0, 0].set(xlabel="alpha: 0 the original, 1 the tuned model", ylabel=score)
    axes[0, 0].legend(frameon=False, fontsize=8)
    across, up = [point[0] for point in old], [point[0] for point in new]
    axes[0, 1].plot(across, up, marker="o", color="tab:gray")
    for alpha, x, y in zip(alphas, across, up, strict=True):
        axes[0, 1].annotate(f"{alpha:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes[0, 1].set(xlabel=f"{score}, old data", ylabel=f"{score}, new data")
    _save(figure, path)


def growth_figure(
    sweeps: Sequence[tuple[str, str, Sequence[int], Mapping[str, Sequence[int]]]], path: Path, unit: str = "GFLOP"
) -> None:
    """How costs grow, on logarithmic axes, with their values in a table below.

    Of each sweep: what grows, what is held, its sizes, and the FLOPs by name at each of them.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = _subplots(2, len(sweeps), (5.4 * len(sweeps), 5.4), height_ratios=(3.0, 1.4))
    for (label, held, sizes, flops), axis, below in zip(sweeps, axes[0], axes[1], strict=True):
        for style, (name, values) in zip(("o-", "s-", "D--", "^-"), flops.items(), strict=False):
            axis.plot(sizes, [value / 1e9 for value in values], style, markersize=4, label=name)  # some are one line
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel=f"{unit}, a training step on one row")
        axis.set_title(held, fontsize=10)
        axis.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid(color="0.9")
        axis.legend(frameon=False, fontsize=9)
        cells = [[f"{v / 1e9:,.0f}" if v >= 1e11 else f"{v / 1e9:.2g}" for v in values] for values in flops.values()]
        table = below.table(
            cells,
            rowLabels=list(flops),
            colLabels=[str(size) for size in sizes],
            loc="center",
            cellLoc="center",
            edges="horizontal",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        below.axis("off")
    _save(figure, path)


def _subplots(
    lines: int, columns: int, size: tuple[float, float], height_ratios: Sequence[float] | None = None
) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a Figure of its own needs no display and no global state

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False, height_ratios=height_ratios)


def _sheet(width: float, height: float) -> tuple[Any, Any]:
    """A figure of one axis without scales, in inches from its upper left corner.

    Pictures are put on it side by side: with an axis for each of them most of the time goes into axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    return figure, axis


def _put(
    axis: Any, picture: np.ndarray, left: float, top: float, side: float, frame: dict[str, Any] | None = None
) -> float:
    """A picture in the middle of a square, as large as it fits; returns where it ends below."""
    from matplotlib.patches import Rectangle

    height, width = (side * length / max(picture.shape[:2]) for length in picture.shape[:2])
    left, top = left + (side - width) / 2, top + (side - height) / 2
    axis.imshow(picture, extent=(left, left + width, top + height, top), aspect="auto")
    if frame is not None:
        axis.add_patch(Rectangle((left, top), width, height, fill=False, **frame))
    return top + height


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # it draws a box; the text is in the files
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.1)  # texts below the last axes too
