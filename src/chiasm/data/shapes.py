"""Drawn pictures of coloured shapes whose captions are exactly true: the built-in data set with three difficulties."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from chiasm.config import fingerprint, to_dict
from chiasm.data.source import Source
from chiasm.types import Example

COLOURS = {
    "red": (215, 35, 40),
    "orange": (245, 135, 25),
    "yellow": (245, 220, 50),
    "green": (40, 160, 70),
    "cyan": (60, 205, 225),
    "blue": (45, 75, 215),
    "purple": (130, 50, 160),
    "pink": (245, 130, 190),
}
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "yellow": COLOURS["yellow"]}
SIZES = ("small", "large")

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
SHAPES: dict[str, Distance] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - r,
    "triangle": lambda x, y, r: np.maximum(y - r, (2 * np.abs(x) - y - r) / np.sqrt(np.float32(5))),
    "diamond": lambda x, y, r: (np.abs(x) + np.abs(y) - r) / np.sqrt(np.float32(2)),
}
"""Distance to the edge in pixels, negative inside, of a shape that fills the box from -r to r (y points down)."""

HELD_OUT = (("red", "triangle"), ("yellow", "square"), ("blue", "circle"), ("purple", "diamond"))
"""Pairs of colour and shape that only the split "test-combinations" shows."""
SHARES = {"val": 0.1, "test": 0.1, "test-combinations": 0.1}
GAP_PIXELS = 2
"""Free pixels between the boxes of two objects; half of it stays free along the picture's border."""
_ABSENT = len(COLOURS) * len(SHAPES) * len(SIZES)
"""The first code that is no object's; an object's is (colour * shapes + shape) * sizes + size."""


@dataclass(frozen=True, kw_only=True)
class _Level:
    side_pixels: int
    least_side_pixels: int
    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = tuple(SHAPES)
    held_out: tuple[tuple[str, str], ...] = HELD_OUT
    counts: tuple[int, ...]
    """How many objects a picture may have."""
    radii: tuple[tuple[float, float], tuple[float, float]]
    """Least and greatest radius of small and of large objects, as shares of the side."""
    roam: float = 0.5
    """How far from the middle a centre may be, as a share of the side."""
    noise: int = 12
    """The greatest change of a value by noise, of 255."""


LEVELS = {
    "lesson": _Level(
        side_pixels=32,
        least_side_pixels=16,
        colours=("red", "green", "blue"),
        shapes=("circle", "square"),
        held_out=(),
        counts=(1,),
        radii=((0.14, 0.18), (0.29, 0.33)),
        roam=1 / 32,
        noise=0,
    ),
    "easy": _Level(side_pixels=32, least_side_pixels=24, counts=(1,), radii=((0.125, 0.17), (0.25, 0.35))),
    "hard": _Level(side_pixels=64, least_side_pixels=48, counts=(2, 3), radii=((0.08, 0.1), (0.15, 0.19))),
}


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """What to draw; `size_pixels` is 32, or 64 for hard, unless said otherwise; `background` is the lesson's alone."""

    difficulty: Literal["lesson", "easy", "hard"] = "easy"
    samples: int = 10_000
    size_pixels: int | None = None
    background: Literal["white", "black"] = "white"
    questions_per_picture: int = 0
    """0: captions. Otherwise at most so many questions with answers, on pictures whose objects are more often alike."""
    seed: int = 0

    def __post_init__(self):
        least = LEVELS[self.difficulty].least_side_pixels
        if self.side_pixels < least:
            raise ValueError(f"size_pixels is {self.size_pixels}; {self.difficulty} shapes need at least {least}")
        if self.samples < 10:
            raise ValueError(f"samples is {self.samples}; every split needs one, so draw at least 10")
        if self.background != "white" and self.difficulty != "lesson":
            raise ValueError(f"background is {self.background!r}; only the lesson has one background for all pictures")
        if self.questions_per_picture < 0:
            raise ValueError(f"questions_per_picture is {self.questions_per_picture}, it must not be negative")

    @property
    def side_pixels(self) -> int:
        """The height and width of the pictures."""
        return LEVELS[self.difficulty].side_pixels if self.size_pixels is None else self.size_pixels


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object: its words, the centre of its box (x to the right, y down), and half the side of that box."""

    size: str
    colour: str
    shape: str
    x_pixels: float
    y_pixels: float
    radius_pixels: float


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures, their one true caption each, indices by split, and the facts from which each caption follows."""

    pixels: UInt8[np.ndarray, "n height width 3"]
    captions: list[str]
    splits: dict[str, np.ndarray]
    things: list[list[Thing]]
    backgrounds: list[str]


