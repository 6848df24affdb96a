"""How good a language model is: the perplexity of texts that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chiasm.data.source import Source
from chiasm.data.texts import in_contexts
from chiasm.evaluate.captioner import ratio
from chiasm.evaluate.common import ROWS, Estimate, SplitScores
from chiasm.predict.lm import LanguagePredictor
from chiasm.progress import track

COLUMNS = ("perplexity", "token_loss")


@dataclass(frozen=True)
class Read:
    """How likely the model finds one text: its loss per token, the end counted, in nats."""

    key: str
    text: str
    token_loss: float


def evaluate_lm(predictor: LanguagePredictor, source: Source, splits: Sequence[str]) -> list[SplitScores]:
    """`token_loss` (nats) and `perplexity`, its exponential, over all tokens of a split's texts.

    Texts are those of `in_contexts`; intervals are over examples, each with all its texts.
    """
    parted = in_contexts(source, predictor.tokenizer, predictor.model.rules.context)
    return [_evaluate_split(predictor, parted, split) for split in splits if len(parted.split(split))]


def _evaluate_split(predictor: LanguagePredictor, source: Source, split: str) -> SplitScores:
    examples = [example for example in source.split(split) if example.texts]
    owners = np.repeat(np.arange(len(examples)), [len(example.texts) for example in examples])
    texts = [text for example in examples for text in example.texts]
    losses, counts = np.empty(len(texts)), np.empty(len(texts))
    starts = range(0, len(texts), ROWS)
    for start in track(starts, f"reading {split}", total=len(starts)):
        rows = slice(start, start + ROWS)
        losses[rows], counts[rows] = predictor.token_losses(texts[rows])
    loss = ratio(np.bincount(owners, losses), np.bincount(owners, counts))
    scores = {"token_loss": loss, "perplexity": Estimate(*map(math.exp, loss))}
    told = [
        Read(examples[owner].key, text, round(float(of_text / count), 4))
        for owner, text, of_text, count in zip(owners, texts, losses, counts, strict=True)
    ]
    return SplitScores(split, len(examples), scores, COLUMNS, told, (), counted="texts")
