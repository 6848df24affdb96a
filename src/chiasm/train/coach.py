"""The training coach: says in plain language what goes wrong in a run, while it trains and when it has ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from chiasm.data.findings import Leaks
from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.leaks import prepared_leaks
from chiasm.data.loader import Loader
from chiasm.data.source import picture_key
from chiasm.data.transforms import NO_PICTURES
from chiasm.evaluate import SplitScores
from chiasm.losses.positives import count_positives
from chiasm.machine import available_cores
from chiasm.models import Clip, Coca
from chiasm.models.clip import MAX_LOG_SCALE
from chiasm.objectives import Objective, Rows
from chiasm.train import diagnose_data as data
from chiasm.train import diagnose_steps as steps
from chiasm.train.callbacks import read_metrics
from chiasm.train.findings import Finding

if TYPE_CHECKING:
    from chiasm.train.run import Run

LOOKED_AT = 8
"""Batches whose pairs are held against each other: of an epoch's, enough for a mean."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run beside metrics.csv, before its first step; a resumed run finds the same."""

    objective: Objective
    planned_steps: int
    warmup: float
    clip_norm: float
    keep: Literal["best", "last"]
    workers: int
    cores: int
    stored: bool
    """Pictures come from the cache."""
    scale_limit: float | None
    """None for a model without similarities, or without a limit to their scale."""
    unigram_loss: float | None
    """None for what is not a text that is written token by token."""
    pairs: tuple[int, float, int] | None
    """Of a model that tells pairs apart: a batch's, how many others belong to each of them, and the data's."""
    cut: tuple[float, float, int]
    """The share of captions, and of tokens, that lose their end, and the context to which they do."""
    leaks: Leaks
    pictures: dict[str, int]
    """How many of each split are good."""
    leaked_texts: dict[str, int]
    """By split, how many of the leaked pictures have a text of their twin's."""


def facts_of(run: Run) -> Facts:
    """What a run knows when it has been built."""
    train, loader, objective = run.config.train, run.loader, run.task.objective
    assert train.steps is not None
    flat = loader.loader if isinstance(loader, InterleavedLoader) else loader
    writes = "token_loss" in objective.columns and not (isinstance(loader, InterleavedLoader) and not loader.packed)
    rules, leaks = run.config.model.rules, prepared_leaks(run.pictures)
    limited = isinstance(run.model, (Clip, Coca)) and run.model.bias is None
    return Facts(
        objective=objective,
        planned_steps=train.steps,
        warmup=train.warmup,
        clip_norm=train.clip_norm,
        keep=train.keep,
        workers=train.workers,
        cores=available_cores(),
        stored=run.config.preprocess.size == NO_PICTURES or run.pictures["train"].path is not None,
        scale_limit=math.exp(MAX_LOG_SCALE) if limited else None,
        unigram_loss=flat.unigram_loss if writes else None,
        pairs=_pairs(flat) if isinstance(run.model, (Clip, Coca)) else None,
        cut=(*flat.cut_shares, rules.context if rules else 0),
        leaks=leaks,
        pictures={name: len(own.good) for name, own in run.pictures.items()},
        leaked_texts=_leaked_texts(run, leaks),
    )


def findings_before(facts: Facts) -> list[Finding]:
    """What can be said of a run before its first step."""
    found = [
        data.leak(facts.leaks, facts.pictures, facts.leaked_texts),
        data.captions_cut(*facts.cut),
        data.few_negatives(*facts.pairs) if facts.pairs else None,
        steps.long_warmup(facts.warmup, facts.planned_steps, facts.planned_steps),
    ]
    return [finding for finding in found if finding is not None]


def findings_during(facts: Facts, rows: Rows) -> list[Finding]:
    """What these rows of metrics.csv, of a run that goes on or has ended, show of its training."""
    found = [
        steps.not_learning(facts.objective, rows),
        steps.unigram_level(rows, facts.unigram_loss),
        steps.gradients_exploding(rows, facts.clip_norm),
        steps.validation_rising(rows, facts.keep),
        steps.scale_at_clamp(rows, facts.scale_limit),
        steps.data_bound(rows, facts.workers, facts.cores, facts.stored),
    ]
    return [finding for finding in found if finding is not None]


def findings_after(facts: Facts, rows: Rows, results: Sequence[SplitScores]) -> list[Finding]:
    """All findings of a run that has ended, from its record alone: what was said while it trained may have passed."""
    taken = int(rows[-1]["step"] or 0) if rows else 0
    ended = [
        data.pictures_ignored(results[0].scores) if results else None,
        steps.long_warmup(facts.warmup, facts.planned_steps, taken) if taken < facts.planned_steps else None,
        steps.still_falling(rows, facts.planned_steps),
    ]
    found = {finding.name: finding for finding in findings_before(facts)}
    found |= {finding.name: finding for finding in (*findings_during(facts, rows), *ended) if finding is not None}
    return list(found.values())


class Coach(Callback):
    """Says each finding once, as soon as it can be seen: before the first step, or when the rows so far show it."""

    def __init__(self, facts: Facts, metrics: Path, say: Callable[[str], None]):
        self.facts = facts
        self.metrics = metrics
        self.say = say
        self.first_step = max(steps.FAIR_STEPS, facts.planned_steps // 10)
        self.said: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Say what needs no steps to be seen."""
        self._say(trainer.global_step, findings_before(self.facts))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look at the log when there is enough to see, a hundred times in a run."""
        step = trainer.global_step
        if step >= self.first_step and step % max(steps.FAIR_STEPS, self.facts.planned_steps // 100) == 0:
            self._say(step, findings_during(self.facts, read_metrics(self.metrics)))

    def _say(self, step: int, findings: Sequence[Finding]) -> None:
        for finding in findings:
            if finding.name not in self.said:
                self.said.append(finding.name)
                self.say(f"step {step}: {finding.text}")

    def state_dict(self) -> dict[str, Any]:
        """What was said."""
        return {"said": self.said}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was said before, and need not be said again."""
        self.said = list(state_dict["said"])


def _pairs(loader: Loader) -> tuple[int, float, int]:
    ids = [loader.pair_ids(step) for step in range(min(LOOKED_AT, loader.steps_per_epoch))]
    alike = [float(count_positives(own, own).float().mean()) - 1 for own in ids]
    return ids[0].shape[1], sum(alike) / len(alike), len(loader)


def _leaked_texts(run: Run, leaks: Leaks) -> dict[str, int]:
    """By split, how many leaked pictures have a text in common with the training picture that they equal."""
    texts: dict[tuple[str, str], set[str]] = {}
    for split in {split for pair in leaks for split in pair}:
        for example in run.source.split(split):
            texts.setdefault((split, picture_key(example)), set()).update(example.texts)
    return {
        second: sum(bool(texts[one.split, one.key] & texts[other.split, other.key]) for one, other in pairs)
        for (first, second), pairs in leaks.items()
        if first == "train"
    }


__all__ = ["Coach", "Facts", "facts_of", "findings_after"]
