"""A linear layer of something cheap, a norm or an activation: what it is computed from is held, the result is not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F


def linear_of(
    before: nn.Module, x: Float[Tensor, "*n c"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]
) -> Float[Tensor, "*n out"]:
    """`F.linear(before(x), weight, bias)`, which for its gradient computes `before(x)` a second time.

    So a transformer's block in training holds its hidden layer once instead of twice, and its normed inputs never
    (recomputation as in 1604.06174, of what costs little). Under autocast it computes in its type.
    """
    return cast(Tensor, _LinearOf.apply(before, working_dtype(x), x, weight, bias, *before.parameters()))


def working_dtype(x: Tensor) -> torch.dtype:
    """In which matrices are multiplied: autocast's, or the tensor's own."""
    kind = x.device.type
    casts = is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else x.dtype


def _in_given_types(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast changes nothing within."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


class _LinearOf(Function):
    """The parameters of `before` are given so that their gradients can be returned."""

    @staticmethod
    def forward(
        ctx: Any, before: nn.Module, dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor
    ) -> Tensor:
        with _in_given_types(x):
            used = weight.to(dtype)
            ctx.save_for_backward(x, used)
            ctx.before, ctx.parameters = before, parameters
            return F.linear(before(x).to(dtype), used, bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, _, needs_x, needs_weight, needs_bias, *needs_parameters = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        with _in_given_types(x):
            with torch.enable_grad():
                x = x.detach().requires_grad_(needs_x)
                read = ctx.before.forward(x).to(weight.dtype)  # whoever hooks into modules has seen it
            edge = get_gradient_edge(read) if read.requires_grad else None
            read = read.detach()
            of_weight = rows.T @ read.flatten(0, -2) if needs_weight else None
            del read  # the edge leads to all that its gradient takes, which it is no part of
            needed = [needs_x, *needs_parameters]
            wanted = [part for part, its in zip((x, *ctx.parameters), needed, strict=True) if its]
            found = iter(torch.autograd.grad([edge], wanted, [gradient @ weight]) if edge else ())
        of_x, *of_parameters = (next(found) if its else None for its in needed)
        return None, None, of_x, of_weight, rows.sum(0) if needs_bias else None, *of_parameters
