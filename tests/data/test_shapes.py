import dataclasses
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from chiasm.data.shapes import HELD_OUT, LEVELS, ShapesConfig, Thing, describe, draw_shapes, shapes_source

DIFFICULTIES = pytest.mark.parametrize("difficulty", ["lesson", "easy", "hard"])
DRAWN = {name: draw_shapes(ShapesConfig(difficulty=name, samples=600)) for name in ("lesson", "easy", "hard")}

# What a person calls these colours, in the order of naming; on purpose not the library's own values.
PLAIN = {
    "red": (220, 30, 30),
    "orange": (255, 140, 20),
    "yellow": (250, 220, 40),
    "green": (30, 150, 60),
    "cyan": (50, 210, 230),
    "blue": (40, 70, 220),
    "purple": (130, 40, 160),
    "pink": (250, 130, 190),
}
GROUNDS = {"white": (245, 245, 245), "black": (10, 10, 10), "grey": (128, 128, 128), "yellow": PLAIN["yellow"]}


def nearest(value, table):
    return min(table, key=lambda name: np.square(np.array(table[name]) - value).sum())


def read_caption(picture, small_below):
    """The caption from nothing but pixels: blobs off the background, their colour, outline, extent, centroid."""
    picture = picture.astype(float)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, axis=0)
    blobs, count = ndimage.label(np.linalg.norm(picture - ground, axis=-1) > 50)
    blobs = [blobs == i for i in range(1, count + 1)]
    found = [read_blob(picture, blob, ground, small_below) for blob in blobs if blob.sum() > 9]  # less is a faint tip
    found.sort(key=lambda blob: blob["order"])
    first, *others = found
    text = first["words"]
    for i, other in enumerate(others):
        x, y = first["x"] - other["x"], first["y"] - other["y"]
        word = ("left of" if x < 0 else "right of") if abs(x) > abs(y) else ("above" if y < 0 else "below")
        text += f"{' and' if i else ''} {word} {other['words']}"
    return f"{text} on a {nearest(ground, GROUNDS)} background"


def read_blob(picture, blob, ground, small_below):
    hue = np.median(picture[ndimage.binary_erosion(blob)], axis=0)
    colour = nearest(hue, PLAIN)
    covered = np.clip((picture - ground) @ (hue - ground) / np.square(hue - ground).sum(), 0, 1) * blob
    down, across = covered.sum(axis=1), covered.sum(axis=0)
    y, x = (sums @ np.arange(len(sums)) / covered.sum() for sums in (down, across))
    away = np.arange(len(down)) - y
    skew = (down @ away**3 / covered.sum()) / (down @ away**2 / covered.sum()) ** 1.5
    fill = covered.sum() / (down.max() * across.max())
    shape = "triangle" if skew < -0.28 else "square" if fill > 0.89 else "circle" if fill > 0.68 else "diamond"
    size = "small" if max(down.max(), across.max()) / 2 < small_below else "large"
    order = (list(PLAIN).index(colour), ["circle", "square", "triangle", "diamond"].index(shape), size == "large")
    return {"words": f"a {size} {colour} {shape}", "order": order, "x": x, "y": y}


@pytest.mark.parametrize(("difficulty", "small_below"), [("lesson", 7.5), ("easy", 6.7), ("hard", 8)])
def test_every_caption_can_be_read_from_the_pixels(difficulty, small_below):
    drawn = DRAWN[difficulty]
    read = [read_caption(picture, small_below) for picture in drawn.pixels]
    assert read == drawn.captions


def test_lesson_on_black_is_black_and_says_so():
    drawn = draw_shapes(ShapesConfig(difficulty="lesson", samples=40, background="black"))
    assert (drawn.pixels[:, 0, 0] == 0).all()
    assert [read_caption(picture, 7.5) for picture in drawn.pixels] == drawn.captions
    assert (DRAWN["lesson"].pixels[:, 0, 0] == 255).all()


def test_other_sizes_stay_true():
    drawn = draw_shapes(ShapesConfig(difficulty="hard", samples=50, size_pixels=96))
    assert drawn.pixels.shape == (50, 96, 96, 3)
    assert [read_caption(picture, 12) for picture in drawn.pixels] == drawn.captions


def test_lesson_has_twelve_captions_about_equally_often():
    counts = Counter(DRAWN["lesson"].captions)
    assert len(counts) == 12
    assert min(counts.values()) > 600 / 12 / 2


def test_every_word_is_used_about_as_often_as_its_peers():
    text = " ".join(DRAWN["hard"].captions)
    for words in [("left of", "right of", "above", "below"), tuple(PLAIN), ("circle", "square", "triangle", "diamond")]:
        counts = [text.count(word) for word in words]
        assert min(counts) > max(counts) / 2.5, dict(zip(words, counts, strict=True))


@DIFFICULTIES
def test_splits_share_nothing_and_miss_nothing(difficulty):
    drawn = DRAWN[difficulty]
    names = ["train", "val", "test"] + ["test-combinations"] * (difficulty != "lesson")
    assert list(drawn.splits) == names
    assert sorted(np.concatenate(list(drawn.splits.values()))) == list(range(600))
    assert {name: len(rows) for name, rows in drawn.splits.items()} == dict.fromkeys(names, 60) | {
        "train": 480 if difficulty == "lesson" else 420
    }
    assert len({picture.tobytes() for picture in drawn.pixels}) == 600


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_held_out_pairs_are_in_their_split_alone(difficulty):
    drawn = DRAWN[difficulty]
    holds = np.array([any((t.colour, t.shape) in HELD_OUT for t in row) for row in drawn.things])
    assert np.array_equal(np.flatnonzero(holds), drawn.splits["test-combinations"])
    pairs = Counter((t.colour, t.shape) for row in drawn.things for t in row)
    assert len(pairs) == 32
    for word in [*PLAIN, "circle", "square", "triangle", "diamond"]:
        assert sum(word in drawn.captions[i].split() for i in drawn.splits["train"]) >= 20


