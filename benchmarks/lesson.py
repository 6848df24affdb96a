"""The lesson's captioning job, by its own loop and by chiasm: seconds until there is a trained model, and its scores.

Both draw and train on the same 500 pictures, with models of the same sizes, and caption the same others, greedily.
Imports are counted on neither side.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import _lesson
import numpy as np
from _side_by_side import arguments, report

from chiasm.data.shapes import Drawn, ShapesConfig, draw_shapes
from chiasm.data.transforms import AugmentConfig, PreprocessConfig, normalize
from chiasm.generate import GenerateConfig
from chiasm.models.presets import captioner_tiny
from chiasm.predict import CaptionPredictor
from chiasm.progress import track
from chiasm.train.config import DataConfig, RunConfig, TrainConfig
from chiasm.train.run import Run, fit

TRAIN = 500
DRAWN = 624
"""So many pictures leave 500 for training, beside the splits for validation and test."""
EPOCHS = 50
"""Of the lesson."""
STEPS = 240
"""Of chiasm."""

NUDGE = AugmentConfig(scale=(0.95, 1.05), rotation_degrees=0.0, translation=0.03, aspect=0.0, brightness=0.0,
                      contrast=0.0, saturation=0.0, hue_degrees=0.0)  # fmt: skip
"""Shapes a little larger, smaller and elsewhere, so that few steps see enough of them."""

Captioner = Callable[[np.ndarray], list[str]]


def main() -> None:
    parser = arguments(__doc__, repeat=5, repeated="trainings of each side, of other seeds")
    args = parser.parse_args()
    held_out = draw_shapes(ShapesConfig(difficulty="lesson", samples=20 if args.toy else 500, seed=1_000_000))
    sides = {
        "lesson": lambda seed: train_lesson(seed, 1 if args.toy else EPOCHS),
        "chiasm": lambda seed: train_chiasm(seed, 4 if args.toy else STEPS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    exact: dict[str, list[float]] = {name: [] for name in sides}
    for seed in track(range(args.repeat), "training both sides", total=args.repeat):
        for name, side in sides.items():
            start = time.perf_counter()
            captioner = side(seed)
            seconds[name].append(time.perf_counter() - start)
            exact[name].append(exact_match(captioner, held_out))
    rows = [
        {
            "side": name,
            "seconds": median(seconds[name]),
            "exact match": median(exact[name]),
            "least exact match": min(exact[name]),
            "of the lesson's time": median(seconds[name]) / median(seconds["lesson"]),
        }
        for name in sides
    ]
    report(f"The lesson's job, {args.repeat} seeds", rows, args.out)


def train_lesson(seed: int, epochs: int) -> Captioner:
    """Draw pixel by pixel, train as the lesson does."""
    drawn = draw_shapes(ShapesConfig(difficulty="lesson", samples=DRAWN, seed=seed))  # what to draw; takes no time
    model, words = _lesson.train([things[0] for things in drawn.things[:TRAIN]], drawn.captions[:TRAIN], epochs, seed)

    def captioner(pixels: np.ndarray) -> list[str]:
        ids = model.generate(normalize(pixels, PreprocessConfig(size=(32, 32))), _lesson.TOKENS - 1)
        return [_lesson.decode(row, words) for row in ids]

    return captioner


def train_chiasm(seed: int, steps: int) -> Captioner:
    """Draw, cache, build the tokenizer, train, and leave a bundle in a folder, as `chiasm train captioner` does."""
    config = RunConfig(
        data=DataConfig(path="shapes", shapes=ShapesConfig(difficulty="lesson", samples=DRAWN, seed=seed)),
        model=captioner_tiny(),
        train=TrainConfig(steps=steps, batch_size=32, learning_rate=1.5e-3, ema_decay=0.99, label_smoothing=0.0,
                          augment=NUDGE, keep="last", seed=seed, validate_every_epochs=1000.0),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CHIASM_CACHE"] = folder  # empty, so that reading the pictures counts
        bundle = fit(Run(config, Path(folder) / "run")).bundle
    assert bundle is not None
    predictor = CaptionPredictor(bundle)
    return lambda pixels: [caption.text for caption in predictor.caption_pixels(pixels, GenerateConfig())]


def exact_match(captioner: Captioner, drawn: Drawn) -> float:
    """The share of captions that are exactly the picture's."""
    captions = captioner(drawn.pixels)
    return sum(c == truth for c, truth in zip(captions, drawn.captions, strict=True)) / len(captions)


if __name__ == "__main__":
    main()
