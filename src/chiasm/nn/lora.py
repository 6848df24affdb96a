"""LoRA: weights stay as they are, and a product of two thin matrices that is added to them is trained."""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize, skip_init

from chiasm.nn.attention import Attention


class LowRank(nn.Module):
    """weight + alpha / rank · up @ down (2106.09685, section 4.1).

    `up` starts at zero, so that at first the weight is its own. Differs from the paper in where the sum is made: of the
    weights, once per step, and not of the outputs, so that whoever reads a layer's weight reads the tuned one.
    """

    def __init__(self, weight: Float[Tensor, "out in"], rank: int, alpha: float):
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(rank, columns, device=weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The weight that the layer works with."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_lora(
    model: nn.Module, rank: int, alpha: float | None = None, *, inside: tuple[type[nn.Module], ...] = (Attention,)
) -> int:
    """Give every linear layer within modules of the kinds `inside` a low-rank term, and freeze its own weight and bias.

    `alpha` is twice the rank unless given. Returns the number of layers; ValueError where there is none, where the rank
    is not from 1 to the layer's smaller side, or where they have such terms already.
    """
    layers = list(dict.fromkeys(layer for module in model.modules() if isinstance(module, inside)
                                for layer in module.modules() if isinstance(layer, nn.Linear)))  # fmt: skip
    if not layers:
        raise ValueError(f"there is no linear layer within {', '.join(kind.__name__ for kind in inside)}")
    most = min(min(layer.weight.shape) for layer in layers)
    if not 1 <= rank <= most:
        raise ValueError(f"rank is {rank}, it must be from 1 to {most}, the smaller side of the smallest layer")
    if any(is_adapted(layer) for layer in layers):
        raise ValueError("the layers have low-rank terms already: merge them first")
    for layer in layers:
        layer.requires_grad_(False)
        low_rank = LowRank(layer.weight, rank, 2.0 * rank if alpha is None else alpha)
        parametrize.register_parametrization(layer, "weight", low_rank)
    return len(layers)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Put plain layers in the place of those with low-rank terms: the same function, under the names of before.

    torch's own removal would also strip every copy of the model, whose layers share their classes.
    """
    plain: dict[int, nn.Linear] = {}
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if is_adapted(layer):
                setattr(parent, name, plain.setdefault(id(layer), _merged(cast(nn.Linear, layer))))


def has_lora(model: nn.Module) -> bool:
    """Whether any layer of the model has a low-rank term."""
    return any(map(is_adapted, model.modules()))


def is_adapted(layer: nn.Module) -> bool:
    """Whether this layer has a low-rank term."""
    return parametrize.is_parametrized(layer, "weight") and any(isinstance(m, LowRank) for m in layer.modules())


def _merged(layer: nn.Linear) -> nn.Linear:
    shape = layer.in_features, layer.out_features
    plain = cast(nn.Linear, skip_init(nn.Linear, *shape, bias=layer.bias is not None))
    plain.weight = nn.Parameter(layer.weight.detach().clone())
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().clone())
    plain.train(layer.training)
    return plain


__all__ = ["LowRank", "add_lora", "has_lora", "is_adapted", "merge_lora"]
