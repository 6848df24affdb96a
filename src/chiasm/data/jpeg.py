"""Plain JPEGs straight to pixels by libjpeg-turbo: the same as Pillow's, without its copies."""

from __future__ import annotations

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag of how a camera was held: 1 upright, up to 8."""

_START, _EXIF, _XMP = b"\xff\xd8\xff", b"Exif\0\0", b"Orientation"
_SEGMENT_BYTES = 2**16
"""The most that a segment of a JPEG's header holds, such as its EXIF."""
_SPACES = ("YCbCr", "Gray", "RGB")
"""What becomes RGB by itself; CMYK needs Pillow's conversion."""


def decode_jpeg(
    content: bytes, *, at_least_pixels: tuple[int, int] | None, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """The pixels of an upright, sound JPEG of no more than so many pixels; None for anything else, which Pillow judges.

    With `at_least_pixels` (height, width) at the smallest of the scales 1/8, 1/4, 1/2 and 1 that is no smaller.
    """
    if not content.startswith(_START):
        return None
    try:
        *sides, space, _ = simplejpeg.decode_jpeg_header(content)
        height, width = map(int, sides)
        if space not in _SPACES or height * width > max_pixels or _turned(content):
            return None
        least = at_least_pixels or (height, width)
        part = next((part for part in (8, 4, 2) if height >= part * least[0] and width >= part * least[1]), 1)
        return simplejpeg.decode_jpeg(
            content, min_height=-(-height // part), min_width=-(-width // part), min_factor=part
        )
    except Exception:  # damaged, if only a little, or its EXIF is: Pillow says whether it can be read
        return None


def _turned(content: bytes) -> bool:
    """Whether EXIF or XMP may say that the picture does not stand upright; whatever EXIF raises where it is damaged."""
    start = content.find(_EXIF)
    if start >= 0:
        exif = Image.Exif()
        exif.load(content[start : start + _SEGMENT_BYTES])
        if exif.get(ORIENTATION, 1) != 1:
            return True
    return _XMP in content


__all__ = ["ORIENTATION", "decode_jpeg"]
