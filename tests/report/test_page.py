"""Numbers in words, and pictures inside the page."""

import base64
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chiasm.report import page


@pytest.mark.parametrize(("value", "text"), [
    (0.87649, "0.876"), (-0.0001, "0.000"), (-0.115, "−0.115"), (12.345, "12.35"), (123.45, "123.5"), (math.nan, "–"),
])  # fmt: skip
def test_scores(value, text):
    assert page.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0004, "0.000"), (0.02, "+0.020"), (-0.02, "−0.020"), (11.0, "+11.00")])
def test_differences(value, text):
    assert page.signed(value) == text


@pytest.mark.parametrize(("share", "text"), [
    (0.0, "0 %"), (0.0004, "< 0.1 %"), (0.004, "0.4 %"), (0.0096, "1.0 %"), (0.014, "1 %"), (0.861, "86 %"),
    (0.986, "99 %"), (0.997, "99.7 %"), (0.9996, "> 99.9 %"), (1.0, "100 %"), (-0.03, "−3 %"), (math.nan, "–"),
])  # fmt: skip
def test_shares_are_rounded_to_all_or_nothing_only_where_they_are(share, text):
    assert page.percent(share) == text


@pytest.mark.parametrize(("p", "text"), [(0.0, "< 1 %"), (0.004, "< 1 %"), (0.861, "86 %"), (1.0, "> 99 %")])
def test_probabilities_are_never_certain(p, text):
    assert page.probability(p) == text


@pytest.mark.parametrize(("p", "text"), [(0.0, "< 0.001"), (0.0421, "0.042"), (0.46, "0.46"), (1.0, "1.00")])
def test_p_values(p, text):
    assert page.p_value(p) == text


@pytest.mark.parametrize(("value", "text"), [
    (0, "0 FLOP"), (512, "512 FLOP"), (999.7, "1 kFLOP"), (999_499, "999 kFLOP"), (999_600, "1 MFLOP"),
    (2.128e14, "213 TFLOP"), (3.02e21, "3.02e+03 EFLOP"),
])  # fmt: skip
def test_counts(value, text):
    assert page.short(value, "FLOP") == text


@given(st.floats(1, 1e20))
def test_counts_are_right_to_three_digits(value):
    words = page.short(value).split()
    sizes = {suffix: size for size, suffix in page.SUFFIXES}
    assert float(words[0]) * (sizes[words[1]] if len(words) > 1 else 1) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(("seconds", "text"), [
    (4.21, "4.21 s"), (59.94, "59.9 s"), (59.97, "1 min"), (61, "1 min 1 s"), (599.7, "10 min"), (3570, "1 h"),
    (3600, "1 h"), (7530, "2 h 6 min"),
])  # fmt: skip
def test_durations(seconds, text):
    assert page.duration(seconds) == text


def test_a_picture_inside_a_page_is_small_and_the_same(tmp_path):
    flat, noise = np.zeros((400, 300, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    flat[:200] = (200, 30, 30)
    for name, pixels in (("flat", flat), ("noise", noise)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    kind, drawing = opened(page.data_uri(tmp_path / "flat.png", 200))
    assert kind == "png" and drawing.size == (150, 200) and drawing.getpixel((75, 50)) == (200, 30, 30)
    kind, photograph = opened(page.data_uri(tmp_path / "noise.png", 200))
    assert kind == "jpeg" and photograph.size == (90, 90)
    assert np.abs(np.asarray(photograph, float).mean((0, 1)) - noise.mean((0, 1))).max() < 4
    kind, whole = opened(page.data_uri(tmp_path / "noise.png"))
    assert kind == "png" and np.array_equal(np.asarray(whole), noise)
    assert page.data_uri(tmp_path / "none.png") is None


def opened(uri):
    head, content = uri.split(";base64,")
    return head.removeprefix("data:image/"), Image.open(io.BytesIO(base64.b64decode(content)))
