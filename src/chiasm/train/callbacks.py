"""What happens between steps: validation, the log, checkpoints, the progress bar, a clean stop."""

from __future__ import annotations

import csv
import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.objectives import Objective
from chiasm.progress import progress_bar
from chiasm.types import Batch


class Validate(Callback):
    """Score the averaged weights on the validation split every so many steps and after the last; keep the best."""

    def __init__(
        self,
        loader: Loader | InterleavedLoader | None,
        every_steps: int,
        save: Callable[[], None],
        patience: int | None,
    ):
        self.loader = loader
        self.every_steps = every_steps
        self.save = save
        self.patience = patience
        self.best = math.inf
        self.best_step = 0
        self.latest: float | None = None
        self.since_best = 0

    def on_train_batch_end(self, trainer: pl.Trainer, engine: Any, *_: Any) -> None:
        """Validate when it is time."""
        step = trainer.global_step
        if self.loader is None or (step % self.every_steps and step < engine.total_steps):
            return
        with engine.averaged() as model:
            self.latest = engine.latest["val_loss"] = validation_loss(model, engine.objective, self.loader)
        self.since_best += 1
        if self.latest < self.best:
            self.best, self.best_step, self.since_best = self.latest, step, 0
            self.save()
        if self.patience is not None and self.since_best >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_step": self.best_step, "since_best": self.since_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where the run was."""
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.since_best = state_dict["since_best"]


@torch.no_grad()
def validation_loss(model: Any, objective: Objective, loader: Loader | InterleavedLoader, rows: int = 256) -> float:
    """Mean over a whole split of the loss that the objective validates by, in nats."""
    sums = [objective.validate(model, batch) for batch in loader.in_order(rows)]
    return sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))


class MetricsLog(Callback):
    """`metrics.csv`: a row every few steps and at every validation; a resumed run goes on behind its checkpoint."""

    def __init__(self, path: Path, columns: Sequence[str], steps_per_epoch: int, every_steps: int):
        self.path = path
        self.columns = (
            "step", "epoch", "seconds", "loss", *columns, "val_loss", "learning_rate", "gradient_norm",
            "largest_norm", "clipped_share", "waiting_share", "images_per_second",
        )  # fmt: skip
        self.steps_per_epoch = steps_per_epoch
        self.every_steps = every_steps
        self.seconds = 0.0
        self.images = 0
        self.norms: list[float] = []
        self.since = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Drop the rows that a killed run wrote after its last checkpoint."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= trainer.global_step]
        scratch = self.path.with_suffix(".writing")
        with scratch.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        scratch.replace(self.path)
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, engine: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        """Write a row when it is time."""
        self.images += len(batch)
        self.norms.append(engine.latest["gradient_norm"])
        step = trainer.global_step
        if step % self.every_steps and "val_loss" not in engine.latest:
            return
        now = time.perf_counter()
        row = {name: f"{value:.6g}" for name, value in engine.latest.items() if name in self.columns}
        row |= {
            "step": str(step),
            "epoch": f"{step / self.steps_per_epoch:.3f}",
            "seconds": f"{self.seconds + now - self.since:.2f}",
            "largest_norm": f"{max(self.norms):.6g}",
            "clipped_share": f"{sum(norm > engine.config.clip_norm for norm in self.norms) / len(self.norms):.3g}",
            "waiting_share": f"{engine.waiting_seconds / (engine.waiting_seconds + engine.step_seconds):.3f}",
            "images_per_second": f"{self.images / max(1e-9, now - self.since):.1f}",
        }
        self.seconds, self.since, self.images, self.norms = self.seconds + now - self.since, now, 0, []
        engine.waiting_seconds = engine.step_seconds = 0.0
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in row.items() if name != "step"}, step)

    def state_dict(self) -> dict[str, Any]:
        """The seconds spent so far, and the norms since the last row."""
        return {"seconds": self.seconds + time.perf_counter() - self.since, "norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The seconds that were spent before, and the norms."""
        self.seconds, self.norms = state_dict["seconds"], list(state_dict["norms"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.csv`, numbers as numbers, empty cells as None; a row that was cut off is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]


class Checkpoints(Callback):
    """`checkpoints/last.ckpt`, every so many seconds, at the end, and when the run is asked to stop; written whole."""

    def __init__(self, path: Path, every_seconds: float):
        self.path = path
        self.every_seconds = every_seconds
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save when it is time."""
        if time.monotonic() - self.saved >= self.every_seconds:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save the end."""
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write beside, then replace: a kill leaves the old file or the new one."""
        scratch = self.path.with_suffix(".writing")
        trainer.save_checkpoint(scratch)
        scratch.replace(self.path)
        self.saved = time.monotonic()


class StopOnSignal(Callback):
    """Ctrl-C and SIGTERM end the run after the step in progress; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, *_: Any) -> None:
        """Listen."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._stop)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if asked."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_end(self, *_: Any) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _: Any) -> None:
        self.stopped = True
        signal.signal(number, self._before[number])


class Bar(Callback):
    """A progress bar with the time left and the losses; silent where stderr is no terminal."""

    def __init__(self, validate: Validate):
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        self.validate = validate
        self.progress = progress_bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}"),
        )

    def on_train_start(self, trainer: pl.Trainer, engine: Any) -> None:
        """Show it."""
        self.task = self.progress.add_task("", total=engine.total_steps, completed=trainer.global_step)
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, engine: Any, *_: Any) -> None:
        """Move it."""
        text = f"loss {engine.latest['loss']:.3f}"
        if self.validate.latest is not None:
            text += f"  val {self.validate.latest:.3f} (best {self.validate.best:.3f} at {self.validate.best_step})"
        self.progress.update(self.task, completed=trainer.global_step, description=text)

    def on_train_end(self, *_: Any) -> None:
        """Leave its last state on the screen."""
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line above the bar, where there is a bar."""
        if not self.progress.disable:
            self.progress.console.print(text, markup=False, highlight=False)

    def on_exception(self, *_: Any) -> None:
        """Give the terminal back."""
        self.progress.stop()


class Samples(Callback):
    """`samples.jsonl`: what the model says of a few validation pictures after each validation, to see it learn."""

    def __init__(self, path: Path, write: Callable[[], list[dict[str, str]]], say: Callable[[str], None]):
        self.path = path
        self.write = write
        self.say = say
        self.times = 0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Drop the samples that a killed run wrote after its last checkpoint."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            whole = [line for line in file if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= trainer.global_step]
        scratch = self.path.with_suffix(".writing")
        scratch.write_text("".join(kept), encoding="utf-8")
        scratch.replace(self.path)

    def on_train_batch_end(self, trainer: pl.Trainer, engine: Any, *_: Any) -> None:
        """Ask if this step was validated."""
        if "val_loss" not in engine.latest:
            return
        with engine.averaged(), self.path.open("a", encoding="utf-8") as file:
            samples = self.write()
            for sample in samples:
                file.write(json.dumps({"step": trainer.global_step} | sample, ensure_ascii=False) + "\n")
        shown = samples[self.times % len(samples)]
        self.times += 1
        self.say(f"step {trainer.global_step}: {shown['text']} → {shown['said']}")
