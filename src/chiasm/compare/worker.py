"""One training of a comparison: what it is, what came out of it, and the process that does it."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import shutil
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import numpy as np

from chiasm import config as configs
from chiasm.errors import UserError
from chiasm.evaluate.common import Items
from chiasm.train.config import RunConfig

JOB, OUTCOME, ERROR, LOG, RUN = "job.json", "outcome.json", "error.txt", "log.txt", "run"
"""What a job's folder holds, beside the scores of single items."""
STOPPED = 130
"""Exit code of a process that was asked to stop, and left a checkpoint if it had begun to train."""
GRACE_SECONDS = 30
"""So long a process whose parent is gone may take to end its step and save."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, and whether it is scored; `job.json` in its folder.

    With `train.minutes` its steps are measured when it first begins, so that only its resumptions are repeatable.
    """

    name: str
    """Its folder below the comparison's, as "arms/early/seed-0"."""
    settings: RunConfig
    flops: float
    """Of the whole training: its weight in the time left."""
    score: bool = True
    """Score it on the test splits; a trial of a learning rate is only validated."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.name)
        if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != self.name:
            raise ValueError(f"a job is named {self.name!r}; it must be a folder below the comparison's")
        if self.settings.train.precision == "auto":
            raise ValueError(f"{self.name}: precision is auto; fix it, a measurement may end differently every time")
        if not self.flops > 0:
            raise ValueError(f"{self.name}: flops are {self.flops}, they must be above 0")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job; `outcome.json` in its folder, written whole and last, so that it vouches for the rest."""

    name: str
    failed: str | None = None
    """Why there is no more to tell."""
    steps: int = 0
    samples: int = 0
    """Pictures or texts trained on, each as often as it was shown."""
    seconds: float = 0.0
    """Of training alone, without what a killed process did after its last checkpoint."""
    val_loss: float | None = None
    """The best; None where nothing was validated."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """By split and name."""


def outcome_in(folder: Path) -> Outcome | None:
    """What became of the job in this folder, None while it is not known."""
    path = folder / OUTCOME
    return configs.load(Outcome, path) if path.exists() else None


def save_items(items: Items, path: Path) -> None:
    """Write the scores of single items as a NumPy archive without pickles."""
    arrays: dict[str, Any] = {f"values/{name}": value for name, value in items.values.items()}
    arrays |= {name: np.array(getattr(items, name), dtype=np.str_) for name in ("keys", "groups", "kinds")}
    np.savez_compressed(path, **arrays)


def load_items(path: Path) -> Items:
    """Read what `save_items` wrote; UserError where it is missing or damaged."""
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            values = {name.removeprefix("values/"): file[name] for name in file.files if name.startswith("values/")}
            keys, groups, kinds = (tuple(file[name].tolist()) for name in ("keys", "groups", "kinds"))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}", "Delete the folder it is in, and run it again.") from error
    return Items(keys=keys, groups=groups, kinds=kinds, values=values)


def items_path(folder: Path, split: str) -> Path:
    """Where a job's folder holds the scores of single items of a split."""
    return folder / f"items-{split}.npz"


def work(folder: Path) -> int:
    """Do the job in this folder unless that was done; returns 0 once its outcome is written, STOPPED if it was stopped.

    Whatever the training raises becomes a failed outcome.
    """
    with (folder / JOB).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the orphan of a killed comparison may still be ending its step
        before = outcome_in(folder)
        if before is not None and before.failed is None:
            return 0
        for name in (OUTCOME, ERROR):
            (folder / name).unlink(missing_ok=True)
        job = configs.load(Job, folder / JOB)
        try:
            outcome = _train(job, folder)
        except UserError as error:
            outcome = Outcome(name=job.name, failed=str(error))
        except (KeyboardInterrupt, SystemExit):  # a signal, before the first step or after the last
            outcome = None
        except Exception as error:
            (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
            first_line = next(iter(str(error).splitlines()), "")
            outcome = Outcome(name=job.name, failed=f"{type(error).__name__}: {first_line} (more in {folder / ERROR})")
        if outcome is None:
            return STOPPED
        configs.save(outcome, folder / OUTCOME)
    return 0


def _train(job: Job, folder: Path) -> Outcome | None:
    """Train from the start or from the last checkpoint, then score; None where it was asked to stop."""
    import torch

    from chiasm.train.callbacks import read_metrics
    from chiasm.train.outcome import describe_outcome
    from chiasm.train.run import Run, fit

    place = folder / RUN
    resume = (place / "checkpoints" / "last.ckpt").exists()
    # A kill may have come before the first checkpoint, or while a model was written.
    left_over = [*place.glob(".bundle-*"), *place.glob("checkpoints/.bundle-*")] if resume else [place]
    for path in left_over:
        shutil.rmtree(path, ignore_errors=True)
    own = replace(job.settings.train, threads=torch.get_num_threads())  # as many as it was given
    run = Run(replace(job.settings, train=own), place, resume=resume)
    fitted = fit(run, resume=resume)
    if fitted.bundle is None:
        return None
    results = describe_outcome(run, fitted.bundle, fitted.best_step) if job.score else []
    for result in results:
        if result.items is not None:
            save_items(result.items, items_path(folder, result.split))
    rows = read_metrics(place / "metrics.csv")
    return Outcome(
        name=job.name,
        steps=fitted.step,
        samples=fitted.step * min(run.config.train.batch_size, len(run.loader)),
        seconds=rows[-1]["seconds"] if rows else 0.0,
        val_loss=fitted.val_loss,
        scores={r.split: {name: float(score.value) for name, score in r.scores.items()} for r in results},
    )


def run(folder: Path) -> int:
    """`work` as a process whose stdin is a pipe that ends when its parent does."""
    faulthandler.enable()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return work(folder)


def _stop_with_parent() -> None:
    os.read(0, 1)  # nobody writes: it returns when the other end is closed, by the parent or by its death
    os.kill(os.getpid(), signal.SIGTERM)  # a training ends its step and saves; anything else ends here
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


__all__ = ["Job", "Outcome", "items_path", "load_items", "outcome_in", "run", "save_items", "work"]
