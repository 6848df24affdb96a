"""The training step, as a LightningModule: every step is a function of the seed and its number alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.errors import UserError
from chiasm.machine import has_compiler
from chiasm.models import Model
from chiasm.nn import build_optimizer, checkpoint_blocks, compile_blocks
from chiasm.objectives import Objective
from chiasm.train.config import TrainConfig
from chiasm.train.finetune import layer_groups, rest_frozen
from chiasm.types import Batch


class Engine(pl.LightningModule):
    """Forward, backward, clip, step, average.

    Nothing random is carried from step to step: dropout is seeded by (seed, step), and so are the loader's order and
    augmentation. So a run that is killed anywhere and resumed from its last checkpoint repeats the undisturbed run to
    the bit, without any generator's state having been saved.
    """

    def __init__(self, model: Model, objective: Objective, config: TrainConfig, total_steps: int):
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        if config.checkpointing:
            checkpoint_blocks(model)
        if config.compile:
            if not has_compiler():
                raise UserError(
                    "train.compile needs a C++ compiler, and there is none", "Install g++, or leave it out."
                )
            compile_blocks(model)
        self.objective = objective
        self.config = config
        self.total_steps = total_steps
        self.trained: list[Any] = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained] if config.ema_decay else []
        self.latest: dict[str, float] = {}
        self.step_seconds = self.waiting_seconds = 0.0
        """Spent in steps, and between them waiting for batches, since the log's last row."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW (1711.05101), fused, or Muon."""
        config = self.config
        groups = layer_groups(self.model, config.weight_decay, config.layer_decay)
        return build_optimizer(self.model, groups, config.optimizer, learning_rate=config.learning_rate)

    def training_step(self, batch: Batch, _: int) -> None:
        """One optimizer step on one batch, in `accumulate` parts that give the whole batch's gradient."""
        step, began = self.global_step, time.perf_counter()
        torch.manual_seed((self.config.seed << 32) + step)
        optimizer: Any = self.optimizers()
        rate = learning_rate(step, self.total_steps, self.config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        sums = self._backward(batch)
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self._check_finite(sums["loss"], float(norm), batch, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self.model)
        self._update_average(step)
        self.latest = sums | {"learning_rate": rate, "gradient_norm": float(norm)}
        self.step_seconds += time.perf_counter() - began

    def _backward(self, batch: Batch) -> dict[str, float]:
        return self.objective.backward(self.model, batch, self.config.accumulate, self.manual_backward)

    def _check_finite(self, loss: float, norm: float, batch: Batch, step: int) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        keys = ", ".join(batch.keys[:8]) + (", …" if len(batch) > 8 else "")
        raise UserError(
            f"The loss is {loss} and the gradient's norm {norm} at step {step}; the batch held: {keys}",
            "Nothing of this step was kept. Try a lower learning_rate, a longer warmup, or precision fp32.",
        )

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        if self.average:
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))  # early on, follow the weights closely
            torch._foreach_lerp_(self.average, self.trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def averaged(self) -> Iterator[Model]:
        """The model in evaluation mode with its averaged weights, for the time of the context."""
        own = [p.data for p in self.trained]
        training = self.model.training
        for parameter, value in zip(self.trained, self.average or own, strict=True):
            parameter.data = value
        try:
            yield self.model.eval()
        finally:
            for parameter, value in zip(self.trained, own, strict=True):
                parameter.data = value
            self.model.train(training)
            rest_frozen(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The averaged weights, beside what Lightning saves."""
        checkpoint["average"] = self.average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The averaged weights."""
        self.average = checkpoint["average"]


class Steps:
    """The batches of the whole run as one epoch, from the step that the trainer has reached."""

    def __init__(self, loader: Loader | InterleavedLoader, engine: Engine):
        self.loader = loader
        self.engine = engine

    def __len__(self) -> int:
        return self.engine.total_steps

    def __iter__(self) -> Iterator[Batch]:
        return self._timed(self.loader.stream(self.engine.global_step, self.engine.total_steps))

    def _timed(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """The same, and the engine knows how long they were waited for."""
        while True:
            asked = time.perf_counter()
            batch = next(stream, None)
            self.engine.waiting_seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warmup, then a cosine down to a hundredth of the peak (1608.03983, without restarts)."""
    warmup_steps = config.warmup * total_steps
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
