"""The contact sheet: a picture file that shows some examples of every split with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chiasm.data.picture import BrokenPicture, picture_of, read_picture
from chiasm.data.source import Source, picture_key
from chiasm.types import Example

GAP_PIXELS = 12
LINE_PIXELS = 16
TEXT_PIXELS = 12
TITLE_PIXELS = 20
CAPTION_LINES = 4
CAPTION_PIXELS = CAPTION_LINES * LINE_PIXELS + 4


def contact_sheet(
    source: Source, path: Path, *, columns: int = 8, rows_per_split: int = 2, side_pixels: int = 128
) -> None:
    """Write a PNG with `columns` x `rows_per_split` examples of each split, evenly spaced, their first captions below.

    A picture that cannot be read is a grey square with the reason.
    """
    cell_width, cell_height = side_pixels + GAP_PIXELS, side_pixels + CAPTION_PIXELS + GAP_PIXELS
    chosen = {name: _choose(source.split(name), columns * rows_per_split) for name in source.splits}
    heights = [TITLE_PIXELS + GAP_PIXELS + -(-len(some) // columns) * cell_height for some in chosen.values()]
    sheet = Image.new("RGB", (GAP_PIXELS + columns * cell_width, GAP_PIXELS + sum(heights)), "white")
    top = GAP_PIXELS
    for (name, examples), height in zip(chosen.items(), heights, strict=True):
        title = f"{name}: {len(source.splits[name]):,} pictures"
        ImageDraw.Draw(sheet).text((GAP_PIXELS, top), title, fill="black", font=_font(TITLE_PIXELS - 4))
        for place, example in enumerate(examples):
            row, column = divmod(place, columns)
            corner = (GAP_PIXELS + column * cell_width, top + TITLE_PIXELS + GAP_PIXELS // 2 + row * cell_height)
            sheet.paste(_cell(example, side_pixels), corner)
        top += height
    sheet.save(path, "PNG")


def _choose(examples: Sequence[Example], count: int) -> list[Example]:
    places = np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int)
    return [examples[int(place)] for place in places]


def _cell(example: Example, side_pixels: int) -> Image.Image:
    """One picture, fitted into a square, and its caption."""
    cell = Image.new("RGB", (side_pixels, side_pixels + CAPTION_PIXELS), "white")
    draw = ImageDraw.Draw(cell)
    font = _font(TEXT_PIXELS)
    try:
        picture = Image.fromarray(read_picture(picture_of(example)))
        scale = side_pixels / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        way = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
        cell.paste(picture.resize((width, height), way), ((side_pixels - width) // 2, (side_pixels - height) // 2))
    except BrokenPicture as error:
        draw.rectangle((0, 0, side_pixels - 1, side_pixels - 1), fill="lightgrey")
        _write(draw, (4, side_pixels // 3), f"broken: {error.reason}", font, side_pixels - 8)
    draw.rectangle((0, 0, side_pixels - 1, side_pixels - 1), outline="silver")
    more = f" (+{len(example.texts) - 1})" if len(example.texts) > 1 else ""
    more += f" {example.label}" if picture_key(example) != example.key else ""
    _write(draw, (0, side_pixels + 2), (example.texts[0] if example.texts else "") + more, font, side_pixels)
    return cell


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, width_pixels: int
) -> None:
    for number, line in enumerate(_wrap(text, font, width_pixels)):
        draw.text((corner[0], corner[1] + number * LINE_PIXELS), line, fill="black", font=font)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width_pixels: int) -> list[str]:
    """At most CAPTION_LINES lines of at most the width; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width_pixels:
            lines[-1] = joined
        else:
            lines.append(word)
    shown = lines[:CAPTION_LINES]
    if len(lines) > CAPTION_LINES:
        shown[-1] += " …"
    return [_cut(line, font, width_pixels) for line in shown]


def _cut(line: str, font: ImageFont.FreeTypeFont, width_pixels: int) -> str:
    if font.getlength(line) <= width_pixels:
        return line
    while line and font.getlength(line + "…") > width_pixels:
        line = line[:-1]
    return line + "…"


def _font(size_pixels: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and knows most alphabets."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size_pixels)


__all__ = ["contact_sheet"]
