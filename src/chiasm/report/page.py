"""One self-contained HTML file: templates, numbers in words, pictures inside the page."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
SUFFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Table:
    """Heads, and rows of cells: a text or markup, or a pair of a text and its small print; the first is a name."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]


def render(template: str, **values: Any) -> str:
    """A template of this room as a page; what comes from users is escaped."""
    return _environment().get_template(template).render(**values)


def data_uri(path: Path, most_pixels: int | None = None) -> str | None:
    """A PNG as the address of itself, no side over `most_pixels`; None where the file is missing or damaged."""
    if not path.is_file():
        return None
    if most_pixels is None:
        return _uri("png", path.read_bytes())
    try:
        return _small(path, most_pixels)
    except OSError:
        return None


def _small(path: Path, most_pixels: int) -> str:
    """As PNG or JPEG, whichever is shorter: drawings are one, photographs the other."""
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((most_pixels, most_pixels))
    png, jpeg = io.BytesIO(), io.BytesIO()
    picture.save(png, "png")
    picture.save(jpeg, "jpeg", quality=85)
    return min(_uri("png", png.getvalue()), _uri("jpeg", jpeg.getvalue()), key=len)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def number(value: float | int) -> str:
    """A score or a loss: three decimals, fewer where it is large."""
    if not math.isfinite(value):
        return "–"
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:.{decimals}f}".replace("-", "−") if round(value, decimals) else f"{0:.{decimals}f}"


def signed(value: float | int) -> str:
    """A difference, with its sign."""
    return f"+{number(value)}" if round(value, 3) > 0 else number(value)


def percent(share: float | int) -> str:
    """A share; what is little is not said to be nothing, nor what is much to be all."""
    if not math.isfinite(share):
        return "–"
    rest = min(share, 1 - share)
    if 0 < rest < 0.0005:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.{1 if 0 < rest < 0.01 else 0}f} %".replace("-", "−")


def probability(p: float | int) -> str:
    """A probability that was estimated: never 0, never 1."""
    return "< 1 %" if p < 0.01 else "> 99 %" if p > 0.99 else percent(p)


def p_value(p: float | int) -> str:
    """A p-value, to two digits or as a bound."""
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def short(value: float | int, unit: str = "") -> str:
    """A count in three digits: 3.02 M, 1.24 TFLOP, 512."""
    if not math.isfinite(value):
        return "–"
    for size, suffix in SUFFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {suffix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float | int) -> str:
    """Seconds as people say them: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def as_json(value: Any) -> str:
    """Settings as people read them."""
    return json.dumps(value, indent=2, ensure_ascii=False)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = (number, signed, percent, probability, p_value, short, duration, as_json)
    environment.filters.update({function.__name__: function for function in told})
    return environment


__all__ = [
    "Table",
    "as_json",
    "data_uri",
    "duration",
    "number",
    "p_value",
    "percent",
    "probability",
    "render",
    "short",
    "signed",
]
