"""Where in a picture an answer comes from, asked of every kind of model alike: by covering one place after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from chiasm.predict.base import Pixels
from chiasm.predict.captioner import Caption, CaptionPredictor
from chiasm.predict.classifier import ClassifierPredictor
from chiasm.predict.clip import ClipPredictor, Vectors
from chiasm.types import Batch

CELLS, COVER = 8, 3
"""Cells along the longer side of a picture, and how many of them the square that covers it is wide."""

LogProbability = Callable[[Pixels], Float[np.ndarray, " b"]]
"""Of one answer, in nats, given each of some pictures that `read` (or the cache) prepared."""


def occlusion_map(
    pixel: UInt8[np.ndarray, "height width 3"],
    log_probability: LogProbability,
    *,
    cells: int = CELLS,
    cover: int = COVER,
) -> Float[np.ndarray, "rows columns"]:
    """By how many nats an answer's log-probability falls when a square around each cell of the picture is covered.

    Below 0 where it rises. Occlusion (1311.2901, section 4.2); the square is moved by a cell at a time, and has the
    picture's mean colour in place of gray. It is wider than a cell (`cover`, an odd number of cells), since a part of a
    thing is seldom missed. All pictures are run in one batch. ValueError for a picture without pixels, no cells, or an
    even cover.
    """
    height, width = pixel.shape[:2]
    if min(height, width, cells) < 1 or cover % 2 != 1:
        raise ValueError(f"a picture of {height} x {width} pixels has no squares of {cover} of {cells} cells")
    rows, columns = (min(side, max(1, round(cells * side / max(height, width)))) for side in (height, width))
    tops, lefts = _ranges(height, rows, cover), _ranges(width, columns, cover)
    mean = pixel.reshape(-1, 3).mean(0).round().astype(np.uint8)
    pictures = np.repeat(pixel[None], 1 + rows * columns, axis=0)
    for picture, (top, left) in zip(pictures[1:], product(tops, lefts), strict=True):
        picture[top, left] = mean
    found = log_probability(pictures)
    return (found[0] - found[1:]).reshape(rows, columns)


def _ranges(side_pixels: int, parts: int, cover: int) -> list[slice]:
    """For each part of a side the pixels of it and its neighbours, as many as make up the cover."""
    edges, around = np.arange(parts + 1) * side_pixels // parts, cover // 2
    return [slice(edges[max(0, i - around)], edges[min(parts, i + 1 + around)]) for i in range(parts)]


def caption_log_probability(predictor: CaptionPredictor, caption: Caption) -> LogProbability:
    """Of all of a caption's tokens together, and of its end where it has one."""
    model, rules = predictor.model, predictor.model.rules
    said = [rules.start, *caption.ids, *[rules.eot] * caption.complete]
    ids = torch.tensor([said], device=predictor.device)

    @torch.no_grad()
    def log_probability(pixels: Pixels) -> Float[np.ndarray, " b"]:
        rows = ids.expand(len(pixels), -1)
        hidden = model(predictor.images(pixels), rows[:, :-1])
        log_probs = model.head(hidden).double().log_softmax(-1)
        return log_probs.gather(-1, rows[:, 1:, None]).sum((1, 2)).cpu().numpy()

    return log_probability


def answer_log_probability(predictor: ClassifierPredictor, example: Batch, answer: str) -> LogProbability:
    """Of one of the model's classes for an example, a batch of one whose picture gives way to others."""
    place = predictor.classes.index(answer)

    def log_probability(pixels: Pixels) -> Float[np.ndarray, " b"]:
        batch = _with_pictures(example.to(predictor.device), predictor.images(pixels))
        return np.log(np.maximum(predictor.probabilities_of(batch)[:, place], np.finfo(np.float64).tiny))

    return log_probability


def text_log_probability(predictor: ClipPredictor, texts: Vectors, place: int) -> LogProbability:
    """Of the text in one place among some texts, given as vectors: the logarithm of its share (see `Guess`)."""
    scale = float(predictor.model.log_scale.detach().exp())

    def log_probability(pixels: Pixels) -> Float[np.ndarray, " b"]:
        logits = torch.from_numpy(scale * predictor.embed_pixels(pixels) @ texts.T).double()
        return logits.log_softmax(-1)[:, place].numpy()

    return log_probability


def _with_pictures(example: Batch, images: Float[Tensor, "b c height width"]) -> Batch:
    """The batch of one as often as there are pictures, each time with another."""
    held: dict[str, Any] = {f.name: getattr(example, f.name) for f in fields(example)}
    repeated: dict[str, Any] = {
        n: v.expand(len(images), *v.shape[1:]) for n, v in held.items() if isinstance(v, Tensor)
    }
    return Batch(**held | repeated | {"images": images, "keys": example.keys * len(images)})


__all__ = [
    "CELLS",
    "COVER",
    "LogProbability",
    "answer_log_probability",
    "caption_log_probability",
    "occlusion_map",
    "text_log_probability",
]
