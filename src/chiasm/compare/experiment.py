"""A comparison from its settings to its results: equal costs, tuned rates, trainings, floors, scaling, statistics.

Everything is a job in a folder of its own: what a killed comparison has finished is read, not repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.compare import results
from chiasm.compare.budget import Solved
from chiasm.compare.config import CompareConfig
from chiasm.compare.controls import control_jobs, floors_of, scaling_jobs, scalings_of
from chiasm.compare.gallery import gallery
from chiasm.compare.jobs import Job, Outcome, items_of, run_jobs
from chiasm.compare.outcome import arm_results, data_card, differences_of, matrices, metric_of, notes_of, surroundings
from chiasm.compare.plan import Plan, planned
from chiasm.compare.tuning import tune, with_rate
from chiasm.compare.verdict import held_equal, not_equal, verdict
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.predict import load as load_predictor

Engine = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Machinery:
    """Where jobs run: here or on a cluster, how many at once, with how many threads each."""

    engine: Engine = "local"
    workers: int = 2
    threads: int = 1


def compare(config: CompareConfig, folder: Path, *, command: str, machinery: Machinery) -> results.Comparison:
    """Carry out a comparison, or go on with the one in the folder, and write `results.json` there.

    UserError where data, settings or folder do not allow it, or where no training of two arms came to its end.
    """
    began = time.time()
    source = config.arms[0].settings.data.open()
    if not source.test_splits:
        raise UserError(f"{source.name} has no test split to compare on", source.understood)
    plan = planned(config, source, folder)

    def run(jobs: Sequence[Job]) -> dict[str, Outcome]:
        return run_jobs(
            jobs, folder, engine=machinery.engine, workers=machinery.workers, threads=machinery.threads
        )

    tuned = tune(plan.arms, config.tune, config.seeds[0], run)
    arms = [with_rate(arm, tuned[arm.arm.name][0], config.seeds[0]) for arm in plan.arms]
    outcomes = run([_job(arm, seed) for arm in arms for seed in config.seeds])
    found = _Found(config, folder, source, plan, arms, outcomes)
    best = found.best()
    if config.floors:
        outcomes |= run(control_jobs(best))
    if config.scaling:
        outcomes |= run(scaling_jobs(best))
    return _written(found, best, {name: trials for name, (_, trials) in tuned.items()}, command, began)


@dataclass(frozen=True)
class _Found:
    """What is known once the arms are trained."""

    config: CompareConfig
    folder: Path
    source: Source
    plan: Plan
    arms: list[Solved]
    outcomes: dict[str, Outcome]
