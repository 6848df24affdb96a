"""How weights start, and which of them decay."""

from __future__ import annotations

from typing import cast

from torch import nn

from chiasm.nn.attention import Attention
from chiasm.nn.block import FeedForward

DECAYING = (nn.Linear, nn.Conv2d, nn.Embedding)


def init_weights(model: nn.Module, depth: int) -> None:
    """CLIP's scales (2103.00020): attention's weights by 1/sqrt(width), the MLP's first by 1/sqrt(2 width).

    What adds to the residual stream is scaled by 1/sqrt(2 depth) (GPT-2); tables have std 0.02, biases are zero. At a
    fixed 0.02, which suits widths near 1,000, small encoders' outputs look alike for long.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    residual = (2 * max(1, depth)) ** -0.5
    for module in model.modules():
        if isinstance(module, Attention):
            width = module.query.in_features
            nn.init.normal_(module.query.weight, std=width**-0.5)
            nn.init.normal_(module.key_value.weight, std=module.key_value.in_features**-0.5)
            nn.init.normal_(module.out.weight, std=module.out.in_features**-0.5 * residual)
        elif isinstance(module, FeedForward):
            widen, narrow = cast("tuple[nn.Linear, nn.Linear]", (module[0], module[2]))
            nn.init.normal_(widen.weight, std=(2 * widen.in_features) ** -0.5)
            nn.init.normal_(narrow.weight, std=widen.in_features**-0.5 * residual)


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
