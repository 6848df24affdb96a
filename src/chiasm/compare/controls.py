"""What an arm is measured against: models that see one modality, exchanged pictures, and less training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from chiasm.compare.budget import Solved
from chiasm.compare.jobs import Job, Outcome
from chiasm.compare.outcome import job_name
from chiasm.compare.results import Floor, FloorName, Interval, Scaling
from chiasm.config import merge
from chiasm.evaluate.common import Items
from chiasm.metrics.retrieval import mean_scores
from chiasm.metrics.scaling import fit_scaling
from chiasm.metrics.scaling import verdict as scaling_verdict
from chiasm.models import FusionClassifierConfig

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the training data, besides all of it."""

ALONE: dict[str, FloorName] = {"text": "text alone", "picture": "picture alone"}


def alone(best: Solved) -> tuple[str, ...]:
    """The modalities that the arm could be trained on by themselves; none where it cannot do without either."""
    model = best.arm.settings.model
    return tuple(ALONE) if isinstance(model, FusionClassifierConfig) and model.inputs == "both" else ()


def control_jobs(best: Solved) -> list[Job]:
    """Trainings of the best arm with one modality."""
    return [_job(best, f"floors/{best.arm.name}-{inputs}", {"model": {"inputs": inputs}}) for inputs in alone(best)]


def floors_of(
    best: Solved,
    metric: str,
    splits: Sequence[str],
    outcomes: Mapping[str, Outcome],
    items: Callable[[str, str], Items],
) -> tuple[Floor, ...]:
    """What can be had without the whole, by split; `items` gives those of a job and a split."""
    own = job_name(best.arm.name, best.arm.settings.train.seed)
    told: list[tuple[FloorName, str, str, str]] = [
        ("chance", "the commonest training answer to the same words", own, f"{metric}_baseline"),
        *((name, f"{best.arm.name} that sees the {inputs} alone", f"floors/{best.arm.name}-{inputs}", metric)
          for inputs, name in ALONE.items()),
        ("shuffled pictures", f"{best.arm.name}, asked with another picture", own, f"{metric}_shuffled"),
    ]  # fmt: skip
    floors = []
    for name, explained, job, score in told:
        if job not in outcomes or outcomes[job].failed is not None:
            continue
        scores = {split: found for split in splits if (found := _mean(items(job, split), score)) is not None}
        if scores:
            floors.append(Floor(name=name, explained=explained, scores=scores))
    return tuple(floors)


def scaling_jobs(best: Solved) -> list[Job]:
    """Trainings of the best arm on less data, with as many steps: so only the data differ."""
    return [_job(best, _scaling_name(best, share), {"data": {"share": share}}, score=False) for share in SHARES]


def scaling_of(best: Solved, examples: int, outcomes: Mapping[str, Outcome]) -> tuple[Scaling, ...]:
    """The best arm's validation loss against the share of the data; nothing where a training of it broke."""
    name = best.arm.name
    jobs = {share: _scaling_name(best, share) for share in SHARES}
    jobs[1.0] = job_name(name, best.arm.settings.train.seed)
    losses = {share: outcomes[job].val_loss for share, job in jobs.items() if job in outcomes}
    known = {share: loss for share, loss in losses.items() if loss is not None}
    if len(known) < len(jobs):
        return ()
    counts = [round(share * examples) for share in known]
    fit = fit_scaling(np.array(counts), np.array(list(known.values()))[:, None])
    return (
        Scaling(
            arm=name,
            fractions=tuple(known),
            examples=tuple(counts),
            losses=tuple(Interval(**vars(loss)) for loss in fit.losses),
            exponent=Interval(**vars(fit.exponent)),
            doubled=Interval(**vars(fit.doubled)),
            verdict=scaling_verdict(fit),
        ),
    )


def _job(best: Solved, name: str, changes: dict[str, object], *, score: bool = True) -> Job:
    return Job(name=name, settings=merge(best.arm.settings, changes), flops=best.flops, score=score)


def _scaling_name(best: Solved, share: float) -> str:
    return f"scaling/{best.arm.name}-{share:g}"


def _mean(items: Items, score: str) -> Interval | None:
    if score not in items.values:
        return None
    found = mean_scores({score: items.values[score]}, np.array(items.groups))[score]
    return Interval(value=found.value, low=found.low, high=found.high)


__all__ = ["SHARES", "alone", "control_jobs", "floors_of", "scaling_jobs", "scaling_of"]
