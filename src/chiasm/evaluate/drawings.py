"""Pictures of what a dual encoder found: galleries, searches, confusions, and what its cosines mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chiasm.data.cache import Pictures
from chiasm.data.source import Source
from chiasm.evaluate.clip import Found
from chiasm.evaluate.common import SplitScores, readable
from chiasm.figures import calibration_figure, confusion_figure, gallery_figure, retrieval_figure
from chiasm.metrics.calibration import Calibration
from chiasm.predict import ClipPredictor

GALLERY = 40


def draw_clip(predictor: ClipPredictor, source: Source, results: Sequence[SplitScores], folder: Path) -> None:
    """For each split `gallery-SPLIT.png`, `retrieval-SPLIT.png`, and `confusion-SPLIT.png` where there are labels."""
    for result in results:
        _, pictures = readable(source, result.split, predictor.preprocess, 1.0)
        _gallery(pictures, result.told, folder / f"gallery-{result.split}.png")
        hits = [list(pictures.pixels_of(pictures.good[list(search.places)])) for search in result.searches]
        right = [search.right for search in result.searches]
        retrieval_figure([s.text for s in result.searches], hits, right, folder / f"retrieval-{result.split}.png")
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


def _gallery(pictures: Pictures, told: Sequence[Found], path: Path) -> None:
    """Pictures from all over the split with the text found for each, right ones green."""
    places = list(range(0, len(told), max(1, len(told) // GALLERY)))[:GALLERY]
    chosen = [told[place] for place in places]
    right = [item.found in item.texts for item in chosen]
    texts = [item.found if r else _corrected(item) for item, r in zip(chosen, right, strict=True)]
    colours = ["darkgreen" if r else "firebrick" for r in right]
    gallery_figure(list(pictures.pixels_of(pictures.good[places])), texts, path, colours=colours)


def _corrected(item: Found) -> str:
    """What was found, then the own text and at which place it came."""
    return item.found if item.rank is None else f"{item.found}\n({item.texts[0]}: rank {item.rank:.0f})"


__all__ = ["draw_calibration", "draw_clip"]
