"""A comparison's trainings on the terminal: which are done, how far the others are, and the time left for all."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from chiasm import config as configs
from chiasm.compare.worker import RUN, Job, Outcome
from chiasm.progress import progress_bar
from chiasm.train.config import RunConfig

TAIL_BYTES = 4096
"""Of a metrics file: more than its last row."""


class View:
    """A row for every arm with a sign for every seed, under a row for the whole; silent where stderr is no terminal.

    The part of a job's name before the last slash is its row. Time left follows from the FLOPs done since the start.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, workers: int):
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn

        self.jobs = jobs
        self.folder = folder
        self.workers = workers
        self.shares: dict[str, float] = {}
        self.busy_seconds = 0.0
        self.first_flops: float | None = None
        self.seen = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[more]}"),
        )
        self.progress = progress_bar(*columns)
        total = sum(job.flops for job in jobs)
        self.whole = self.progress.add_task("trainings", total=total, more="")
        self.rows: dict[str, list[Job]] = {}
        for job in jobs:
            self.rows.setdefault(str(PurePosixPath(job.name).parent), []).append(job)
        self.tasks = {
            row: self.progress.add_task(f"  {row}", total=sum(job.flops for job in its), more="")
            for row, its in self.rows.items()
        }

    def __enter__(self) -> View:
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line above the rows, where somebody reads."""
        if not self.progress.disable:
            self.progress.console.print(text, markup=False, highlight=False)

    def update(self, outcomes: Mapping[str, Outcome], running: Collection[str]) -> None:
        """Show the present state."""
        if self.progress.disable:
            return
        now = time.monotonic()
        self.busy_seconds += len(running) * (now - self.seen)
        self.seen = now
        for job in self.jobs:
            if job.name in outcomes:
                self.shares[job.name] = 1.0
            elif job.name in running or job.name not in self.shares:
                self.shares[job.name] = share_done(self.folder / job.name / RUN)
        done_flops = sum(job.flops * self.shares[job.name] for job in self.jobs)
        for row, its in self.rows.items():
            signs = "  ".join(self._sign(job, outcomes, running) for job in its)
            row_flops = sum(job.flops * self.shares[job.name] for job in its)
            self.progress.update(self.tasks[row], completed=row_flops, more=signs)
        failed = sum(outcome.failed is not None for outcome in outcomes.values())
        counts = f"{len(outcomes)} done{f' ({failed} failed)' if failed else ''}, {len(running)} running, "
        counts += f"{len(self.jobs) - len(outcomes) - len(running)} waiting"
        time_left = self._time_left(done_flops, running)
        self.progress.update(self.whole, completed=done_flops, more=f"{time_left}  {counts}")

    def _sign(self, job: Job, outcomes: Mapping[str, Outcome], running: Collection[str]) -> str:
        if job.name in outcomes:
            return "✓" if outcomes[job.name].failed is None else "✗"
        if job.name not in running:
            return "·"
        share = self.shares[job.name]
        return "scoring" if job.score and share == 1 else f"{share:.0%}"

    def _time_left(self, done_flops: float, running: Collection[str]) -> str:
        if self.first_flops is None:
            self.first_flops = done_flops
        new_flops = done_flops - self.first_flops
        if new_flops <= 0:
            return "-:--:--"
        first_running = sorted(self.jobs, key=lambda job: job.name not in running)
        left = [job.flops * (1 - self.shares[job.name]) for job in first_running]
        return str(timedelta(seconds=round(makespan(left, self.workers) * self.busy_seconds / new_flops)))


def makespan(lengths: Sequence[float], workers: int) -> float:
    """When the last of these ends if each is taken up in order by the first free one of so many workers."""
    free = [0.0] * workers
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def share_done(run: Path) -> float:
    """The share of a run's steps that its metrics file tells of; 0 for a run that has not begun."""
    step = _last_step(run / "metrics.csv")
    if not step:
        return 0.0
    steps = configs.load(RunConfig, run / "config.json").train.steps
    assert steps is not None, "a run's configuration is written when they are settled"
    return min(1.0, step / steps)


def _last_step(path: Path) -> float:
    """The first number of the last whole row, 0 where there is none."""
    if not path.exists():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        whole, _, _ = file.read().rpartition(b"\n")
    number = whole.rpartition(b"\n")[2].partition(b",")[0]
    return 0.0 if number in (b"", b"step") else float(number)


__all__ = ["View", "makespan", "share_done"]
