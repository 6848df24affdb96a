"""Linear layers with weights of eight bits: for a few rows, as in writing, a layer takes as long as reading them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

LEVELS = 127
"""On each side of zero."""
LEAST_WEIGHTS = 2**19
"""Smaller layers stay in the processor's cache as they are, and are no faster in int8."""


class Int8Linear(nn.Module):
    """A linear layer for inference whose weights and inputs are rounded to int8 (2208.07339, section 3.1).

    Weights have a scale for each output, inputs one for each row, found as they come. Differs from the paper in that
    large features are rounded like all others.
    """

    levels: Int8[Tensor, "out c"]
    scale: Float[Tensor, " out"]
    bias: Float[Tensor, " out"] | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        scale = _scale(weight)
        self.register_buffer("levels", (weight / scale).round_().to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n out"]:
        """What the layer would have said, up to rounding."""
        rows = x.reshape(-1, x.shape[-1])
        scale = _scale(rows)
        rounded = (rows / scale).round_().to(torch.int8)
        products = torch._int_mm(rounded, self.levels.T)  # pyright: ignore[reportPrivateImportUsage]
        out = products.to(x.dtype).mul_(scale).mul_(self.scale)
        return (out if self.bias is None else out.add_(self.bias)).view(*x.shape[:-1], -1)


def quantize_int8(model: nn.Module, least_weights: int) -> int:
    """Put an `Int8Linear` in the place of every linear layer with so many weights or more; returns their number.

    The model can only be asked from then on, not trained.
    """
    large = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear) and layer.weight.numel() >= least_weights
    ]
    for parent, name, layer in large:
        setattr(parent, name, Int8Linear(layer))
    return len(large)


def _scale(rows: Float[Tensor, "r c"]) -> Float[Tensor, "r 1"]:
    return rows.abs().amax(1, keepdim=True).div_(LEVELS).clamp_(min=torch.finfo(rows.dtype).tiny)