@dataclass(frozen=True, kw_only=True)
class _Objects:
    """Every object of every picture in one row each (o of them), words as indices into their tables."""

    picture: Int[np.ndarray, " o"]
    size: Int[np.ndarray, " o"]
    colour: Int[np.ndarray, " o"]
    shape: Int[np.ndarray, " o"]
    x: Float[np.ndarray, " o"]
    y: Float[np.ndarray, " o"]
    radius: Float[np.ndarray, " o"]


def shapes_source(config: ShapesConfig) -> Source:
    """The drawn pictures as a data set."""
    drawn = draw_shapes(config)
    examples = [
        Example(image=image, texts=(caption,), key=f"{config.difficulty}-{config.seed}-{row}")
        for row, (image, caption) in enumerate(zip(drawn.pixels, drawn.captions, strict=True))
    ]
    count, side, kinds = len(examples), config.side_pixels, len(set(drawn.captions))
    digest = hashlib.blake2b(drawn.pixels.data, digest_size=16).hexdigest()
    return Source(
        name=f"shapes-{config.difficulty}",
        examples=examples,
        splits=drawn.splits,
        understood=f"{config.difficulty} shapes: {count} pictures, {side} × {side} pixels, {kinds} different captions",
        fingerprint=fingerprint([to_dict(config), digest, drawn.captions]),
    )


def draw_shapes(config: ShapesConfig) -> Drawn:
    """Draw one object (lesson, easy), or two or three in clear relations (hard), per picture; same config, same bytes.

    Objects lie fully inside, do not touch, and differ from each other and from the background. Pictures of the split
    "test-combinations" each hold a pair of colour and shape of HELD_OUT; no other picture does.
    """
    level, rng = LEVELS[config.difficulty], np.random.default_rng(config.seed)
    splits = _split(config.samples, level)
    held = np.isin(np.arange(config.samples), splits.get("test-combinations", []))
    objects = _place(rng, level, config.side_pixels, _choose(rng, level, held, config.questions_per_picture > 0))
    background = _choose_background(rng, config, objects)
    pixels = _paint(config.side_pixels, level.noise, background, objects)
    _add_noise(rng, pixels, level.noise)
    things, backgrounds = _things(config.samples, objects), [list(BACKGROUNDS)[i] for i in background]
    captions = [describe(row, name) for row, name in zip(things, backgrounds, strict=True)]
    return Drawn(pixels=pixels, captions=captions, splits=splits, things=things, backgrounds=backgrounds)


def describe(things: Sequence[Thing], background: str) -> str:
    """The one right caption: "a small red circle left of a large blue square on a white background".

    Objects are named in the order of their colour (as in COLOURS), then shape, then size, wherever they are. The
    second and the third are related to the first: "A left of B and above C" says that A is left of B and A is above C.
    The relation is that of the centres along the axis on which they are further apart.
    """
    first, *others = sorted(things, key=_order)
    relations = " and".join(f" {_relation(first, other)} {_name(other)}" for other in others)
    return f"{_name(first)}{relations} on a {background} background"


def _order(thing: Thing) -> tuple[int, int, int]:
    return list(COLOURS).index(thing.colour), list(SHAPES).index(thing.shape), SIZES.index(thing.size)


def _name(thing: Thing) -> str:
    return f"a {thing.size} {thing.colour} {thing.shape}"


