"""`chiasm search`: the pictures of an index that are nearest to words, to a picture, or to both."""

from __future__ import annotations

import json as _json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from chiasm.data.picture import BrokenPicture, read_picture
from chiasm.figures import gallery_figure
from chiasm.index import Hit, open_index
from chiasm.predict import ClipPredictor

GRID_PIXELS = 256
COLUMNS = 5


def search(
    index: str,
    query: tuple[str, ...] = (),
    *,
    image: Path | None = None,
    k: int = 10,
    where: str | None = None,
    grid: Path | None = None,
    json: bool = False,
    run: Path | None = None,
) -> int:
    """Find pictures by words, by a picture, or by both together.

    Prints a line per picture, the nearest first: cosine, probability that the words are true of it (where the model was
    calibrated), path or id, text.

    Args:
        index: what `chiasm index` made
        query: words
        image: a picture to which similar ones are looked for
        k: how many pictures
        where: only pictures of which this is true, in SQL on id, path, texts, tags, label and group: "label = 'dog'"
        grid: draw the pictures into this file
        json: one JSON object per picture
        run: the run or bundle that the index was made with, where it has moved
    """
    opened = open_index(index, ClipPredictor.load(run) if run is not None else None)
    hits = opened.search(" ".join(query), image=image, k=k, where=where)
    matches = opened.matches(hits, where)
    if matches is False:
        print(_no_match(hits, where), file=sys.stderr)
    for hit in hits:
        print(_as_json(hit, matches) if json else _as_line(hit))
    if grid is not None and hits:
        texts = [f"{hit.score:.3f}{_chance(hit)}\n{hit.texts[0] if hit.texts else hit.id}" for hit in hits]
        gallery_figure([_drawn(hit) for hit in hits], texts, grid, columns=min(COLUMNS, len(hits)))
    return 0


def _no_match(hits: list[Hit], where: str | None) -> str:
    if not hits:
        return f"nothing is in the index{f' of which this is true: {where}' if where else ''}"
    return f"nothing matches; the nearest has{_chance(hits[0])} probability of being what was asked for"


def _chance(hit: Hit) -> str:
    return "" if hit.probability is None else f" {hit.probability:.0%}"


def _as_line(hit: Hit) -> str:
    chance = "" if hit.probability is None else f"{hit.probability:.2f}"
    return "\t".join([f"{hit.score:.3f}", chance, hit.path or hit.id, "; ".join(hit.texts)])


def _as_json(hit: Hit, matches: bool | None) -> str:
    data = {name: value for name, value in asdict(hit).items() if name != "thumbnail"}
    return _json.dumps(data | {"matches": matches}, ensure_ascii=False)


def _drawn(hit: Hit) -> np.ndarray:
    """The picture for the grid, white if its file has gone since."""
    try:
        return read_picture(hit.picture, at_least_pixels=(GRID_PIXELS, GRID_PIXELS))
    except BrokenPicture:
        return np.full((GRID_PIXELS, GRID_PIXELS, 3), 255, np.uint8)
