"""How good a captioner is: scores with intervals for each split, as numbers, JSON and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from chiasm.data.cache import Broken, Pictures, prepare_pictures
from chiasm.data.source import Source
from chiasm.data.transforms import normalize
from chiasm.errors import UserError
from chiasm.generate import GenerateConfig
from chiasm.metrics import bootstrap_interval, caption_scores
from chiasm.predict import Caption, Predictor
from chiasm.progress import track
from chiasm.types import Example

SHUFFLE_SEED = 0
ROWS = 128


class Estimate(NamedTuple):
    """A score and its 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Told:
    """What the model said of one picture, and what was to be said."""

    key: str
    caption: str
    confidence: float
    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class SplitScores:
    """What one split gave: scores by name, and every caption."""

    split: str
    pictures: int
    scores: dict[str, Estimate]
    captions: list[Told]
    broken: tuple[Broken, ...]


def evaluate_captioner(
    predictor: Predictor,
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
    predictor: Predictor, source: Source, split: str, config: GenerateConfig, max_broken_share: float
) -> SplitScores:
    examples = source.split(split)
    pictures = prepare_pictures(
        examples, predictor.bundle.preprocess, name=f"{source.name} {split}", max_broken_share=max_broken_share
    )
    good = [int(i) for i in pictures.good]
    if not good:
        raise UserError(f"No picture of the split {split!r} can be read", "`chiasm data check` lists the reasons.")
    seen: list[Example] = [examples[i] for i in good]
    captions: list[Caption] = []
    starts = range(0, len(good), ROWS)
    for start in track(starts, f"captioning {split}", total=len(starts)):
        captions += predictor.caption_pixels(pictures.pixels_of(pictures.good[start : start + ROWS]), config)
    by_name = caption_scores([c.text for c in captions], [e.texts for e in seen])
    scores = {name: Estimate(score.value, score.low, score.high) for name, score in by_name.items()}
    losses, shuffled, counts = _losses(predictor, pictures, seen)
    scores["token_loss"] = _ratio(losses, counts)
    scores["perplexity"] = Estimate(*map(math.exp, scores["token_loss"]))
    scores["shuffled_rise"] = _ratio(shuffled - losses, counts)
    told = [Told(e.key, c.text, round(c.confidence, 4), e.texts, e.label) for e, c in zip(seen, captions, strict=True)]
    return SplitScores(split, len(seen), scores, told, pictures.broken)


@torch.no_grad()
def _losses(
    predictor: Predictor, pictures: Pictures, examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each picture: the summed loss of its preferred text, the same under another picture, and its tokens."""
    model = predictor.model
    ids = predictor.tokenizer.encode([e.texts[0] for e in examples], context=model.rules.context, truncate=True)
    cycle = np.random.default_rng(SHUFFLE_SEED).permutation(len(examples))
    others = np.empty_like(cycle)
    others[cycle] = np.roll(cycle, 1)  # one cycle through all: no text keeps its picture
    columns = []
    for order in (np.arange(len(examples)), others):
        sums = []
        for start in range(0, len(examples), ROWS):
            pixels = pictures.pixels_of(pictures.good[order[start : start + ROWS]])
            rows = ids[start : start + ROWS]
            hidden = model(normalize(pixels, predictor.bundle.preprocess), rows[:, :-1])
            log_probs = model.head(hidden).float().log_softmax(-1)
            losses = -log_probs.gather(-1, rows[:, 1:, None])[..., 0]
            sums.append(losses.masked_fill(rows[:, 1:] == model.rules.pad, 0.0).sum(1).numpy())
        columns.append(np.concatenate(sums).astype(np.float64))
    counts = (ids[:, 1:] != model.rules.pad).sum(1).numpy().astype(np.float64)
    return columns[0], columns[1], counts


def _ratio(sums: np.ndarray, counts: np.ndarray) -> Estimate:
    """Mean per token, with its interval over pictures."""
    interval = bootstrap_interval(np.stack([sums, counts], 1), lambda totals: totals[:, 0] / totals[:, 1])
    return Estimate(float(sums.sum() / counts.sum()), interval.low, interval.high)


def scores_table(results: Sequence[SplitScores]) -> str:
    """The scores as a Markdown table, a row per split: value and 95 % interval."""
    columns = ["exact_match", "bleu_4", "rouge_l", "cider_d", "perplexity", "shuffled_rise"]
    lines = ["| split | pictures | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for result in results:
        cells = [f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})" for s in (result.scores[name] for name in columns)]
        lines.append(f"| {result.split} | {result.pictures:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_results(results: Sequence[SplitScores], folder: Path) -> None:
    """`evaluation.json`, `evaluation.md` and `captions.jsonl` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        r.split: {
            "pictures": r.pictures,
            "broken": len(r.broken),
            "scores": {n: s._asdict() for n, s in r.scores.items()},
        }
        for r in results
    }
    (folder / "evaluation.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "evaluation.md").write_text(scores_table(results) + "\n", encoding="utf-8")
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for result in results:
            for caption in result.captions:
                file.write(json.dumps({"split": result.split} | asdict(caption), ensure_ascii=False) + "\n")