def _relation(thing: Thing, other: Thing) -> str:
    x, y = thing.x_pixels - other.x_pixels, thing.y_pixels - other.y_pixels
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def _split(samples: int, level: _Level) -> dict[str, np.ndarray]:
    """Consecutive indices: pictures are drawn independently, so their order says nothing."""
    shares = {name: share for name, share in SHARES.items() if level.held_out or name != "test-combinations"}
    ends = np.cumsum([0] + [int(samples * share) for share in shares.values()])
    tests = {name: np.arange(*ends[i : i + 2]) + samples - ends[-1] for i, name in enumerate(shares)}
    return {"train": np.arange(samples - ends[-1])} | tests


def _choose(
    rng: np.random.Generator, level: _Level, held: Bool[np.ndarray, " n"], alike: bool
) -> Int[np.ndarray, "n slots"]:
    """Which objects each picture holds, as codes in the order of naming; _ABSENT and above are empty slots.

    With `alike` a third of the pictures have one colour for all objects, and a third one shape.
    """
    every = [(colour, shape) for colour in level.colours for shape in level.shapes]
    seen, unseen = (
        [list(COLOURS).index(colour) * len(SHAPES) + list(SHAPES).index(shape) for colour, shape in pairs]
        for pairs in ([pair for pair in every if pair not in level.held_out], level.held_out)
    )
    slots = np.arange(max(level.counts))
    codes = np.empty((len(held), len(slots)), dtype=np.int64)
    pending = np.arange(len(held))
    trait = rng.integers(3, size=len(held)) if alike else np.full(len(held), 2)  # 0 colour, 1 shape, 2 neither
    while len(pending):
        pairs = rng.choice(seen, (len(pending), len(slots)))
        if unseen:
            pairs[held[pending], 0] = rng.choice(unseen, held[pending].sum())
        if alike:
            scores = rng.random((len(pending), len(slots) - 1, len(seen)))
            for number, part in enumerate((np.floor_divide, np.mod)):
                other = part(seen, len(SHAPES)) != part(pairs[:, :1, None], len(SHAPES))
                scores -= other & (trait[pending] == number)[:, None, None]
            pairs[:, 1:] = np.take(seen, scores.argmax(axis=2))
        drawn = pairs * len(SIZES) + rng.integers(len(SIZES), size=pairs.shape)
        absent = slots >= rng.choice(level.counts, len(pending))[:, None]
        codes[pending] = np.sort(np.where(absent, _ABSENT + slots, drawn), axis=1)
        pending = pending[(np.diff(codes[pending], axis=1) == 0).any(axis=1)]
    return codes


def _place(rng: np.random.Generator, level: _Level, side: int, codes: Int[np.ndarray, "n slots"]) -> _Objects:
    """Radii and centres, drawn again until the objects of a picture are apart and their relations clear."""
    present = codes < _ABSENT
    pair, size = np.divmod(codes, len(SIZES))
    least, greatest = np.transpose(level.radii) * side
    radius = rng.uniform(least[size], greatest[size])
    low = np.maximum(radius + GAP_PIXELS / 2, side * (0.5 - level.roam))
    x, y = np.empty_like(radius), np.empty_like(radius)
    pending = np.arange(len(codes))
    while len(pending):
        x[pending], y[pending] = (rng.uniform(low[pending], side - low[pending]) for _ in range(2))
        pending = pending[~_is_clear(x[pending], y[pending], radius[pending], present[pending], side)]
    picture, slot = np.nonzero(present)
    colour, shape = np.divmod(pair[present], len(SHAPES))
    x, y, radius = (values[picture, slot].astype(np.float32) for values in (x, y, radius))
    return _Objects(picture=picture, size=size[present], colour=colour, shape=shape, x=x, y=y, radius=radius)


