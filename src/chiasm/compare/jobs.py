"""The trainings of a comparison: each once, some at a time, wherever an earlier start left off."""

from __future__ import annotations

import fcntl
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from chiasm import config as configs
from chiasm.compare.cluster import EngineName, Pool, Start, open_pool
from chiasm.compare.view import View
from chiasm.compare.worker import JOB, OUTCOME, Job, Outcome, items_path, load_items, outcome_in
from chiasm.errors import UserError
from chiasm.evaluate.common import Items

LOOK_SECONDS = 0.5
"""Between two looks at how far the trainings are."""
_claimed: set[Path] = set()
"""The folders that this process has claimed."""


def run_jobs(
    jobs: Sequence[Job], folder: Path, *, engine: EngineName = "local", workers: int, threads: int
) -> dict[str, Outcome]:
    """What became of every job, by name, after running those that have not ended well, `workers` at once in order.

    Each is a process of `threads` threads; its result depends on nothing else, so it is the same to the bit whatever
    runs beside it, on whichever engine, and however often it was killed and resumed (on a CPU). A job that failed is
    tried again when it comes here again, from its last checkpoint: what went wrong may have been memory, or have been
    mended, and if not it costs what was lost since that checkpoint. A KeyboardInterrupt is raised when all processes
    have saved and ended.

    UserError where a job's settings are not those that it was begun with, or where another process works in `folder`.
    """
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"two jobs have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    if workers < 1 or threads < 1:
        raise ValueError(f"workers is {workers} and threads {threads}; they must be at least 1")
    with claim(folder):
        _enter(jobs, folder)
        found = {job.name: outcome_in(folder / job.name) for job in jobs}
        outcomes = {name: outcome for name, outcome in found.items() if outcome is not None and outcome.failed is None}
        if len(outcomes) < len(jobs):
            with (
                closing(open_pool(engine, workers=workers, threads=threads)) as pool,
                View(jobs, folder, workers) as view,
            ):
                _run(jobs, folder, outcomes, pool, view, workers=workers, threads=threads)
        return {name: outcomes[name] for name in names}


def items_of(folder: Path, name: str, split: str) -> Items:
    """The scores of single items of a split, as the finished job of this name left them; UserError for none."""
    return load_items(items_path(folder / name, split))


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Work in a comparison's folder alone; UserError where another process does. A process's claims may be nested.

    The claim ends with the process, whatever ends that.
    """
    folder = folder.resolve()
    if folder in _claimed:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}", "Name another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"Another comparison (process {lock.read().strip()}) is at work in {folder}",
                "Wait for it to end, or name another folder with --out.",
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        _claimed.add(folder)
        try:
            yield
        finally:
            _claimed.remove(folder)


def _enter(jobs: Sequence[Job], folder: Path) -> None:
    """Write down what each job is, once none is found to have been begun as something else."""
    for job in jobs:
        path = folder / job.name / JOB
        if path.exists():
            _check_same(configs.read_json(path), configs.to_dict(job), path)
    for job in jobs:
        path = folder / job.name / JOB
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            configs.save(job, path)


def _check_same(begun: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    changes = [text for text in _changes(begun, now) if not text.startswith("flops ")]  # only a weight
    if changes:
        more = f", and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise UserError(
            f"{path.parent} was begun with other settings: {', '.join(changes[:3])}{more}",
            "Go on with the settings of then, or name another folder with --out.",
        )


def _changes(begun: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ, by dotted path."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*begun, *now]):
            yield from _changes(begun.get(name), now.get(name), f"{path}.{name}".lstrip("."))
    elif begun != now:
        yield f"{path} was {begun!r}, is {now!r}"


def _run(
    jobs: Sequence[Job],
    folder: Path,
    outcomes: dict[str, Outcome],
    pool: Pool,
    view: View,
    *,
    workers: int,
    threads: int,
) -> None:
    """Fill in the outcomes that are missing."""
    folder = folder.resolve()
    waiting = deque(job.name for job in jobs if job.name not in outcomes)
    running: dict[Path, str] = {}
    how = {"threads": threads, "at": Path.cwd(), "modules": tuple(sys.path)}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.popleft()
                running[folder / name] = name
                pool.start(Start(folder=folder / name, **how))
            view.update(outcomes, running.values())
            for ended, why in pool.ended(LOOK_SECONDS).items():
                name = running.pop(ended)
                outcomes[name] = _conclude(name, ended, why)
                if outcomes[name].failed is not None:
                    view.say(f"{name} failed: {outcomes[name].failed}")
        view.update(outcomes, ())
    except KeyboardInterrupt:
        view.say("stopping after the steps in progress; Ctrl-C again ends at once")
        raise
    finally:
        pool.stop()


def _conclude(name: str, folder: Path, why: str | None) -> Outcome:
    """What the process wrote; or, where it could not, that it failed and why."""
    if why is not None:
        configs.save(Outcome(name=name, failed=why), folder / OUTCOME)
    outcome = outcome_in(folder)
    assert outcome is not None, f"{folder}: a process ended well and left no outcome"
    return outcome


__all__ = ["Job", "Outcome", "claim", "items_of", "run_jobs"]
