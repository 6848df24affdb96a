"""Weights between a model and its fine-tuned version, which often keep the old skill and have the new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from chiasm.bundle import Bundle, own_tensors
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate import Estimate, calibrate, evaluate
from chiasm.models import Captioner, Clip, build_model
from chiasm.predict import CaptionPredictor, ClipPredictor


@dataclass(frozen=True)
class Point:
    """The scores at one `alpha`: on the new data, and on each of the old."""

    alpha: float
    new: Estimate
    old: tuple[Estimate, ...]

    @property
    def old_mean(self) -> Estimate:
        """The mean over all old data."""
        return Estimate(*(fmean(values) for values in zip(*self.old, strict=True)))

    @property
    def both(self) -> float:
        """The mean of new and old, which the best point has most of."""
        return (self.new.value + self.old_mean.value) / 2


@dataclass(frozen=True)
class Sweep:
    """The name of the score and the points, by rising alpha."""

    score: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The point with the highest mean of new and old; of equal ones the lowest alpha."""
        return max(self.points, key=lambda point: (point.both, -point.alpha))

    def table(self, new: str, old: Sequence[str]) -> str:
        """The scores as a Markdown table, a row per alpha, with 95 % intervals."""
        lines = [f"| alpha | {' | '.join([new, *old])} | mean |", "|---" * (len(old) + 3) + "|"]
        for point in self.points:
            cells = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (point.new, *point.old)]
            mark = " (best)" if point is self.best else ""
            lines.append(f"| {point.alpha:g}{mark} | {' | '.join(cells)} | {point.both:.3f} |")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        points = [asdict(point) | {"both": point.both} for point in self.points]
        return {"score": self.score, "best_alpha": self.best.alpha, "points": points}


@torch.no_grad()
def interpolate(original: Bundle, tuned: Bundle, alpha: float) -> Bundle:
    """The model whose every weight is (1 - alpha) · original + alpha · tuned (WiSE-FT, 2109.01903, section 3).

    What held-out pairs said of the tuned model's cosines does not hold for it, and is left out. UserError where the
    models are not of one architecture and one world. `alpha` outside 0..1 extrapolates.
    """
    before, after = own_tensors(original.model), own_tensors(tuned.model)
    _check_same(original, tuned, before, after)
    mixed = {name: _mix(before[name], after[name], alpha) for name in after}
    model = build_model(tuned.model.config)
    model.load_state_dict(mixed, strict=False)
    return replace(tuned, model=model.eval(), calibration=None, card="")


def sweep(
    original: Bundle,
    tuned: Bundle,
    new: tuple[Source, str],
    old: Sequence[tuple[Source, str]],
    alphas: Sequence[float],
    *,
    score: str | None = None,
) -> Sweep:
    """Scores along the line from the original to the tuned model, on a split of the new data and of each of the old.

    `score` is one of the evaluation's, the first that it shows unless given. UserError where there is no such score.
    """
    points = []
    for alpha in sorted(set(alphas)):
        bundle = interpolate(original, tuned, alpha)
        name, value = _score(bundle, *new, score)
        score = score or name
        points.append(Point(alpha, value, tuple(_score(bundle, *place, score)[1] for place in old)))
    assert score is not None
    return Sweep(score, tuple(points))


def calibrated(bundle: Bundle, source: Source) -> Bundle:
    """The bundle with what the validation split says of its cosines, where it is a Clip and there is one."""
    if not isinstance(bundle.model, Clip) or not len(source.splits.get("val", ())):
        return bundle
    return replace(bundle, calibration=calibrate(ClipPredictor(bundle), source, "val"))


def _score(bundle: Bundle, source: Source, split: str, name: str | None) -> tuple[str, Estimate]:
    predictor = CaptionPredictor(bundle) if isinstance(bundle.model, Captioner) else ClipPredictor(bundle)
    results = evaluate(predictor, source, [split])
    if not results:
        raise UserError(f"{source.name} has no pictures in {split}", source.understood)
    name = name or results[0].columns[0]
    if name not in results[0].scores:
        raise UserError(f"There is no score {name!r} on {source.name}", f"Scores: {', '.join(results[0].scores)}.")
    return name, results[0].scores[name]


def _mix(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Counts and places, which are whole numbers, are the tuned model's."""
    if not after.is_floating_point():
        return after
    return (before * (1 - alpha) + after * alpha).to(after.dtype)


def _check_same(original: Bundle, tuned: Bundle, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    shapes = {n for n in before.keys() & after.keys() if before[n].shape != after[n].shape}
    differing = [
        ("only in the original", sorted(before.keys() - after.keys())),
        ("only in the tuned model", sorted(after.keys() - before.keys())),
        ("of another shape", [f"{n} {tuple(before[n].shape)} and {tuple(after[n].shape)}" for n in sorted(shapes)]),
    ]
    told = [f"{what}: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" for what, names in differing if names]
    if told:
        raise UserError(f"The models are of different architectures; tensors {'; '.join(told)}",
                        "Name a model and one that was trained from it (chiasm train ... --from).")  # fmt: skip
    for what, same in (
        ("tokenizers", original.tokenizer == tuned.tokenizer),
        ("preprocessing", original.preprocess == tuned.preprocess),
    ):
        if not same:
            raise UserError(f"The models have different {what}", "Between them there are no weights that make sense; "
                            "train one from the other (chiasm train ... --from).")  # fmt: skip


__all__ = ["Point", "Sweep", "calibrated", "interpolate", "sweep"]
