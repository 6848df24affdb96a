"""libjpeg-turbo's pixels are Pillow's, of every JPEG that it takes; what it does not take, Pillow judges."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiasm.data.jpeg import ORIENTATION, decode_jpeg
from chiasm.data.picture import MAX_PIXELS, read_picture

RIGHT_WAY_UP, TURNED = 1, 6


def jpeg(size=(40, 30), mode="RGB", **options):
    width, height = size
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
    grain = rng.integers(-9, 10, (height, width, 3))
    image = Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def decoded(content, least=None):
    return decode_jpeg(content, at_least_pixels=least, max_pixels=MAX_PIXELS)


def exif(orientation):
    found = Image.Exif()
    found[ORIENTATION] = orientation
    return found


def by_pillow(content, least):
    with Image.open(io.BytesIO(content)) as image:
        if least:
            image.draft(None, least[::-1])
        return np.array(image.convert("RGB"))


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    least=st.none() | st.tuples(st.integers(1, 150), st.integers(1, 150)),
    mode=st.sampled_from(["RGB", "L"]),
    options=st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "progressive": st.booleans(),
            "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
        }
    ),
)
@settings(max_examples=100, deadline=None)
def test_pixels_are_pillows_at_every_scale(size, least, mode, options):
    content = jpeg(size, mode, **options)
    np.testing.assert_array_equal(decoded(content, least), by_pillow(content, least))


def test_exif_of_an_upright_picture_is_no_hindrance_and_of_a_turned_one_is():
    assert decoded(jpeg(exif=exif(RIGHT_WAY_UP))) is not None
    assert decoded(jpeg(exif=Image.Exif())) is not None
    assert decoded(jpeg(exif=exif(TURNED))) is None
    assert decoded(jpeg(xmp=b'<x:xmpmeta tiff:Orientation="6"/>')) is None
    filled = jpeg(exif=exif(TURNED)).replace(b"\xff\xe1", b"\xff\xff\xe1", 1)  # a marker may be filled
    assert decoded(filled) is None and read_picture(filled).shape == (40, 30, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff",
        b"a dog in the snow",
        jpeg(mode="CMYK"),
        jpeg()[:200],
        jpeg()[:-60],
        jpeg(exif=b"Exif\0\0MM\0*\0\0\xff\xff"),  # the EXIF points nowhere
    ],
)
def test_what_is_odd_is_left_to_pillow(content):
    assert decoded(content) is None


def test_too_many_pixels_are_left_to_pillow():
    content = jpeg((40, 30))
    assert decode_jpeg(content, at_least_pixels=None, max_pixels=40 * 30 - 1) is None
    assert decode_jpeg(content, at_least_pixels=None, max_pixels=40 * 30) is not None


@given(place=st.integers(2, 700), value=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_byte_gives_pillows_pixels_or_none(place, value):
    damaged = bytearray(jpeg())
    damaged[place % len(damaged)] = value
    found = decoded(bytes(damaged))
    if found is not None:
        np.testing.assert_array_equal(found, by_pillow(bytes(damaged), None))


def test_a_plain_jpeg_never_reaches_pillow(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert read_picture(jpeg()).shape == (30, 40, 3)
