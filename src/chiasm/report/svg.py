"""A matplotlib figure as inline SVG: its colours and its type are the page's, light or dark, on a phone or a desk."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

INK, MUTED, LINE, PAPER = "#00f001", "#00f002", "#00f003", "#00f004"
"""Colours that stand for those of style.css, which follow the reader's light or dark scheme."""
ARMS = tuple(f"#00f1{place:02x}" for place in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""An arm is told by shape as well as by colour."""

TEXT_PIXELS = 12
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {
    colour: f"--arm-{place}" for place, colour in enumerate(ARMS, 1)
}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp, found by a search, read aloud
    "svg.hashsalt": "chiasm",  # equal drawings are written equally
    "font.size": TEXT_PIXELS,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": TEXT_PIXELS,
    "axes.titlesize": TEXT_PIXELS,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing in two widths, of which the page shows the one that fits, and what it says in words."""

    alt: str
    wide: Markup
    narrow: Markup | None = None


def picture(
    draw: Callable[[Any], None], alt: str, size_pixels: tuple[int, int], narrow_pixels: tuple[int, int] | None = None
) -> Picture:
    """What `draw` draws on a matplotlib `Figure`, once for each size; colours are this module's."""
    narrow = None if narrow_pixels is None else _svg(draw, alt, narrow_pixels)
    return Picture(alt=alt, wide=_svg(draw, alt, size_pixels), narrow=narrow)


def _svg(draw: Callable[[Any], None], alt: str, size_pixels: tuple[int, int]) -> Markup:
    import matplotlib
    from matplotlib.figure import Figure

    width, height = size_pixels
    written = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's browser has others
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")  # SVG's unit is a 72nd of an inch
        draw(figure)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_for_the_page(written.getvalue(), alt, width, height))


def _for_the_page(svg: str, alt: str, width: int, height: int) -> str:
    """Without the head of a file, with names of its own, and with colours and type left to the page."""
    svg = svg[svg.index("<svg") :]
    for junk in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        svg = re.sub(junk, "", svg, flags=re.S)
    opening = f'<svg role="img" aria-label="{Markup.escape(alt)}" viewBox="0 0 {width} {height}" width="{width}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = _own_names(re.sub(r"<[^>]+>", _tag_for_the_page, svg))  # tags alone: texts between them are the user's
    return re.sub(r"\s*\n\s*", " ", svg)


def _tag_for_the_page(found: re.Match[str]) -> str:
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", found[0])
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag)


def _own_names(svg: str) -> str:
    """Names that nothing refers to are dropped, the others become its own: many drawings share a page."""
    used = set(re.findall(r'(?:href="#|url\(#)([\w.]+)', svg))
    prefix = f"d{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"

    def renamed(found: re.Match[str]) -> str:
        kept = re.sub(r' id="([^"]*)"', lambda name: f' id="{prefix}{name[1]}"' if name[1] in used else "", found[0])
        return re.sub(r'(href="#|url\(#)', rf"\1{prefix}", kept)

    return re.sub(r"<[^>]+>", renamed, svg)


__all__ = ["ARMS", "INK", "LINE", "MARKERS", "MUTED", "PAPER", "TEXT_PIXELS", "Picture", "picture"]
