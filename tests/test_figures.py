"""Figures hold what they are given: sizes, captions, light where the map is bright, frames where hits are right."""

import numpy as np
import pytest
from PIL import Image

from chiasm.figures import (
    attention_figure,
    calibration_figure,
    confusion_figure,
    curves_figure,
    gallery_figure,
    grid_figure,
    occlusion_figure,
    retrieval_figure,
)

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


def test_occlusion_lights_places_by_how_much_they_matter(tmp_path):
    def luminance(picture, fall, strongest=2.0):
        occlusion_figure(picture, np.full((2, 3), fall, np.float32), tmp_path / "lit.png", strongest=strongest)
        assert _shown(tmp_path / "lit.png").shape == picture.shape
        return float(_shown(tmp_path / "lit.png").mean((0, 1)) @ (0.2126, 0.7152, 0.0722))

    for gray in (0, 128, 255):
        picture = np.full((20, 30, 3), gray, np.uint8)
        steps = np.diff([luminance(picture, fall) for fall in (0.0, 0.5, 1.0, 1.5, 2.0)])
        assert steps.min() > 8
        assert luminance(picture, -3.0) == luminance(picture, 0.0)  # what spoke against it is not lit
        assert luminance(picture, 3.0) == luminance(picture, 2.0)
        assert luminance(picture, 2.0, strongest=4.0) == luminance(picture, 1.0)


