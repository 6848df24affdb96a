"""Pictures of what models said and found: galleries, where they looked, searches, confusions, what cosines mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chiasm.data.source import Source
from chiasm.evaluate.captioner import Told
from chiasm.evaluate.classifier import Answered
from chiasm.evaluate.clip import Found
from chiasm.evaluate.common import SplitScores, readable
from chiasm.figures import attention_figure, calibration_figure, confusion_figure, gallery_figure, retrieval_figure
from chiasm.generate import GenerateConfig
from chiasm.metrics.calibration import Calibration
from chiasm.predict import CaptionPredictor, ClassifierPredictor, ClipPredictor, Pixels

GALLERY = 40
LOOKED_AT = 4


def draw_captions(predictor: CaptionPredictor, source: Source, results: Sequence[SplitScores], folder: Path) -> None:
    """For each split `gallery-SPLIT.png`, and `attention-SPLIT/` for a few of its pictures, right captions first.

    Without the latter for a model that looks at no places.
    """
    for result in results:
        _, pictures = readable(source, result.split, predictor.preprocess, 1.0)
        places = _spread(len(result.told))
        told: list[Told] = [result.told[place] for place in places]
        pixels = pictures.pixels_of(pictures.good[places])
        right = [item.caption in item.texts for item in told]
        texts = [t.caption if r else f"{t.caption}\n({t.texts[0]})" for t, r in zip(told, right, strict=True)]
        _gallery(pixels, texts, right, folder / f"gallery-{result.split}.png")
        if not predictor.looks:
            continue
        chosen = sorted(range(len(told)), key=lambda place: (not right[place], place))[:LOOKED_AT]
        for caption, place in zip(predictor.caption_pixels(pixels[chosen], GenerateConfig()), chosen, strict=True):
            words = [word for word, _ in caption.tokens]
            maps = predictor.attention(pixels[place : place + 1], caption)
            name = re.sub(r"[^\w.-]+", "-", told[place].key)
            attention_figure(pixels[place], words, maps, folder / f"attention-{result.split}" / f"{name}.png")


def draw_clip(predictor: ClipPredictor, source: Source, results: Sequence[SplitScores], folder: Path) -> None:
    """For each split `gallery-SPLIT.png`, `retrieval-SPLIT.png`, and `confusion-SPLIT.png` where there are labels."""
    for result in results:
        _, pictures = readable(source, result.split, predictor.preprocess, 1.0)
        places = _spread(len(result.told))
        found: list[Found] = [result.told[place] for place in places]
        own = [item.found in item.texts for item in found]
        texts = [item.found if r else _corrected(item) for item, r in zip(found, own, strict=True)]
        _gallery(pictures.pixels_of(pictures.good[places]), texts, own, folder / f"gallery-{result.split}.png")
        hits = [list(pictures.pixels_of(pictures.good[list(search.places)])) for search in result.searches]
        right = [search.right for search in result.searches]
        retrieval_figure([s.text for s in result.searches], hits, right, folder / f"retrieval-{result.split}.png")
        if result.labels is not None:
            names = list(result.labels.pictures)
            confusion_figure(result.labels.confusion, names, folder / f"confusion-{result.split}.png")


def draw_answers(predictor: ClassifierPredictor, source: Source, results: Sequence[SplitScores], folder: Path) -> None:
    """For each split `confusion-SPLIT.png`, and `gallery-SPLIT.png` of a model that sees pictures."""
    for result in results:
        if predictor.sees_pictures:
            seen, pictures = readable(source, result.split, predictor.preprocess, 1.0)
            rows = {example.key: row for row, example in zip(pictures.good, seen, strict=True)}
            told: list[Answered] = [result.told[place] for place in _spread(len(result.told))]
            right = [item.answer == item.label for item in told]
            pixels = pictures.pixels_of(np.array([rows[item.key] for item in told]))
            _gallery(pixels, [_answered(item) for item in told], right, folder / f"gallery-{result.split}.png")
        if result.labels is not None:
            names = list(result.labels.pictures)
            confusion_figure(result.labels.confusion, names, folder / f"confusion-{result.split}.png")


def draw_calibration(calibration: Calibration, path: Path) -> None:
    """What a cosine means, from the lowest of false pairs to where true ones are rare."""
    true, false = calibration.true, calibration.false
    low, high = min(true.cosines[0], false.cosines[0]), max(true.cosine(0.01), false.cosine(0.01))
    cosines = np.linspace(low, min(high, 1.0), 400)
    shares, probability = (true.share(cosines), false.share(cosines)), calibration.probability(cosines)
    calibration_figure(cosines, *shares, probability, path, threshold=calibration.threshold(0.05))


def _spread(count: int) -> list[int]:
    """Places from all over a split, without a rhythm that questions or wrong captions could share."""
    return np.sort(np.random.default_rng(0).permutation(count)[:GALLERY]).tolist()


def _gallery(pixels: Pixels, texts: Sequence[str], right: Sequence[bool], path: Path) -> None:
    """Pictures with what was said of each, right ones green."""
    gallery_figure(list(pixels), texts, path, colours=["darkgreen" if r else "firebrick" for r in right])


def _corrected(item: Found) -> str:
    """What was found, then the own text and at which place it came."""
    return item.found if item.rank is None else f"{item.found}\n({item.texts[0]}: rank {item.rank:.0f})"


def _answered(item: Answered) -> str:
    """The question, what was answered, and the right answer where that was another."""
    answer = item.answer if item.answer == item.label else f"{item.answer} (right: {item.label})"
    return f"{item.text}\n{answer}" if item.text else answer


__all__ = ["draw_answers", "draw_calibration", "draw_captions", "draw_clip"]
