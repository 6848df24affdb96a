"""Resizing keeps what it says it keeps and equals CLIP's; random changes stay in range, in place and repeatable."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiasm.config import fingerprint, from_dict, to_dict
from chiasm.data.picture import read_picture
from chiasm.data.transforms import (
    AugmentConfig,
    PreprocessConfig,
    augment,
    augment_for,
    normalize,
    preprocess,
    read_pixels,
    standardize,
    unit_images,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)
NONE = augment_for("none")
STILL = {"scale": (1.0, 1.0), "rotation_degrees": 0.0, "translation": 0.0, "aspect": 0.0}
STYLES = ("gray", "shuffle_channels", "outline", "posterize", "blur", "erase")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(size, colour):
    return np.full((size[1], size[0], 3), colour, dtype=np.uint8)


def smooth(coarse, size):
    return np.array(Image.fromarray(noise(*coarse)).resize(size, Image.Resampling.BICUBIC))


def images(rows=6, height=32, width=32, seed=0):
    return torch.rand(rows, 3, height, width, generator=torch.Generator().manual_seed(seed))


def changed(pictures, config, seed=0):
    return augment(pictures, config, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_picture_of_the_right_size_is_left_alone(resize):
    image = noise(48, 64)
    np.testing.assert_array_equal(preprocess(image, PreprocessConfig(size=(48, 64), resize=resize)), image)


@given(
    full=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(["squash", "crop", "pad"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    trim=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_size_becomes_the_wanted_size(full, size, resize, interpolation, trim):
    config = PreprocessConfig(size=size, resize=resize, interpolation=interpolation, trim=trim)
    assert preprocess(noise(*full), config).shape == (*size, 3)


@pytest.mark.parametrize(("full", "bars"), [((20, 40), (8, 0)), ((40, 20), (0, 8)), ((1000, 1), (0, 15))])
def test_pad_shows_the_whole_picture_between_white_bars(full, bars):
    got = preprocess(plain(full[::-1], BLUE), PreprocessConfig(size=(32, 32), resize="pad"))
    inside = got[bars[0] : 32 - bars[0], bars[1] : 32 - bars[1]]
    blue = (got == BLUE).all(-1)
    assert (got[~blue] == 255).all()
    assert blue.sum() == (inside.shape[0] * inside.shape[1] if full != (1000, 1) else 32)


def test_crop_keeps_the_centre_and_squash_everything():
    image = plain((60, 20), RED)
    image[:, 20:40] = BLUE
    assert (preprocess(image, PreprocessConfig(size=(16, 16), resize="crop"))[:, 1:-1] == BLUE).all()
    squashed = preprocess(image, PreprocessConfig(size=(20, 30), resize="squash"))
    assert (squashed[:, 2] == RED).all() and (squashed[:, 15] == BLUE).all() and (squashed[:, -3] == RED).all()


@pytest.mark.parametrize("full", [(224, 224), (97, 301), (301, 97), (64, 63), (500, 333), (31, 47)])
@pytest.mark.parametrize("side", [32, 56])
def test_crop_and_normalize_equal_clips(full, side):
    processor = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    clip = processor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    image = noise(*full)
    config = PreprocessConfig(
        size=(side, side), resize="crop", mean=tuple(clip.image_mean), std=tuple(clip.image_std), fast_decode=False
    )  # fmt: skip
    expected = torch.tensor(np.array(clip(image, return_tensors="np")["pixel_values"]))
    got = normalize(preprocess(image, config)[None], config)
    assert (got - expected).abs().max() < 1 / 255 / min(config.std)


def test_interpolation_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    image = np.stack([checks] * 3, axis=-1).astype(np.uint8)
    for interpolation in ("bicubic", "bilinear"):
        got = preprocess(image, PreprocessConfig(size=(16, 16), interpolation=interpolation))
        assert np.abs(got.astype(int) - 127).max() < 10


@pytest.mark.parametrize("background", [255, 0, 90])
def test_trim_cuts_the_margin_and_keeps_the_aspect(background):
    image = plain((200, 100), background)
    image[10:30, 150:190] = RED  # twice as wide as high, in a corner
    got = preprocess(image, PreprocessConfig(size=(44, 44), trim=True))
    height, width = ((got == RED).all(-1).any(axis).sum() for axis in (1, 0))
    assert 34 <= width < 44 and abs(width - 2 * height) <= 2
    red = np.argwhere((got == RED).all(-1))
    assert np.abs(red.mean(0) - 21.5).max() <= 1


def test_trim_leaves_pictures_alone_that_have_no_margin():
    for image in (noise(32, 32), plain((32, 32), BLUE)):
        np.testing.assert_array_equal(preprocess(image, PreprocessConfig(size=(32, 32), trim=True)), image)


def test_read_pixels_of_a_reduced_jpeg_are_those_of_the_full_one(tmp_path):
    Image.fromarray(smooth((12, 20), (1000, 600))).save(tmp_path / "a.jpg", quality=95)
    for resize in ("squash", "crop", "pad"):
        config = PreprocessConfig(size=(48, 40), resize=resize)
        full = preprocess(read_picture(tmp_path / "a.jpg"), config).astype(int)
        assert np.abs(read_pixels(tmp_path / "a.jpg", config) - full).max() <= 6


@given(
    full=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
@settings(max_examples=100, deadline=None)
def test_the_fast_resize_is_pillows_along_rows_and_then_along_columns(full, size, interpolation):
    image, filter_ = noise(*full), Image.Resampling[interpolation.upper()]
    got = preprocess(image, PreprocessConfig(size=size, resize="squash", interpolation=interpolation)).astype(int)
    along_rows = Image.fromarray(image).resize((size[1], full[0]), filter_)
    assert np.abs(got - np.asarray(along_rows.resize(size[::-1], filter_))).max() <= 3  # weights are shorter


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_the_fast_resize_of_a_smooth_picture_is_pillows_within_two_shades(resize):
    picture = smooth((6, 9), (300, 200))
    fast = PreprocessConfig(size=(48, 64), resize=resize)
    exact = dataclasses.replace(fast, fast_decode=False)
    got, expected = (preprocess(picture, config).astype(int) for config in (fast, exact))
    assert np.abs(got - expected).max() <= 2


def test_normalize_is_the_formula_and_the_path_of_training():
    config = PreprocessConfig(mean=(0.1, 0.5, 0.9), std=(1.0, 0.5, 0.25))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array(config.mean)) / np.array(config.std)
    got = normalize(pixels, config)
    assert got.dtype == torch.float32 and got.is_contiguous()
    np.testing.assert_allclose(got.permute(0, 2, 3, 1), expected, atol=1e-5)
    assert torch.equal(got, normalize(torch.from_numpy(pixels), config))
    torch.testing.assert_close(got, standardize(changed(unit_images(pixels), NONE), config), atol=1e-6, rtol=0)


def test_configurations_travel_as_json_and_refuse_nonsense():
    for config in (PreprocessConfig(size=(7, 9), resize="crop"), augment_for("strong")):
        assert from_dict(type(config), to_dict(config)) == config
    assert fingerprint(PreprocessConfig()) != fingerprint(PreprocessConfig(trim=True))
    for wrong in ({"size": (0, 8)}, {"std": (0.5, 0.0, 0.5)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PreprocessConfig(**wrong)
    for wrong in ({"scale": (1.2, 0.8)}, {"scale": (0.0, 1.0)}, {"erase": 1.5}, {"gray": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AugmentConfig(**wrong)


def test_no_augmentation_is_the_identity():
    before = images()
    assert changed(before, NONE) is before


def test_an_affine_map_that_moves_nothing_is_the_identity():
    before = images(height=24, width=40)
    got = changed(before, dataclasses.replace(NONE, scale=(1.0, 1.0 + 1e-6)))
    torch.testing.assert_close(got, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["light", "strong"])
def test_equal_generators_change_equally_and_the_input_stays(name):
    before = images()
    copy = before.clone()
    first, again, other = (changed(before, augment_for(name), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(before, copy)
    assert not torch.allclose(first, before, atol=0.01)


@given(
    seed=st.integers(0, 2**32),
    style=st.sampled_from(STYLES),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    rows=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_change_keeps_shape_and_range(seed, style, size, rows):
    before = images(rows, *size, seed=seed)
    for config in (dataclasses.replace(augment_for("strong"), flip=True), dataclasses.replace(NONE, **{style: 1.0})):
        got = changed(before, config, seed)
        assert got.shape == before.shape and got.dtype == before.dtype
        assert got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("style", STYLES)
def test_probabilities_are_shares_of_the_pictures(style):
    before = images(400, 8, 8)
    got = changed(before, dataclasses.replace(NONE, **{style: 0.25}))
    share = (got - before).abs().flatten(1).amax(1).gt(1e-6).float().mean()
    assert abs(share - 0.25 * (5 / 6 if style == "shuffle_channels" else 1)) < 0.07


@pytest.mark.parametrize("name", ["light", "strong"])
def test_a_flip_never_occurs_unless_asked(name):
    before = torch.zeros(200, 3, 32, 32)
    before[:, 0, :, :16] = 1  # red left, blue right
    before[:, 2, :, 16:] = 1
    config = dataclasses.replace(augment_for(name), gray=0.0, shuffle_channels=0.0, erase=0.0, hue_degrees=0.0)

    def mirrored(got):
        left, right = got[..., 4:12].mean((2, 3)), got[..., 20:28].mean((2, 3))
        return (left[:, 0] < right[:, 0]) & (left[:, 2] > right[:, 2])

    assert not mirrored(changed(before, config)).any()
    flipped = mirrored(changed(before, dataclasses.replace(config, flip=True))).float().mean()
    assert 0.35 < flipped < 0.65


def test_a_flip_alone_mirrors_exactly():
    before = images(40, 6, 10)
    got = changed(before, dataclasses.replace(NONE, flip=True))
    for picture, original in zip(got, before, strict=True):
        near = [(picture - candidate).abs().max() for candidate in (original, original.flip(-1))]
        assert min(near) < 1e-4


def test_a_white_background_stays_white_under_affine_maps():
    before = torch.ones(50, 3, 40, 40)
    before[:, :, 15:25, 15:25] = 0
    moves = {"rotation_degrees": 45.0, "translation": 0.1, "aspect": 0.2, "shear_degrees": 10.0}
    config = dataclasses.replace(NONE, scale=(0.6, 1.4), **moves)
    got = changed(before, config)
    for edge in (got[..., 0], got[..., -1], got[..., 0, :], got[..., -1, :]):
        assert (edge > 1 - 1e-5).all()
    assert (got.amin((1, 2, 3)) < 0.1).all()


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 90)])
def test_turning_does_not_distort_even_in_a_wide_picture(height, width):
    before = torch.ones(64, 3, height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    before[:, :, (rows - height / 2 + 0.5) ** 2 + (columns - width / 2 + 0.5) ** 2 < 100] = 0  # a disc stays a disc
    got = changed(before, dataclasses.replace(NONE, rotation_degrees=90.0))
    assert (got - before)[:, 0].abs().sum((1, 2)).max() < 32  # half a pixel along the circle


def test_scale_enlarges_and_translation_is_a_share():
    before = torch.ones(100, 1, 64, 64).expand(-1, 3, -1, -1).clone()
    before[:, :, 24:40, 24:40] = 0
    area = (1 - changed(before, dataclasses.replace(NONE, scale=(1.5, 1.5)))).sum((1, 2, 3)) / (3 * 16 * 16)
    torch.testing.assert_close(area, torch.full_like(area, 2.25), atol=0.15, rtol=0)
    dark = 1 - changed(before, dataclasses.replace(NONE, translation=0.25))[:, 0]
    centre = (dark.sum(1) * torch.arange(64)).sum(1) / dark.sum((1, 2)) - 31.5
    assert centre.abs().max() <= 16.01 and centre.max() > 12 and centre.min() < -12


def test_colour_changes_keep_gray_gray_and_gray_has_no_colour():
    grays = images()[:, :1].expand(-1, 3, -1, -1)
    got = changed(grays, dataclasses.replace(AugmentConfig(hue_degrees=180.0), **STILL))
    torch.testing.assert_close(got[:, 0], got[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[:, 0], got[:, 2], atol=1e-5, rtol=0)
    luminance = (images() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    torch.testing.assert_close(changed(images(), dataclasses.replace(NONE, gray=1.0))[:, 2], luminance)


def test_shuffled_channels_are_the_same_channels():
    before = images(100, 4, 4)
    got = changed(before, dataclasses.replace(NONE, shuffle_channels=1.0))
    torch.testing.assert_close(got.sort(1).values, before.sort(1).values)
    assert len({tuple(order) for order in got[:, :, 0, 0].argsort(1).argsort(1).tolist()}) == 6


def test_outlines_stand_where_colours_change_and_nowhere_else():
    before = torch.zeros(4, 3, 64, 64)
    before[:, 0, :, :32] = 0.6
    before[:, 1, :, 32:] = 0.6  # of much the same lightness
    got = changed(before, dataclasses.replace(NONE, outline=1.0))
    assert (got[..., 31:33] < 0.31).all()
    assert torch.equal(got[..., :30], before[..., :30]) and torch.equal(got[..., 34:], before[..., 34:])


def test_posterized_pictures_have_few_shades_and_erased_ones_a_rectangle():
    shades = [len(picture.unique()) for picture in changed(images(), dataclasses.replace(NONE, posterize=1.0))]
    assert max(shades) <= 5 and min(shades) >= 2
    before = images(50, 40, 40)
    different = (changed(before, dataclasses.replace(NONE, erase=1.0)) != before).any(1)
    for mask in different:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == height * width and 3 <= height <= 17 and 3 <= width <= 17