@DIFFICULTIES
def test_facts_are_inside_apart_different_and_clear(difficulty):
    drawn, level = DRAWN[difficulty], LEVELS[difficulty]
    side = drawn.pixels.shape[1]
    bounds = {
        size: (low * side, high * side) for size, (low, high) in zip(("small", "large"), level.radii, strict=True)
    }
    assert {len(row) for row in drawn.things} == set(level.counts)
    for row, background in zip(drawn.things, drawn.backgrounds, strict=True):
        assert len({(t.size, t.colour, t.shape) for t in row}) == len(row)
        for i, t in enumerate(row):
            low, high = bounds[t.size]
            assert low - 1e-4 <= t.radius_pixels <= high + 1e-4
            assert min(t.x_pixels, t.y_pixels) - t.radius_pixels >= 0.999
            assert max(t.x_pixels, t.y_pixels) + t.radius_pixels <= side - 0.999
            assert t.colour != background
            for j, other in enumerate(row[:i]):
                away = sorted([abs(t.x_pixels - other.x_pixels), abs(t.y_pixels - other.y_pixels)])
                assert away[1] >= t.radius_pixels + other.radius_pixels + 1.999
                assert j > 0 or away[1] - away[0] >= side / 8 - 1e-3


def test_sizes_never_overlap():
    for level in LEVELS.values():
        (_, small), (large, _) = level.radii
        assert 2 * large**2 > 4 * small**2  # even the thinnest large shape covers more than the fullest small one


def test_description_does_not_depend_on_the_order_of_the_facts():
    a = Thing("small", "red", "circle", 10.0, 30.0, 4.0)
    b = Thing("large", "blue", "square", 50.0, 28.0, 9.0)
    c = Thing("small", "blue", "square", 12.0, 50.0, 4.0)
    assert describe([b, a], "white") == "a small red circle left of a large blue square on a white background"
    every = {describe(things, "grey") for things in ([a, b, c], [c, b, a], [b, a, c])}
    assert every == {
        "a small red circle above a small blue square and left of a large blue square on a grey background"
    }
    assert describe([a], "black") == "a small red circle on a black background"


@DIFFICULTIES
def test_same_seed_same_bytes_other_seed_others(difficulty):
    config = ShapesConfig(difficulty=difficulty, samples=50, seed=3)
    first, again = draw_shapes(config), draw_shapes(config)
    other = draw_shapes(dataclasses.replace(config, seed=4))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.captions == again.captions
    assert first.captions != other.captions


def test_noise_moves_values_a_little_and_never_wraps():
    drawn = DRAWN["easy"]
    for picture, background in zip(drawn.pixels[:100], drawn.backgrounds, strict=False):
        corner = picture[0, :].astype(int)
        assert np.abs(corner - GROUNDS[background]).max() <= 40
        assert corner.std(axis=0).min() > 2
    assert DRAWN["lesson"].pixels[0, 0].std() == 0


def test_edges_are_smooth_and_cover_the_true_area():
    drawn = DRAWN["lesson"]
    for picture, (thing,) in zip(drawn.pixels[:100], drawn.things, strict=False):
        channel = {"red": 1, "green": 0, "blue": 0}[thing.colour]
        values = 255 - picture[..., channel].astype(float)
        area = values.sum() / values.max()
        expected = {"circle": np.pi, "square": 4}[thing.shape] * thing.radius_pixels**2
        assert area == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"samples": 9}, "samples is 9"),
        ({"difficulty": "hard", "size_pixels": 32}, "size_pixels is 32.*at least 48"),
        ({"background": "black"}, "only the lesson"),
    ],
)
def test_impossible_configurations_are_errors(values, match):
    with pytest.raises(ValueError, match=match):
        ShapesConfig(**values)


@DIFFICULTIES
def test_smallest_pictures_and_fewest_samples_can_be_drawn(difficulty):
    config = ShapesConfig(difficulty=difficulty, samples=10, size_pixels=LEVELS[difficulty].least_side_pixels, seed=1)
    drawn = draw_shapes(config)
    assert all(len(rows) for rows in drawn.splits.values())


def test_source_hands_over_pictures_captions_and_splits():
    config = ShapesConfig(difficulty="hard", samples=30)
    source, drawn = shapes_source(config), draw_shapes(config)
    assert [example.texts for example in source.examples] == [(caption,) for caption in drawn.captions]
    assert np.array_equal(np.stack([example.image for example in source.examples]), drawn.pixels)
    assert len({example.key for example in source.examples}) == 30
    assert {name: list(rows) for name, rows in source.splits.items()} == {
        name: list(rows) for name, rows in drawn.splits.items()
    }
    assert source.fingerprint == shapes_source(config).fingerprint
    assert source.fingerprint != shapes_source(dataclasses.replace(config, seed=1)).fingerprint
    assert "30 pictures, 64 × 64 pixels" in source.understood
