"""How good a Flamingo is: with examples in its prompt, and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chiasm.data.cache import Pictures
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.captioner import evaluate_captioner
from chiasm.evaluate.common import Estimate, SplitScores, readable
from chiasm.generate import GenerateConfig
from chiasm.metrics.intervals import mean_interval
from chiasm.predict import FlamingoPredictor
from chiasm.predict.flamingo import Shots
from chiasm.predict.loading import ROWS
from chiasm.progress import track
from chiasm.types import Example

COLUMNS = ("exact_match", "exact_match_0_shots", "choice", "choice_0_shots", "chance")
SHOTS = 4
"""Captioned training pictures before each test picture, or as many as the context holds."""
SEED = 0


@dataclass(frozen=True)
class Shown:
    """What the model said of the last picture of a sequence, after the others, and what was to be said."""

    key: str
    caption: str
    without_shots: str
    text: str
    shots: tuple[str, ...]


def evaluate_flamingo(
    predictor: FlamingoPredictor,
    source: Source,
    splits: Sequence[str],
    config: GenerateConfig,
    *,
    max_broken_share: float = 0.05,
) -> list[SplitScores]:
    """Of interleaved data, the last picture of each sequence after all before it; of other, captions.

    Sequences: `exact_match`, the share whose last text is written to the letter; `choice`, the share where of all
    texts of the sequence the right one is the likeliest, for which guessing gives `chance`; each also without the rest
    of the sequence (`_0_shots`). Captions: the scores of captioners without shots, and `exact_match_N_shots` after N
    captioned pictures of the training split.
    """
    chosen = [split for split in splits if len(source.split(split))]
    if source.interleaved:
        return [_sequences(predictor, source, split, config, max_broken_share) for split in chosen]
    results = evaluate_captioner(predictor.writer, source, chosen, config, max_broken_share=max_broken_share)
    shots = _training_shots(predictor, source, max_broken_share)
    return [_with_shots(predictor, source, result, config, shots, max_broken_share) for result in results]


def _sequences(
    predictor: FlamingoPredictor, source: Source, split: str, config: GenerateConfig, max_broken_share: float
) -> SplitScores:
    examples, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.group, []).append(place)
    rows, told = [], []
    for places in track(groups.values(), f"asking {split}", total=len(groups)):
        own = [examples[place] for place in places]
        if own[-1].image is None or not own[-1].texts[0]:  # nothing to be asked
            continue
        pixels = pictures.pixels_of(pictures.good[places])
        shots = predictor.show(pixels[:-1], [e.texts[0] for e in own[:-1]], [e.image is not None for e in own[:-1]])
        truth = own[-1].texts[0]
        choices = list(dict.fromkeys(e.texts[0] for e in own if e.texts[0] and e.image is not None))
        said, scores = [], []
        for shown in (shots, None):
            said.append(predictor.caption_pixels(pixels[-1:], config, shown)[0].text)
            likely = predictor.log_probs(pixels[-1:], choices, shown)[0]
            scores += [float(said[-1] == truth), float(choices[int(likely.argmax())] == truth)]
        rows.append([scores[0], scores[2], scores[1], scores[3], 1 / len(choices)])
        told.append(Shown(own[-1].key, said[0], said[1], truth, tuple(example.texts[0] for example in own[:-1])))
    if not rows:
        raise UserError(f"No sequence of {split!r} ends with a picture and its text", "Give the last pictures a text.")
    scores = {name: _mean(column) for name, column in zip(COLUMNS, np.array(rows).T, strict=True)}
    return SplitScores(split, len(rows), scores, COLUMNS, told, pictures.broken, counted="sequences")


def _training_shots(predictor: FlamingoPredictor, source: Source, max_broken_share: float) -> tuple[int, Shots] | None:
    """A few captioned training pictures, as many as leave room for as long a text; None where there is no room."""
    if not len(source.splits.get("train", ())):
        return None
    examples, pictures = readable(source, "train", predictor.preprocess, max_broken_share)
    chosen = np.random.default_rng(SEED).permutation(len(examples))[:SHOTS]
    texts = [examples[int(i)].texts[0] for i in chosen]
    lengths = predictor.tokenizer.lengths(texts)
    count = min(len(texts), (predictor.model.config.rules.context - 1) // max(lengths) - 1)
    if count < 1:
        return None
    return count, predictor.show(pictures.pixels_of(pictures.good[chosen[:count]]), texts[:count])


def _with_shots(
    predictor: FlamingoPredictor,
    source: Source,
    result: SplitScores,
    config: GenerateConfig,
    shots: tuple[int, Shots] | None,
    max_broken_share: float,
) -> SplitScores:
    if shots is None:
        return result
    count, shown = shots
    examples, pictures = readable(source, result.split, predictor.preprocess, max_broken_share)
    right = _right(predictor, examples, pictures, config, shown, result.split)
    name = f"exact_match_{count}_shots"
    return replace(result, scores=result.scores | {name: _mean(right)}, columns=(*result.columns, name))


def _right(
    predictor: FlamingoPredictor,
    examples: Sequence[Example],
    pictures: Pictures,
    config: GenerateConfig,
    shots: Shots,
    split: str,
) -> np.ndarray:
    starts = range(0, len(examples), ROWS)
    right = []
    for start in track(starts, f"asking {split} after shots", total=len(starts)):
        captions = predictor.caption_pixels(pictures.pixels_of(pictures.good[start : start + ROWS]), config, shots)
        own = examples[start : start + ROWS]
        right += [float(c.text in example.texts) for c, example in zip(captions, own, strict=True)]
    return np.array(right)


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), *mean_interval(values))


__all__ = ["Shown", "evaluate_flamingo"]