def test_occlusion_lights_the_place_that_matters(tmp_path):
    fall = np.zeros((2, 3), np.float32)
    fall[1, 0] = 1.0
    occlusion_figure(np.full((20, 30, 3), 128, np.uint8), fall, tmp_path / "lit.png", strongest=1.0)
    cells = _shown(tmp_path / "lit.png").sum(-1).reshape(2, 10, 3, 10).mean((1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 0)
    assert cells[1, 0] > 2 * cells[0, 2]


def test_gallery_colours_its_captions(tmp_path):
    gallery_figure([GRAY] * 3, ["a b c"] * 3, tmp_path / "g.png", colours=["#ff0000", "#0000ff", "#ff0000"], columns=3)
    shown = _shown(tmp_path / "g.png")
    assert ((shown[..., 0] > 200) & (shown[..., 2] < 80)).any()
    assert ((shown[..., 2] > 200) & (shown[..., 0] < 80)).any()


@pytest.mark.parametrize("sides", [(16, 64), (64, 16), (30, 30)])
def test_gallery_keeps_the_shape_of_pictures(sides, tmp_path):
    blue = np.zeros((*sides, 3), np.uint8)
    blue[..., 2] = 255
    gallery_figure([blue, blue + np.uint8(128)], ["a", "b"], tmp_path / "g.png", columns=2)
    rows, columns = np.nonzero(_blue(_shown(tmp_path / "g.png")))
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(sides[0] / sides[1], rel=0.06)


def test_curves_are_drawn_even_from_one_validation(tmp_path):
    rows = [{"step": float(i), "loss": 3.0 / i, "val_loss": None, "learning_rate": 0.1} for i in range(1, 9)]
    curves_figure(rows, tmp_path / "without.png")
    rows[-1]["val_loss"] = 2.5
    curves_figure(rows, tmp_path / "with.png")
    assert (_shown(tmp_path / "with.png") != _shown(tmp_path / "without.png")).any()


def test_curves_of_a_run_without_a_step(tmp_path):
    curves_figure([], tmp_path / "empty.png")
    assert _shown(tmp_path / "empty.png").shape[2] == 3


def test_any_caption_can_be_drawn(tmp_path):
    gallery_figure([GRAY] * 3, ["costs $5 to $7_a", "笑顔 😀", "{\\frac"], tmp_path / "g.png", columns=3)
    attention_figure(GRAY, ["$x^", "笑"], np.ones((2, 2, 2), np.float32), tmp_path / "a.png")


def _green(shown):
    return (shown[..., 1] > shown[..., 0] + 60) & (shown[..., 1] > shown[..., 2] + 60)


def _blue(shown):
    return (shown[..., 2] > 120) & (shown[..., 0] < 60)


def test_retrieval_frames_the_right_hits_only(tmp_path):
    retrieval_figure(["a dog", "a cat"], [[GRAY] * 3] * 2, [[False] * 3] * 2, tmp_path / "none.png")
    assert not _green(_shown(tmp_path / "none.png")).any()
    retrieval_figure(["a dog", "a cat"], [[GRAY] * 3] * 2, [[True, False, False], [False] * 3], tmp_path / "one.png")
    rows, columns = np.nonzero(_green(_shown(tmp_path / "one.png")))
    height, width = _shown(tmp_path / "one.png").shape[:2]
    assert rows.max() < height / 2
    assert width / 4 - 12 < columns.min() < columns.max() < width / 2 + 12


def test_retrieval_has_room_for_queries_without_hits_and_for_long_ones(tmp_path):
    hits, right = [[GRAY], []], [[True], []]
    retrieval_figure(["word " * 80, "$x^ 😀"], hits, right, tmp_path / "r.png")
    retrieval_figure([], [], [], tmp_path / "empty.png")
    assert _green(_shown(tmp_path / "r.png")).any()


def test_grid_shows_scores_captions_and_what_was_searched(tmp_path):
    grid_figure([GRAY] * 7, [0.5] * 7, ["a b"] * 7, tmp_path / "a.png", columns=3)
    grid_figure([GRAY] * 7, [0.5] * 7, ["a b"] * 7, tmp_path / "same.png", columns=3)
    grid_figure([GRAY] * 7, [0.5] * 6 + [0.4], ["a b"] * 7, tmp_path / "score.png", columns=3)
    grid_figure([GRAY] * 7, [0.5] * 7, ["a b"] * 7, tmp_path / "title.png", columns=3, title="costs $5 to $7_a")
    first, same, score, title = (_shown(tmp_path / f"{name}.png") for name in ("a", "same", "score", "title"))
    assert (first == same).all()
    rows, columns = np.nonzero((first != score).any(-1))
    assert rows.min() > first.shape[0] * 2 / 3
    assert columns.max() < first.shape[1] / 3
    assert not np.array_equal(first, title)
    grid_figure([], [], [], tmp_path / "none.png")


def test_grid_needs_a_score_for_each_caption(tmp_path):
    with pytest.raises(ValueError, match="longer"):
        grid_figure([GRAY] * 2, [0.5], ["a", "b"], tmp_path / "a.png")


def _navy(shown):
    cells = shown[:, : int(0.72 * shown.shape[1])]  # without the colour bar
    return (cells[..., 2] > cells[..., 0] + 60) & (cells.sum(-1) < 250)


def test_confusion_is_dark_where_the_counts_are(tmp_path):
    for name, counts in (("right", 10 * np.eye(4)), ("wrong", 10 * np.eye(4)[::-1])):
        confusion_figure(counts, ["a", "b", "$c^", "猫"], tmp_path / f"{name}.png")
    places = [np.nonzero(_navy(_shown(tmp_path / f"{name}.png"))) for name in ("right", "wrong")]
    right, wrong = (np.corrcoef(rows, columns)[0, 1] for rows, columns in places)
    assert right > 0.8
    assert wrong < -0.8


def test_confusion_keeps_the_classes_with_errors(tmp_path):
    """Of fifty classes two are taken for each other; the picture of two shows just these."""
    confusion = 5 * np.eye(50)
    confusion[[7, 31], [31, 7]], confusion[[7, 31], [7, 31]] = 5, 0
    confusion_figure(confusion, [str(i) for i in range(50)], tmp_path / "two.png", most_classes=2)
    confusion_figure(5 * np.eye(50), [str(i) for i in range(50)], tmp_path / "none.png", most_classes=2)
    two, none = _shown(tmp_path / "two.png"), _shown(tmp_path / "none.png")
    assert two.shape == none.shape
    assert (two != none).any(-1).mean() > 0.05


def test_calibration_draws_three_curves_and_the_threshold(tmp_path):
    cosines = np.linspace(0, 1, 50)
    curves = (1 - cosines**2, 1 - cosines, cosines)
    calibration_figure(cosines, *curves, tmp_path / "without.png")
    calibration_figure(cosines, *curves, tmp_path / "with.png", threshold=0.5)
    without, marked = _shown(tmp_path / "without.png"), _shown(tmp_path / "with.png")
    assert _green(without).any()
    assert _blue(without).any()
    assert (without != marked).any()
