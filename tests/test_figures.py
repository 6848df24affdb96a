"""Figures hold what they are given: sizes, captions, light where the map is bright."""

import numpy as np
from PIL import Image

from chiasm.figures import attention_figure, curves_figure, gallery_figure

GRAY = np.full((16, 16, 3), 128, np.uint8)


def _shown(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_attention_lights_the_place_that_was_looked_at(tmp_path):
    left = np.zeros((1, 2, 2), np.float32)
    left[0, :, 0] = 1.0
    attention_figure(GRAY, ["word"], left, tmp_path / "left.png")
    attention_figure(GRAY, ["word"], left[:, :, ::-1].copy(), tmp_path / "right.png")
    one, other = _shown(tmp_path / "left.png"), _shown(tmp_path / "right.png")
    assert one.shape == other.shape
    differs = np.abs(one - other).sum(-1)
    assert differs.max() > 100
    columns = np.flatnonzero(differs.max(0) > 60)
    middle = (columns.min() + columns.max()) // 2
    brightness = [[x[:, columns.min() : middle].mean(), x[:, middle : columns.max()].mean()] for x in (one, other)]
    assert brightness[0][0] > brightness[0][1]
    assert brightness[1][0] < brightness[1][1]


def test_attention_wraps_long_captions_into_lines(tmp_path):
    few, many = np.ones((2, 2, 2), np.float32), np.ones((13, 2, 2), np.float32)
    attention_figure(GRAY, list("ab"), few, tmp_path / "few.png")
    attention_figure(GRAY, list("abcdefghijklm"), many, tmp_path / "many.png")
    assert _shown(tmp_path / "many.png").shape[0] > 2 * _shown(tmp_path / "few.png").shape[0]


def test_gallery_colours_its_captions(tmp_path):
    gallery_figure([GRAY] * 3, ["a b c"] * 3, tmp_path / "g.png", colours=["#ff0000", "#0000ff", "#ff0000"], columns=3)
    shown = _shown(tmp_path / "g.png")
    assert ((shown[..., 0] > 200) & (shown[..., 2] < 80)).any()
    assert ((shown[..., 2] > 200) & (shown[..., 0] < 80)).any()


def test_curves_are_drawn_even_from_one_validation(tmp_path):
    rows = [{"step": float(i), "loss": 3.0 / i, "val_token_loss": None, "learning_rate": 0.1} for i in range(1, 9)]
    curves_figure(rows, tmp_path / "without.png")
    rows[-1]["val_token_loss"] = 2.5
    curves_figure(rows, tmp_path / "with.png")
    assert (_shown(tmp_path / "with.png") != _shown(tmp_path / "without.png")).any()


def test_curves_of_a_run_without_a_step(tmp_path):
    curves_figure([], tmp_path / "empty.png")
    assert _shown(tmp_path / "empty.png").shape[2] == 3


def test_any_caption_can_be_drawn(tmp_path):
    gallery_figure([GRAY] * 3, ["costs $5 to $7_a", "笑顔 😀", "{\\frac"], tmp_path / "g.png", columns=3)
    attention_figure(GRAY, ["$x^", "笑"], np.ones((2, 2, 2), np.float32), tmp_path / "a.png")
