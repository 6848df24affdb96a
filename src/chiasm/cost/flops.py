"""Parameters and FLOPs of a model, counted on the meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from chiasm.cost.batches import example_batch
from chiasm.cost.memory import state_bytes
from chiasm.cost.seconds import PRECISIONS, predicted_step_seconds
from chiasm.models import ModelConfig, build_model
from chiasm.objectives import objective_of


@dataclass(frozen=True)
class Cost:
    """Costs of a model for one batch; FLOPs count a multiplication and an addition as two."""

    parameters: int
    forward_flops: int
    step_flops: int
    """Forward and backward."""
    state_bytes: int
    """What training holds between its steps, in fp32: weights, the two moments of AdamW, the moving average."""
    step_seconds: dict[str, float]
    """By precision, measured here; empty where it was not asked for."""


def model_cost(config: ModelConfig, *, batch_size: int, text_tokens: int, measure: bool = True) -> Cost:
    """Counted on the meta device, where attention is counted too and nothing is computed; then timed, if asked.

    What a CPU computes a second time to save memory (long reads of latents) does not count, as is usual of FLOPs.
    """
    objective = objective_of(config)
    with torch.device("meta"):
        model = build_model(config)
        batch = example_batch(config, batch_size, text_tokens)
        with _Counter() as counter:
            loss = objective.plain(model, batch)
            forward = counter.flops
            loss.backward()
    seconds = {}
    if measure:
        seconds = predicted_step_seconds(config, batch_size, text_tokens, precisions=PRECISIONS)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        forward_flops=forward,
        step_flops=counter.flops,
        state_bytes=state_bytes(model),
        step_seconds=seconds,
    )


class _Counter(TorchDispatchMode):
    """Adds up the FLOPs of every operation for which torch has a formula.

    The sums are those of torch's `FlopCounterMode`, without its hooks on every module: several times as fast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let it run, and count."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


__all__ = ["Cost", "model_cost"]
