"""How good a captioner is: its captions against all texts of each picture, and how much it needs the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from chiasm.data.cache import Pictures
from chiasm.data.source import Source
from chiasm.evaluate.common import Estimate, Items, SplitScores, readable
from chiasm.generate import GenerateConfig
from chiasm.metrics import bootstrap_interval, caption_scores
from chiasm.predict import Caption, CaptionPredictor
from chiasm.predict.loading import ROWS
from chiasm.progress import track
from chiasm.types import Example

COLUMNS = ("exact_match", "bleu_4", "rouge_l", "cider_d", "perplexity", "shuffled_rise")
SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Told:
    """What the model said of one picture, and what was to be said."""

    key: str
    caption: str
    confidence: float
    texts: tuple[str, ...]
    label: str


def evaluate_captioner(
    predictor: CaptionPredictor,
    source: Source,
    splits: Sequence[str],
    config: GenerateConfig,
    *,
    max_broken_share: float = 0.05,
) -> list[SplitScores]:
    """Caption every picture of the splits and score the captions against all texts of each picture.

    The scores of `caption_scores`, token loss and perplexity of the preferred text, and `shuffled_rise`: by
    how many nats per token the loss rises when each picture is exchanged for another, near 0 for a decoder that
    ignores the picture.
    """
    return [
        _evaluate_split(predictor, source, split, config, max_broken_share)
        for split in splits
        if len(source.split(split))
    ]


def _evaluate_split(
    predictor: CaptionPredictor, source: Source, split: str, config: GenerateConfig, max_broken_share: float
) -> SplitScores:
    seen, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    captions: list[Caption] = []
    starts = range(0, len(seen), ROWS)
    for start in track(starts, f"captioning {split}", total=len(starts)):
        captions += predictor.caption_pixels(pictures.pixels_of(pictures.good[start : start + ROWS]), config)
    by_name = caption_scores([c.text for c in captions], [e.texts for e in seen])
    scores = {name: Estimate(score.value, score.low, score.high) for name, score in by_name.items()}
    others = _others(len(seen))
    losses, shuffled, counts = _losses(predictor, pictures, seen, others)
    scores["token_loss"] = ratio(losses, counts)
    scores["perplexity"] = Estimate(*map(math.exp, scores["token_loss"]))
    scores["shuffled_rise"] = ratio(shuffled - losses, counts)
    told = [Told(e.key, c.text, round(c.confidence, 4), e.texts, e.label) for e, c in zip(seen, captions, strict=True)]
    exchanged = caption_scores([captions[other].text for other in others], [e.texts for e in seen])
    values = {"token_loss": losses / counts, "token_loss_shuffled": shuffled / counts}
    for name in ("exact_match", "cider_d"):
        values |= {name: by_name[name].per_item, f"{name}_shuffled": exchanged[name].per_item}
    return SplitScores(split, len(seen), scores, COLUMNS, told, pictures.broken, items=Items.of(seen, values))


def _others(pictures: int) -> np.ndarray:
    """For each picture another one, in one cycle through all: no text keeps its picture."""
    cycle = np.random.default_rng(SHUFFLE_SEED).permutation(pictures)
    others = np.empty_like(cycle)
    others[cycle] = np.roll(cycle, 1)
    return others


@torch.no_grad()
def _losses(
    predictor: CaptionPredictor, pictures: Pictures, examples: Sequence[Example], others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each picture: the summed loss of its preferred text, the same under another picture, and its tokens."""
    model = predictor.model
    texts, context = [e.texts[0] for e in examples], model.rules.context
    ids = predictor.tokenizer.encode(texts, context=context, truncate=True).to(predictor.device)
    counts = np.minimum(predictor.tokenizer.lengths(texts), context) - 1  # by length: a pad may be EOT's id
    columns = []
    for order in (np.arange(len(examples)), others):
        sums = []
        for start in range(0, len(examples), ROWS):
            pixels = pictures.pixels_of(pictures.good[order[start : start + ROWS]])
            rows = ids[start : start + ROWS]
            hidden = model(predictor.images(pixels), rows[:, :-1])
            log_probs = model.head(hidden).float().log_softmax(-1)
            losses = -log_probs.gather(-1, rows[:, 1:, None])[..., 0]
            real = np.arange(losses.shape[1]) < counts[start : start + ROWS, None]
            sums.append((losses.cpu().numpy() * real).sum(1))
        columns.append(np.concatenate(sums).astype(np.float64))
    return columns[0], columns[1], counts.astype(np.float64)


def ratio(sums: np.ndarray, counts: np.ndarray) -> Estimate:
    """Mean per token, with its interval over examples, each of which has a sum and its tokens."""
    interval = bootstrap_interval(np.stack([sums, counts], 1), lambda totals: totals[:, 0] / totals[:, 1])
    return Estimate(float(sums.sum() / counts.sum()), interval.low, interval.high)
