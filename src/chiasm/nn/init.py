"""How weights start, and which of them decay."""

from __future__ import annotations

from typing import cast

from torch import nn

from chiasm.nn.attention import Attention
from chiasm.nn.block import FeedForward

DECAYING = (nn.Linear, nn.Conv2d, nn.Embedding)


def init_weights(model: nn.Module, depth: int) -> None:
    """Normal of std 0.02, zero biases; what adds to the residual stream is scaled by 1/sqrt(2 depth) (GPT-2)."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            module.out.weight.data.mul_((2 * depth) ** -0.5)
        elif isinstance(module, FeedForward):
            cast(nn.Linear, module[2]).weight.data.mul_((2 * depth) ** -0.5)


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer: weights of linear, convolution and token tables decay, nothing else does.

    So norms, biases, and the tables of positions, classes, latents and modalities are left alone; a tied weight is
    listed once, and frozen parameters not at all.
    """
    decaying = {id(module.weight) for module in model.modules() if isinstance(module, DECAYING)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
