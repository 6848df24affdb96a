"""Every kind of picture becomes upright RGB with the right colours; whatever cannot be read says why."""

import contextlib
import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiasm.data.picture import MAX_PIXELS, BrokenPicture, read_picture
from chiasm.errors import UserError

WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def halves(left=RED, right=BLUE, size=(16, 16), mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def pixels(picture, **options):
    found = read_picture(picture, **options)
    assert found.dtype == np.uint8 and found.shape[2] == 3
    return found


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_lossless_files_keep_every_pixel(form, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(array), form, **({"lossless": True} if form == "WEBP" else {}))
    path = tmp_path / "picture.jpg"  # whatever its name says
    path.write_bytes(data)
    for picture in (data, path, array):
        np.testing.assert_array_equal(pixels(picture), array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation, form):
    upright = Image.new("RGB", (32, 48), WHITE)
    upright.paste(RED, (0, 0, 16, 24))  # red above left tells all eight apart, together with
    upright.paste(BLUE, (16, 0, 32, 24))  # blue above right
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    got = pixels(encoded(stored, form, exif=exif, **options))
    assert got.shape == (48, 32, 3)
    for (row, column), colour in {(8, 6): RED, (8, 26): BLUE, (40, 6): WHITE, (40, 26): WHITE}.items():
        assert np.abs(got[row, column].astype(int) - colour).max() < 12


def test_transparency_lies_on_white_and_not_on_what_hides_below():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (255, 0, 0, 255), (0, 0, 0, 128)])
    got = pixels(encoded(image, "PNG"))[0]
    assert got.tolist() == [[255, 255, 255], [255, 0, 0], [127, 127, 127]]


def test_transparency_of_grey_palette_and_colour_key():
    grey = Image.merge("LA", (Image.new("L", (2, 2), 10), Image.new("L", (2, 2), 0)))
    assert (pixels(encoded(grey, "PNG")) == 255).all()
    palette = halves().quantize(2)
    clear = palette.getpixel((0, 0))
    for transparency in (clear, bytes(0 if i == clear else 255 for i in range(2))):
        got = pixels(encoded(palette, "PNG", transparency=transparency))
        assert (got[:, :8] == WHITE).all() and (got[:, 8:] == BLUE).all()
    got = pixels(encoded(halves(), "PNG", transparency=RED))
    assert (got[:, :8] == WHITE).all() and (got[:, 8:] == BLUE).all()


@pytest.mark.parametrize("mode", ["P", "1", "L"])
def test_few_colours(mode):
    got = pixels(encoded(halves((255,) * 3, (0,) * 3).convert(mode), "PNG"))
    assert (got[:, :8] == 255).all() and (got[:, 8:] == 0).all()


def test_cmyk_jpeg_has_the_colours_that_were_meant():
    got = pixels(encoded(halves(RED, WHITE).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(got[8, 3].astype(int) - RED).max() < 12
    assert np.abs(got[8, 13].astype(int) - WHITE).max() < 12


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_from_the_full_range(form):
    values = np.array([[0, 255, 256, 32768, 65278, 65535]], dtype=np.uint16)
    expected = [0, 1, 1, 128, 254, 255]
    assert pixels(encoded(Image.fromarray(values), form))[0, :, 0].tolist() == expected
    assert pixels(values)[0, :, 1].tolist() == expected
    assert pixels(values.astype(np.int32))[0, :, 2].tolist() == expected


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_from_the_range_they_use(top):
    values = np.array([[0, 0.5, 1]], dtype=np.float32) * np.float32(top)
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    assert pixels(np.array([[np.nan, top]], dtype=np.float32))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    got = pixels(encoded(frames[0], form, save_all=True, append_images=frames[1:]))
    assert np.abs(got.astype(int) - RED).max() < 8


def test_one_pixel_and_arrays_of_other_shapes():
    assert pixels(encoded(Image.new("RGB", (1, 1), RED), "PNG")).tolist() == [[list(RED)]]
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (grey, grey[..., None]):
        np.testing.assert_array_equal(pixels(array), np.stack([grey] * 3, axis=-1))
    clear = np.zeros((2, 3, 4), dtype=np.uint8)
    assert (pixels(clear) == 255).all()


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    least=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    orientation=st.sampled_from([1, 6]),
)
@settings(max_examples=30, deadline=None)
def test_a_reduced_jpeg_is_never_smaller_than_asked_nor_another_picture(width, height, least, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (width, height), GREEN), "JPEG", exif=exif)
    full, reduced = pixels(data), pixels(data, at_least_pixels=least)
    for side in (0, 1):
        assert min(full.shape[side], least[side]) <= reduced.shape[side] <= full.shape[side]
    assert np.abs(reduced.astype(int) - full[0, 0]).max() < 8


def test_a_large_jpeg_is_really_reduced():
    data = encoded(halves(size=(800, 400)), "JPEG")
    assert pixels(data, at_least_pixels=(50, 50)).shape == (50, 100, 3)
    assert pixels(encoded(halves(size=(800, 400)), "PNG"), at_least_pixels=(50, 50)).shape == (400, 800, 3)


JPEG = encoded(Image.effect_noise((64, 64), 50), "JPEG")
PNG = encoded(Image.effect_noise((64, 64), 50), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a dog in the snow\n" * 100, "known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "known format"),
        (JPEG[:10], "Truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (png_that_claims(12_000, 9_000), "million pixels"),  # Pillow only warns
        (png_that_claims(100_000, 100_000), "million pixels"),  # Pillow raises
        (encoded(Image.new("1", (20_000, 5_000)), "PNG"), "million pixels"),  # a real bomb
    ],
)
def test_what_cannot_be_read_says_why(data, reason, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    for picture in (data, path):
        with pytest.raises(BrokenPicture, match=reason) as raised:
            read_picture(picture)
        assert len(raised.value.reason) < 100 and "0x" not in raised.value.reason
        assert isinstance(raised.value, UserError)


def test_missing_files_folders_and_empty_arrays(tmp_path):
    with pytest.raises(BrokenPicture, match="No such file"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(BrokenPicture, match="directory"):
        read_picture(tmp_path)
    with pytest.raises(BrokenPicture, match="no pixels"):
        read_picture(np.zeros((0, 4, 3), dtype=np.uint8))


def test_just_below_the_limit_is_read():
    side = int(MAX_PIXELS**0.5)
    assert read_picture(encoded(Image.new("1", (side, 8)), "PNG")).shape == (8, side, 3)


@given(cut=st.integers(0, len(JPEG)), place=st.integers(0, len(JPEG) - 1), value=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_damage_raises_nothing_but_broken_picture(cut, place, value):
    for data in (JPEG, PNG):
        damaged = bytearray(data)
        damaged[place % len(data)] = value
        for picture in (bytes(damaged), bytes(damaged[:cut])):
            with contextlib.suppress(BrokenPicture):
                read_picture(picture)


def test_pillows_warnings_reach_nobody_in_any_thread():
    palette = encoded(halves().quantize(2), "GIF", transparency=0)
    odd = [palette, JPEG[:300], png_that_claims(12_000, 9_000), encoded(halves(), "TIFF")[:-40]]

    def read():
        for picture in odd * 20:
            with contextlib.suppress(BrokenPicture):
                read_picture(picture)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not caught