def _is_clear(
    x: Float[np.ndarray, "n slots"],
    y: Float[np.ndarray, "n slots"],
    radius: Float[np.ndarray, "n slots"],
    present: Bool[np.ndarray, "n slots"],
    side: int,
) -> Bool[np.ndarray, " n"]:
    """Boxes lie apart, and the first object's distance to the others is an eighth of the side longer on one axis."""
    clear = np.ones(len(x), dtype=bool)
    for i in range(x.shape[1]):
        for j in range(i + 1, x.shape[1]):
            across, down = np.abs(x[:, i] - x[:, j]), np.abs(y[:, i] - y[:, j])
            good = np.maximum(across, down) >= radius[:, i] + radius[:, j] + GAP_PIXELS
            if i == 0:
                good &= np.abs(across - down) >= side / 8
            clear &= good | ~present[:, j]
    return clear


def _choose_background(rng: np.random.Generator, config: ShapesConfig, objects: _Objects) -> Int[np.ndarray, " n"]:
    if config.difficulty == "lesson":
        return np.full(config.samples, list(BACKGROUNDS).index(config.background))
    scores = rng.random((config.samples, len(BACKGROUNDS)))
    for column, name in enumerate(BACKGROUNDS):
        taken = objects.picture[np.array(list(COLOURS))[objects.colour] == name]
        scores[taken, column] = -1
    return scores.argmax(axis=1)


def _paint(
    side: int, noise: int, background: Int[np.ndarray, " n"], objects: _Objects
) -> UInt8[np.ndarray, "n height width 3"]:
    """Draw with smooth edges: a pixel takes as much of the colour as the shape covers of it."""
    ground, palette = (np.clip(list(table.values()), noise, 255 - noise) for table in (BACKGROUNDS, COLOURS))
    rows = np.tile(ground.astype(np.uint8)[background], side)
    pixels = np.repeat(rows, side, axis=0).reshape(-1, 3)
    for shape, distance in enumerate(SHAPES.values()):
        for size in range(len(SIZES)):
            chosen = np.flatnonzero((objects.shape == shape) & (objects.size == size))
            if len(chosen) == 0:
                continue
            owner, index, coverage = _cover(distance, side, chosen, objects)
            old = pixels[index].astype(np.float32)
            new = palette.astype(np.float32)[objects.colour[owner]]
            pixels[index] = old + coverage[:, None] * (new - old) + 0.5
    return pixels.reshape(len(background), side, side, 3)


def _cover(
    distance: Distance, side: int, chosen: Int[np.ndarray, " o"], objects: _Objects
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """For each pixel under the chosen objects: the object, the pixel's index in all pictures, its covered share."""
    x, y, radius = (values[chosen, None] for values in (objects.x, objects.y, objects.radius))
    reach = int(np.ceil(radius.max())) + 1
    box = np.arange(-reach, reach + 1)
    column, row = np.floor(x).astype(np.int64) + box, np.floor(y).astype(np.int64) + box
    to_x, to_y = (column + 0.5 - x).astype(np.float32), (row + 0.5 - y).astype(np.float32)
    coverage = np.clip(0.5 - distance(to_x[:, None, :], to_y[:, :, None], radius[:, :, None]), 0, 1)
    which, down, across = np.nonzero(coverage)
    index = (objects.picture[chosen[which]] * side + row[which, down]) * side + column[which, across]
    return chosen[which], index, coverage[which, down, across]


def _add_noise(rng: np.random.Generator, pixels: UInt8[np.ndarray, "n height width 3"], noise: int) -> None:
    if noise == 0:
        return
    for picture in pixels:
        change = rng.integers(-noise, noise, size=picture.shape, dtype=np.int8, endpoint=True)
        picture += change.view(np.uint8)  # cannot wrap round: _paint left room at both ends


def _things(samples: int, objects: _Objects) -> list[list[Thing]]:
    colours, shapes = list(COLOURS), list(SHAPES)
    things: list[list[Thing]] = [[] for _ in range(samples)]
    columns = (objects.picture, objects.size, objects.colour, objects.shape, objects.x, objects.y, objects.radius)
    for picture, size, colour, shape, x, y, radius in zip(*(c.tolist() for c in columns), strict=True):
        things[picture].append(Thing(SIZES[size], colours[colour], shapes[shape], x, y, radius))
    return things


__all__ = ["Drawn", "ShapesConfig", "Thing", "describe", "draw_shapes", "shapes_source"]
