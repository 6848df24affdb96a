"""Pictures of results: learning curves, attention over a picture, pictures with their captions."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

Pixels = UInt8[np.ndarray, "height width 3"]


def curves_figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Training and validation loss, and learning rate, against steps."""
    figure, axes = _subplots(1, 2, (9.0, 3.6))
    for name, label in (("loss", "training, as minimised"), ("val_token_loss", "validation")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes[0, 0].plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
    axes[0, 0].set(xlabel="step", ylabel="loss per token, nats")
    if axes[0, 0].lines:
        axes[0, 0].legend(frameon=False)
    points = [(row["step"], row["learning_rate"]) for row in rows if row.get("learning_rate") is not None]
    if points:
        axes[0, 1].plot(*zip(*points, strict=True), color="tab:gray")
    axes[0, 1].set(xlabel="step", ylabel="learning rate")
    _save(figure, path)


def attention_figure(
    picture: Pixels, words: Sequence[str], maps: Float[np.ndarray, "l rows columns"], path: Path
) -> None:
    """The picture once per word, lit where the decoder looked when it wrote that word."""
    columns = min(len(words) + 1, 6)
    lines = -(-(len(words) + 1) // columns)
    figure, axes = _subplots(lines, columns, (1.9 * columns, 2.15 * lines))
    flat = axes.ravel()
    for axis in flat:
        axis.axis("off")
    flat[0].imshow(picture)
    flat[0].set_title("picture", fontsize=10)
    height, width = picture.shape[:2]
    gray = picture.mean(-1)
    for axis, word, seen in zip(flat[1:], words, maps, strict=False):
        axis.imshow(gray, cmap="gray", vmin=-80, vmax=255)
        axis.imshow(
            seen, cmap="inferno", alpha=0.65, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bicubic"
        )
        axis.set_title(word, fontsize=10, parse_math=False)
    _save(figure, path)


def gallery_figure(
    pictures: Sequence[Pixels], captions: Sequence[str], path: Path, *, colours: Sequence[str] = (), columns: int = 8
) -> None:
    """Pictures in a grid with their captions below; `colours` of the captions, black where none are given."""
    lines = max(1, -(-len(pictures) // columns))
    figure, axes = _subplots(lines, columns, (1.6 * columns, 2.1 * lines))
    for axis in axes.ravel():
        axis.axis("off")
    for place, (axis, picture, caption) in enumerate(zip(axes.ravel(), pictures, captions, strict=False)):
        axis.imshow(picture)
        text = "\n".join("\n".join(textwrap.wrap(line, 22)) for line in caption.split("\n"))
        below = {"transform": axis.transAxes, "ha": "center", "va": "top", "parse_math": False}
        axis.text(0.5, -0.04, text, fontsize=7, color=colours[place] if colours else "black", **below)
    _save(figure, path)


def _subplots(lines: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a Figure of its own needs no display and no global state

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # it draws a box; the text is in the files
        figure.savefig(path, dpi=110)
