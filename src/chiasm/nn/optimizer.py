"""What turns gradients into steps: AdamW, or Muon for the matrices within transformer blocks.

Letters: k matrices of a shape · m rows · n columns.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.errors import UserError
from chiasm.nn.attention import Attention
from chiasm.nn.block import FeedForward
from chiasm.nn.init import weight_decay_groups

OptimizerName = Literal["adamw", "muon"]
BETAS = 0.9, 0.98
MOMENTUM = 0.95
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
"""Of the quintic iteration that steepens most at zero (Jordan et al., 2024); singular values end from 0.7 to 1.2."""
ITERATIONS = 5
UPDATE_RMS = 0.2
"""Of an element of a Muon update, about that of an AdamW update: so one learning rate suits both (2502.16982, 2.2)."""


def build_optimizer(
    model: nn.Module, groups: list[dict[str, Any]], name: OptimizerName, *, learning_rate: float
) -> torch.optim.AdamW:
    """The optimizer of these groups of the model's parameters; UserError where Muon has no matrix."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
    matrices = {id(p) for p in matrices_of(model)}
    split = []
    for group in groups:
        for is_matrix in (True, False):
            chosen = [p for p in group["params"] if (id(p) in matrices) == is_matrix]
            split += [group | {"params": chosen, "is_matrix": is_matrix}] if chosen else []
    if not any(group["is_matrix"] for group in split):
        raise UserError("Muon trains matrices of transformer blocks, and none learns here", "Use adamw.")
    return Muon(split, lr=learning_rate, betas=BETAS, fused=True)


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """Those that Muon moves: of attention and feed-forward layers, where they learn."""
    layers = [module for module in model.modules() if isinstance(module, (Attention, FeedForward))]
    matrices = {id(p): p for layer in layers for p in layer.parameters() if p.ndim == 2 and p.requires_grad}
    return list(matrices.values())


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) where a group `is_matrix`, AdamW elsewhere.

    A matrix moves along its momentum with all singular values made alike, so directions that few examples ask for are
    learnt as fast as the common ones. Differs from `torch.optim.Muon`: matrices of one shape are computed together, in
    fp32, since bf16 is many times slower on processors without units for it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have gradients; those of the matrices are gone after it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["is_matrix"]:
                self._step_matrices(group)
        super().step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        for shape, matrices in by_shape.items():
            moved = orthogonalized(torch.stack([self._momentum(matrix) for matrix in matrices]))
            length = group["lr"] * UPDATE_RMS * max(shape) ** 0.5
            for matrix, direction in zip(matrices, moved, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(length * direction)
                matrix.grad = None  # AdamW passes it by

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's, as the mean of the gradient and the running mean that has just read it."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["step"] = torch.zeros(())  # AdamW wants to find one where it loads a state
            state["momentum"] = torch.zeros_like(matrix)
        state["step"] += 1
        state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(state["momentum"], MOMENTUM)


def measure_update_seconds(model: nn.Module, name: OptimizerName) -> float:
    """Seconds of one step of the optimizer; the weights stay as they are to the bit, since the learning rate is 0."""
    optimizer = build_optimizer(model, weight_decay_groups(model, 0.0), name, learning_rate=0.0)
    taken = 0.0
    for _ in range(2):  # the first makes its state
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.grad = torch.zeros_like(parameter)
        start = time.perf_counter()
        optimizer.step()
        if torch.cuda.is_initialized():  # what was asked of it may still be running
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
        optimizer.zero_grad(set_to_none=True)
    return taken


def orthogonalized(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """About the nearest matrices whose singular values are all 1: from 0.7 to 1.2, but for those that begin near 0."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


__all__ = ["Muon", "OptimizerName", "build_optimizer", "matrices_of", "measure_update_seconds", "orthogonalized"]
