"""A comparison from its settings to its results: equal costs, tuned rates, trainings, floors, scaling, statistics.

Every training is a job in a folder of its own: what a killed comparison had finished is read, not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiasm import config as configs
from chiasm.compare import outcome as told
from chiasm.compare import results
from chiasm.compare.budget import Solved
from chiasm.compare.config import CompareConfig, Machinery
from chiasm.compare.controls import control_jobs, floors_of, scaling_jobs, scaling_of
from chiasm.compare.gallery import gallery
from chiasm.compare.jobs import Job, Outcome, claim, items_of, run_jobs
from chiasm.compare.plan import Plan, planned
from chiasm.compare.tuning import tune, with_rate
from chiasm.compare.verdict import held_equal, not_equal, verdict
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate.common import Items
from chiasm.metrics.comparing import Compared
from chiasm.predict import load as load_predictor
from chiasm.train.findings import read_findings


def compare(config: CompareConfig, folder: Path, *, command: str, machinery: Machinery) -> results.Comparison:
    """Carry out a comparison, or go on with the one in the folder, and write `results.json` there.

    UserError where data, settings or folder do not allow it, or where fewer than two arms could be trained.
    """
    source = open_data(config)
    metric = told.metric_of(config.task, config.arms[0].settings.data.path, config.metric)
    with claim(folder):
        plan = planned(config, source, folder, machinery)
        trained = _train(config, folder, source, plan, metric, machinery)
        comparison = _described(config, folder, source, plan, metric, trained, command, machinery)
        results.save(comparison, folder)
    return comparison


def open_data(config: CompareConfig) -> Source:
    """The data that all arms are compared on; UserError where there is no test split."""
    source = config.arms[0].settings.data.open()
    if not any(len(source.splits[split]) for split in source.test_splits):
        raise UserError(f"{source.name} has no test split to compare on", source.understood)
    return source


@dataclass(frozen=True)
class _Trained:
    """What is known when every job is done."""

    arms: list[Solved]
    """With the learning rates that were chosen for them."""
    tried: dict[str, tuple[results.Trial, ...]]
    outcomes: dict[str, Outcome]
    tables: dict[str, told.Table]
    """By split."""
    found: dict[str, Compared]
    best: Solved
    """With the seed of the trainings that it is measured against."""
    items: Callable[[str, str], Items]


def _train(
    config: CompareConfig, folder: Path, source: Source, plan: Plan, metric: results.Metric, machinery: Machinery
) -> _Trained:
    outcomes: dict[str, Outcome] = {}

    def run(jobs: Sequence[Job]) -> dict[str, Outcome]:
        outcomes.update(
            run_jobs(jobs, folder, engine=machinery.engine, workers=machinery.workers, threads=machinery.threads)
        )
        return outcomes

    def items(job: str, split: str) -> Items:
        return items_of(folder, job, split)

    tuned = tune(plan.arms, config.tune, config.seeds[0], run)
    arms = [with_rate(arm, tuned[arm.arm.name][0], config.seeds[0]) for arm in plan.arms]
    run([_job(arm, seed) for arm in arms for seed in config.seeds])
    splits = [split for split in source.test_splits if len(source.splits[split])]
    by_split = told.tables(config, splits, outcomes, items, metric)
    found = {split: told.compared(table, metric) for split, table in by_split.items()}
    first = by_split[splits[0]]
    best = next(arm for arm in arms if arm.arm.name == first.arms[found[splits[0]].best])
    best = with_rate(best, best.arm.settings.train.learning_rate, first.seeds[0])
    controls = [*(control_jobs(best) if config.floors else ()), *(scaling_jobs(best) if config.scaling else ())]
    run(controls)
    tried = {name: trials for name, (_, trials) in tuned.items()}
    return _Trained(arms, tried, outcomes, by_split, found, best, items)


def _job(arm: Solved, seed: int) -> Job:
    seeded = with_rate(arm, arm.arm.settings.train.learning_rate, seed)
    return Job(name=told.job_name(arm.arm.name, seed), settings=seeded.arm.settings, flops=arm.flops)


def _described(
    config: CompareConfig,
    folder: Path,
    source: Source,
    plan: Plan,
    metric: results.Metric,
    trained: _Trained,
    command: str,
    machinery: Machinery,
) -> results.Comparison:
    """The results, with everything that people want to see beside the scores."""
    splits = list(trained.tables)
    first = trained.tables[splits[0]]
    examples = {example.key: example for split in splits for example in source.split(split)}
    slices = {split: told.slices_of(table, metric, examples) for split, table in trained.tables.items()}
    arms = tuple(
        told.arm_result(
            arm, config, trained.tried[arm.arm.name], trained.outcomes, trained.found, trained.tables, slices, folder,
            metric,
        )
        for arm in trained.arms
    )  # fmt: skip
    differences = told.differences_of(trained.found, trained.tables)
    floors = floors_of(trained.best, metric.name, splits, trained.outcomes, trained.items)
    runs = {arm: folder / told.job_name(arm, first.seeds[0]) / "run" for arm in first.arms}
    predictors = {arm: load_predictor(run) for arm, run in runs.items()}
    items = {arm: trained.items(told.job_name(arm, first.seeds[0]), first.split) for arm in first.arms}
    return results.Comparison(
        task=config.task,
        metric=metric,
        split=first.split,
        verdict=verdict(metric, first.split, arms, differences, floors),
        held_equal=held_equal(config, plan.arms),
        not_equal=not_equal(config, arms),
        arms=arms,
        differences=differences,
        floors=floors,
        scaling=scaling_of(trained.best, plan.world.examples, trained.outcomes),
        gallery=gallery(
            folder, predictors, items, source, first.split, metric.name, higher_is_better=metric.higher_is_better
        ),
        data=told.data_card(source, next(iter(runs.values()))),
        notes=_notes(runs, trained.outcomes),
        command=command,
        settings=configs.to_dict(config),
        versions=told.versions(),
        machine=told.machine(machinery),
        minutes=sum(outcome.seconds for outcome in trained.outcomes.values()) / 60,
    )


def _notes(runs: Mapping[str, Path], outcomes: Mapping[str, Outcome]) -> tuple[str, ...]:
    """What the coach found in each arm's first training, each said once; and what broke beside the arms."""
    notes: dict[str, list[str]] = {}
    for arm, run in runs.items():
        for finding in read_findings(run):
            notes.setdefault(finding.text, []).append(arm)
    told = [f"{'all arms' if len(arms) == len(runs) else ', '.join(arms)}: {text}" for text, arms in notes.items()]
    broken = [o for o in outcomes.values() if o.failed is not None and not o.name.startswith("arms/")]
    return (*told, *(f"{outcome.name} broke: {outcome.failed}" for outcome in broken))


__all__ = ["compare", "open_data"]
