"""Any picture, whatever file or array it comes as, to upright RGB: the same way in training and in inference."""

from __future__ import annotations

import io
import re
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from chiasm.data.jpeg import ORIENTATION, decode_jpeg
from chiasm.errors import UserError
from chiasm.types import Example, Picture

MAX_PIXELS = 89_478_485
"""Larger pictures count as decompression bombs; it is Pillow's own limit (a quarter of a gigabyte of RGB)."""

# EPS, WMF and the like stay out: Pillow hands them to other programs. So do formats that are recognised by guesswork.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenPicture(UserError):  # noqa: N818 (what it names is the picture)
    """A picture that cannot be read; `reason` is a few words for the quarantine list."""

    def __init__(self, reason: str):
        super().__init__(f"The picture cannot be read: {reason}", "Open it in a viewer; replace or remove it.")
        self.reason = reason


def picture_of(example: Example) -> Picture:
    """The picture of an example; BrokenPicture where it has none."""
    if example.image is None:
        raise BrokenPicture("it has no picture")
    return example.image


def read_picture(
    picture: Picture, *, at_least_pixels: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as upright 8-bit RGB, transparency on white, of animations the first frame.

    With `at_least_pixels` (height, width) a larger JPEG is decoded at a reduced scale, several times faster, never
    smaller than that. Raises BrokenPicture for whatever cannot be read, and for more than MAX_PIXELS.
    """
    try:
        content = picture.read_bytes() if isinstance(picture, Path) else picture
        if isinstance(content, bytes):
            pixels = decode_jpeg(content, at_least_pixels=at_least_pixels, max_pixels=MAX_PIXELS)
            if pixels is not None:
                return pixels
        return _by_pillow(content, at_least_pixels)
    except BrokenPicture:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise BrokenPicture(_reason(error)) from error


def _by_pillow(
    content: bytes | np.ndarray, at_least_pixels: tuple[int, int] | None
) -> UInt8[np.ndarray, "height width 3"]:
    _silence_pillow()
    with _open(content) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if at_least_pixels and min(image.size) >= 2 * min(at_least_pixels):  # else there is nothing to reduce
            height, width = at_least_pixels
            image.draft(None, (height, width) if _orientation(image) >= 5 else (width, height))
        image.load()
        return np.array(_on_white(_eight_bit(_upright(image))))


def _silence_pillow() -> None:
    """Ignore what Pillow warns of in odd files: we either read them right or raise.

    One lasting filter for Pillow alone, since `warnings.catch_warnings` is not safe with threads.
    """
    if ("ignore", None, Warning, re.compile("PIL"), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module="PIL")


def _open(content: bytes | np.ndarray) -> Image.Image:
    if isinstance(content, np.ndarray):
        if content.size == 0:
            raise BrokenPicture("it has no pixels")
        return Image.fromarray(content[..., 0] if content.shape[2:] == (1,) else content)
    if not content:
        raise BrokenPicture("the file is empty")
    return Image.open(io.BytesIO(content), formats=_formats())


@lru_cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF beside sound pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled from its full range (Pillow's own conversion clips at 255), floats from the range they use."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    top = 65535.0
    if image.mode == "F":
        top = next((top for top in (1.0, 255.0) if values.max() <= top), top)
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0] or type(error).__name__
