"""What a model costs before it is trained: parameters, FLOPs, memory, and time on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from chiasm.models import Model, ModelConfig, build_model
from chiasm.objectives import Objective, objective_of
from chiasm.predict.loading import heard
from chiasm.types import Batch

WEIGHT_BYTES = 4 * 5
"""Of each parameter in training: its value, its gradient, two moments of AdamW, its moving average, in fp32."""


@dataclass(frozen=True)
class Cost:
    """Costs of a model for one batch; FLOPs count a multiplication and an addition as two."""

    parameters: int
    forward_flops: int
    step_flops: int
    """Forward and backward."""
    state_bytes: int
    """Weights, gradients, optimizer and average."""
    activation_bytes: int
    """Tensors that the forward pass keeps for the backward pass."""
    step_seconds: dict[str, float]
    """By precision, measured here; empty where it was not asked for."""


def model_cost(config: ModelConfig, *, batch_size: int, text_tokens: int, measure: bool = True) -> Cost:
    """Counted on the meta device, where attention is counted too and nothing is computed; then timed, if asked."""
    objective = objective_of(config)
    with torch.device("meta"):
        model = build_model(config)
        batch = example_batch(config, batch_size, text_tokens)
        flops, forward = FlopCounterMode(display=False), FlopCounterMode(display=False)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            return tensor

        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        with flops:
            with forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = objective.plain(model, batch)
            loss.backward()
    parameters = sum(p.numel() for p in model.parameters())
    seconds = {}
    if measure:
        real, batch = build_model(config), example_batch(config, batch_size, text_tokens)
        seconds = {p: measure_step_seconds(real, objective, batch, p, accumulate=1) for p in ("fp32", "bf16")}
    return Cost(
        parameters=parameters,
        forward_flops=forward.get_total_flops(),
        step_flops=flops.get_total_flops(),
        state_bytes=parameters * WEIGHT_BYTES,
        activation_bytes=sum(size for storage, size in kept.items() if storage not in weights),
        step_seconds=seconds,
    )


def example_batch(config: ModelConfig, batch_size: int, text_tokens: int) -> Batch:
    """A batch of noise and arbitrary words, of the shapes that training would see; everything is of the first class."""
    sound = heard(config)
    ids = torch.full((batch_size, text_tokens if config.rules else 0), config.vocabulary - 1)
    if config.rules:
        ids[:, -1] = config.rules.eot
    return Batch(
        images=torch.randn(batch_size, 3, *config.size),
        ids=ids,
        keep=torch.ones_like(ids, dtype=torch.bool),
        image_ids=torch.arange(batch_size),
        text_ids=torch.arange(batch_size),
        keys=tuple(str(i) for i in range(batch_size)),
        labels=torch.zeros(batch_size, dtype=torch.long),
        sounds=None if sound is None else torch.randn(batch_size, sound.samples),
    )


def measure_step_seconds(model: Model, objective: Objective, batch: Batch, precision: str, accumulate: int) -> float:
    """Seconds of one forward and backward pass on a batch (median of three); the weights stay as they are."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            objective.backward(model, batch, accumulate, lambda loss: loss.backward())
        times.append(time.perf_counter() - start)
        model.zero_grad(set_to_none=True)
    return sorted(times[1:])[1]
