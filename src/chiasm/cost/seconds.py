"""How long a training step takes on this machine: steps of the real model, and no longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from chiasm.cost.batches import example_batch, training_objective
from chiasm.cost.memory import free_bytes, state_bytes
from chiasm.errors import UserError
from chiasm.models import Model, ModelConfig, build_model
from chiasm.nn import OptimizerName, build_optimizer, checkpoint_blocks, compile_blocks, weight_decay_groups
from chiasm.objectives import Objective
from chiasm.types import Batch

PRECISIONS = "fp32", "bf16"
FIRST_ROWS = 4
"""Rows of the first steps, which say how many fit into the time."""
LEAST_STEPS = 3
"""Of a batch, the first of which warms up."""
MEASURING_SECONDS = 2.0
"""After which no further pass of a batch is begun."""
PRODUCT_ROWS = 512
"""And columns, of the product that tells whether the processor has units for bf16."""
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
CLIP_NORM = 1.0
EMA_DECAY = 0.998


class Trainee:
    """A model and what a step of `chiasm.train` does with it: gradient, clipping, update, clamps, moving average."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        optimizer: OptimizerName = "adamw",
        checkpointing: bool = False,
        compile: bool = False,
    ):
        self.model = build_model(config).train()
        if checkpointing:
            checkpoint_blocks(self.model)
        if compile:
            compile_blocks(self.model)
        self.objective = training_objective(config)
        self.trained: list[Any] = [p for p in self.model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.trained]
        groups = weight_decay_groups(self.model, WEIGHT_DECAY)
        self.optimizer = build_optimizer(self.model, groups, optimizer, learning_rate=LEARNING_RATE)

    def step(self, batch: Batch, precision: str, accumulate: int = 1) -> None:
        """One optimizer step."""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            self.objective.backward(self.model, batch, accumulate, lambda loss: loss.backward())
        nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self.model)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.trained, 1 - EMA_DECAY)  # pyright: ignore[reportPrivateImportUsage]

    def seconds(self, batch: Batch, precision: str, accumulate: int = 1) -> float:
        """Of one step."""
        start = time.perf_counter()
        self.step(batch, precision, accumulate)
        return time.perf_counter() - start


def predicted_step_seconds(
    config: ModelConfig,
    batch_size: int,
    text_tokens: int,
    *,
    budget_seconds: float = 2.0,
    precisions: Sequence[str] = PRECISIONS,
    accumulate: int = 1,
    optimizer: OptimizerName = "adamw",
) -> dict[str, float]:
    """Seconds of an optimizer step by precision, from real steps on noise that take about `budget_seconds` each.

    Where three steps of the whole batch would take longer, two smaller batches are measured, and a line through them
    is followed to the batch that was asked for: what a step costs whatever its batch (the optimizer), and what each row
    adds. Rows cost equal FLOPs, so this is a line in FLOPs too. Waiting for data and validation are not in it.
    UserError where the weights in training do not fit into the memory that is free.
    """
    _check_fits(config, optimizer)
    trainee = Trainee(config, optimizer=optimizer)
    return {
        precision: _Calibration(trainee, config, text_tokens, precision, accumulate).of(batch_size, budget_seconds)
        for precision in precisions
    }


class _Calibration:
    """Steps of one precision until the time is spent."""

    def __init__(self, trainee: Trainee, config: ModelConfig, text_tokens: int, precision: str, accumulate: int):
        self.trainee = trainee
        self.config = config
        self.text_tokens = text_tokens
        self.precision = precision
        self.accumulate = accumulate

    def of(self, batch_size: int, budget_seconds: float) -> float:
        """Seconds of a step on so many rows, measured where they fit into the budget."""
        few = min(batch_size, FIRST_ROWS)
        seconds = self.measured(few, 0.1 * budget_seconds)
        if few == batch_size:
            return self.measured(few, budget_seconds)
        rows = min(batch_size, max(2 * few, int(few * 0.9 * budget_seconds / (LEAST_STEPS * seconds))))
        more = self.measured(rows, 0.9 * budget_seconds)
        if rows == batch_size:
            return more
        per_row = (more - seconds) / (rows - few)
        return max(more * 1.0, more + per_row * (batch_size - rows))

    def measured(self, rows: int, budget_seconds: float) -> float:
        """The median of steps that take so long together, two at least; one before them does not count."""
        batch = example_batch(self.config, rows, self.text_tokens)
        parts = min(self.accumulate, rows)
        times = [self.trainee.seconds(batch, self.precision, parts)]
        while len(times) < LEAST_STEPS or sum(times) < budget_seconds:
            times.append(self.trainee.seconds(batch, self.precision, parts))
        return median(times[1:])


def measure_step_seconds(model: Model, objective: Objective, batch: Batch, precision: str, accumulate: int) -> float:
    """Seconds of one forward and backward pass on a batch; the weights stay as they are.

    The median of three, or of as many as fit into MEASURING_SECONDS, one at least; one before them does not count.
    """
    times: list[float] = []
    while len(times) < 2 or (len(times) < 4 and sum(times) < MEASURING_SECONDS):
        start = time.perf_counter()
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            objective.backward(model, batch, accumulate, lambda loss: loss.backward())
        if batch.images.is_cuda:  # what was asked of it may still be running
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        model.zero_grad(set_to_none=True)
    return median(times[1:])


def worthwhile_precisions() -> tuple[str, ...]:
    """Those that a step may be fastest in: bf16 only where the processor multiplies matrices faster in it.

    Without units for bf16 a step takes several times as long in it, and so would measuring one.
    """
    return PRECISIONS if _product_seconds(torch.bfloat16) < _product_seconds(torch.float32) else PRECISIONS[:1]


def _product_seconds(dtype: torch.dtype) -> float:
    x = torch.ones(PRODUCT_ROWS, PRODUCT_ROWS, dtype=dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        torch.mm(x, x)
        times.append(time.perf_counter() - start)
    return min(times)


def _check_fits(config: ModelConfig, optimizer: OptimizerName) -> None:
    with torch.device("meta"):
        model = build_model(config)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    needed, free = state_bytes(model, optimizer) + gradients, free_bytes()
    if needed > free:
        raise UserError(
            f"Weights, gradients, moments and average take {needed / 2**30:.1f} GiB; {free / 2**30:.1f} are free",
            "Train a smaller model, or where there is more memory.",
        )


__all__ = ["PRECISIONS", "Trainee", "measure_step_seconds", "predicted_step_seconds", "worthwhile_precisions"]
