"""How good Perceivers are at filling gaps, and at giving back what was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from chiasm.data.source import Source
from chiasm.evaluate.captioner import ratio
from chiasm.evaluate.common import Estimate, SplitScores, readable
from chiasm.models.inputs import given
from chiasm.objectives import MaskedText, Reconstruction
from chiasm.objectives.masked import keyed_generator
from chiasm.objectives.reconstruction import places
from chiasm.predict.loading import ROWS, loader_of
from chiasm.predict.perceiver import GAP, MaskedPredictor, ReconstructionPredictor
from chiasm.progress import track
from chiasm.types import Batch


@dataclass(frozen=True)
class Filled:
    """One text with its gaps, what stood there, and what the model put there."""

    key: str
    text: str
    right: tuple[str, ...]
    filled: tuple[str, ...]


@dataclass(frozen=True)
class GivenBack:
    """The error of each modality of one example: mean square of what was hidden, of a text nats per token."""

    key: str
    errors: dict[str, float]


def evaluate_masked(
    predictor: MaskedPredictor, source: Source, splits: Sequence[str], *, max_broken_share: float = 0.05
) -> list[SplitScores]:
    """`gap_accuracy` and `gap_loss` (nats) over the gaps of each text, which are the same in every evaluation.

    `baseline` is the accuracy of the split's commonest token. Intervals are over examples, each with its first text.
    """
    return [_masked_split(predictor, source, split, max_broken_share) for split in splits if len(source.split(split))]


def _masked_split(predictor: MaskedPredictor, source: Source, split: str, max_broken_share: float) -> SplitScores:
    _, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    loader = loader_of(predictor.bundle, source.split(split), pictures, f"{source.name} {split}")
    right, losses, counts, stood, told = [], [], [], [], []
    parts = range(0, len(loader), ROWS)
    for _, batch in zip(track(parts, f"filling {split}", len(parts)), loader.in_order(ROWS), strict=True):
        gaps = MaskedText().gaps(predictor.model, batch, keyed_generator(batch))
        shares, wanted = predictor.shares(batch.ids, batch.keep, gaps), batch.ids[gaps]
        owners, best = gaps.nonzero()[:, 0].numpy(), shares.argmax(-1)
        likely = shares[torch.arange(len(wanted)), wanted].clamp(min=1e-12)
        right.append(np.bincount(owners, (best == wanted).numpy(), len(batch)))
        losses.append(np.bincount(owners, -likely.log().numpy(), len(batch)))
        counts.append(np.bincount(owners, minlength=len(batch)))
        stood.append((owners + sum(map(len, counts[:-1])), wanted.numpy()))
        told += _filled(predictor, batch, gaps.numpy(), best.numpy())
    count = np.concatenate(counts)
    owner, tokens = (np.concatenate(side) for side in zip(*stood, strict=True))
    common = np.bincount(owner, tokens == np.bincount(tokens).argmax(), len(count))
    scores = {
        "gap_accuracy": ratio(np.concatenate(right), count),
        "gap_loss": ratio(np.concatenate(losses), count),
        "baseline": ratio(common, count),
    }
    return SplitScores(split, len(loader), scores, tuple(scores), told, pictures.broken, counted="texts")


def _filled(predictor: MaskedPredictor, batch: Batch, gaps: np.ndarray, best: np.ndarray) -> list[Filled]:
    """What is told of each text of a batch."""
    tokenizer, found, start = predictor.tokenizer, [], 0
    for key, ids, keep, own in zip(batch.keys, batch.ids.numpy(), batch.keep.numpy(), gaps, strict=True):
        shown = [GAP if gap else tokenizer.token(int(i)) for i, gap in zip(ids[keep], own[keep], strict=True)]
        guesses = best[start : start + own.sum()]
        start += int(own.sum())
        found.append(
            Filled(
                key=key,
                text=" ".join(shown[1:-1]),
                right=tuple(tokenizer.token(int(i)) for i in ids[own]),
                filled=tuple(tokenizer.token(int(i)) for i in guesses),
            )
        )
    return found


def evaluate_reconstruction(
    predictor: ReconstructionPredictor, source: Source, splits: Sequence[str], *, max_broken_share: float = 0.05
) -> list[SplitScores]:
    """How well half of the places is given back from the other half, and each modality from all others.

    `picture_explained` is the share of the variance of hidden values that is explained, 1 where all is right and 0
    where the mean would do as well; `picture_from_others` the same with the whole picture hidden, of examples of
    several modalities. Of texts it is the share of hidden tokens that are right. Intervals are over examples.
    """
    return [_rebuilt_split(predictor, source, split, max_broken_share) for split in splits if len(source.split(split))]


def _rebuilt_split(
    predictor: ReconstructionPredictor, source: Source, split: str, max_broken_share: float
) -> SplitScores:
    _, pictures = readable(source, split, predictor.preprocess, max_broken_share)
    loader = loader_of(predictor.bundle, source.split(split), pictures, f"{source.name} {split}")
    names = list(predictor.model.config.inputs.named())
    sums: dict[str, list[Float[np.ndarray, "b 4"]]] = {}
    parts, keys = range(0, len(loader), ROWS), []
    for _, batch in zip(track(parts, f"rebuilding {split}", len(parts)), loader.in_order(ROWS), strict=True):
        hidden = Reconstruction(whole=0.0).hidden(predictor.model, batch, keyed_generator(batch))
        for name, values in _sums(predictor, batch, hidden).items():
            sums.setdefault(f"{name}_explained", []).append(values)
        for name in names if len(names) > 1 else ():
            there = places(predictor.model, batch)
            values = _sums(predictor, batch, {n: kept if n == name else kept & False for n, kept in there.items()})
            sums.setdefault(f"{name}_from_others", []).append(values[name])
        keys += batch.keys
    rows = {name: np.concatenate(values) for name, values in sums.items()}
    scores = {name: _explained(values) for name, values in rows.items() if values[:, 3].any()}
    told = [
        GivenBack(key, {name: _mean_error(rows[f"{name}_explained"][i]) for name in names})
        for i, key in enumerate(keys)
    ]
    return SplitScores(split, len(loader), scores, tuple(scores), told, pictures.broken, counted="examples")


def _sums(predictor: ReconstructionPredictor, batch: Batch, hidden: dict[str, Any]) -> dict[str, np.ndarray]:
    """For each modality and row: error, sum and sum of squares of the hidden values, and how many there are.

    Of texts the error is of being right or not, and the sums are such that nothing explained is nothing right.
    """
    answers, found = predictor.reconstruct(batch, hidden), {}
    values = given(batch.to(predictor.device), predictor.model.config.inputs)
    for name, hide in hidden.items():
        here = hide.numpy()
        if name == "text":
            wrong = (answers[name].argmax(-1) != batch.ids.numpy()) * here
            count = here.sum(1)
            found[name] = np.stack([wrong.sum(1), 0 * count, count, count], 1).astype(float)
            continue
        wanted = predictor.model.targets(name, values[name]).tokens.double().cpu().numpy()
        error = ((answers[name] - wanted) ** 2 * here[..., None]).sum((1, 2))
        own = wanted * here[..., None]
        found[name] = np.stack([error, own.sum((1, 2)), (own**2).sum((1, 2)), here.sum(1) * wanted.shape[2]], 1)
    return found


def _explained(sums: Float[np.ndarray, "n 4"]) -> Estimate:
    """1 - error / variance, the latter about the mean of all."""
    error, total, squares, count = sums.T
    mean = total.sum() / count.sum()
    left = ratio(error, squares - 2 * mean * total + count * mean**2)
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low)


def _mean_error(sums: Float[np.ndarray, " 4"]) -> float:
    return round(float(sums[0] / max(1.0, sums[3])), 5)


__all__ = ["Filled", "GivenBack", "evaluate_masked", "evaluate_reconstruction"]
