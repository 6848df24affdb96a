"""Fine-tuning: which parameters of a trained model go on learning, and how fast, by their depth."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from torch import nn
from typing_extensions import assert_never

from chiasm.models import (
    Captioner,
    Clip,
    Coca,
    Flamingo,
    FusionClassifier,
    LanguageModel,
    Model,
    PerceiverAutoencoder,
    PerceiverClassifier,
    PerceiverMlm,
    PictureClassifier,
)
from chiasm.models.adapted import Adapted
from chiasm.models.brought import HfText, HfVision
from chiasm.nn import Attention, weight_decay_groups
from chiasm.nn.lora import add_lora

Tune = Literal["full", "projection", "last", "lora"]


def tune_only(model: Model, tune: Tune, *, blocks: int = 1, rank: int = 8) -> None:
    """Freeze all of the model's parameters but those that `tune` names.

    full: none is frozen. projection: only what stands outside the towers learns (projections, scale, bias). last: also
    the last `blocks` blocks of each tower and the norms after them. lora: also low-rank terms (2106.09685) of `rank` in
    the towers' attention, or in all linear layers of a tower that was brought in. Locked towers stay locked.
    ValueError where nothing would learn.
    """
    open_towers = [tower for tower in towers(model) if not _is_locked(tower)]
    if tune != "full":
        for tower in open_towers:
            tower.requires_grad_(False)
    match tune:
        case "full" | "projection":
            pass
        case "last":
            if blocks < 1:
                raise ValueError(f"tune_blocks is {blocks}, it must be at least 1")
            for tower in open_towers:
                below, *above = tower_layers(tower)
                for parameter in (p for layer in above[-blocks - 1 :] or [below] for p in layer):
                    parameter.requires_grad_(True)
        case "lora":
            for tower in open_towers:
                add_lora(tower, rank, inside=(Attention, HfVision, HfText, Adapted))
        case _:
            assert_never(tune)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"with tune {tune!r} no parameter of the {type(model).__name__} would learn")
    rest_frozen(model)


def layer_groups(model: Model, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer, as `weight_decay_groups` makes them, split by depth.

    Each has a `factor` for the learning rate: 1 for what stands outside and on top of the towers, and `layer_decay`
    times that of the block above for each block below (ELECTRA, 2003.10555, appendix A; BEiT, 2106.08254), down to the
    embeddings.
    """
    factors = {
        id(parameter): layer_decay**below_top
        for tower in towers(model)
        for below_top, layer in enumerate(reversed(tower_layers(tower)))
        for parameter in layer
    }
    groups = []
    for group in weight_decay_groups(model, weight_decay):
        by_factor = defaultdict(list)
        for parameter in group["params"]:
            by_factor[factors.get(id(parameter), 1.0)].append(parameter)
        groups += [group | {"params": params, "factor": factor} for factor, params in by_factor.items()]
    return groups


def rest_frozen(model: nn.Module) -> None:
    """Put every module without a parameter that learns into evaluation mode: no dropout, no batch statistics."""
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def towers(model: Model) -> tuple[nn.Module, ...]:
    """The model's encoders and decoders."""
    match model:
        case Clip():
            return model.vision, model.text
        case Captioner() | Coca() | Flamingo():
            return model.vision, model.decoder
        case LanguageModel():
            return (model.decoder,)
        case FusionClassifier():
            return tuple(part for part in (model.vision, model.text, model.fusion) if part is not None)
        case PictureClassifier():
            return (model.vision,)
        case PerceiverClassifier() | PerceiverMlm() | PerceiverAutoencoder():
            return (model.encoder,)
        case _:
            assert_never(model)


def tower_layers(tower: nn.Module) -> list[list[nn.Parameter]]:
    """A tower's parameters from the input up: what comes before its stack of blocks, each block, what comes after.

    The stack is the list of modules (or else the sequence) that holds most parameters; a tower without one is a layer.
    """
    lists = [m for m in tower.modules() if isinstance(m, nn.ModuleList)]
    stack = max(lists or [m for m in tower.modules() if isinstance(m, nn.Sequential)], key=_size, default=None)
    if stack is None or not _size(stack):
        return [list(tower.parameters())]
    blocks = [list(block.parameters()) for block in stack]
    inside = {id(p) for block in blocks for p in block}
    parameters = list(tower.parameters())
    first = next(i for i, p in enumerate(parameters) if id(p) in inside)
    after = [p for p in parameters[first:] if id(p) not in inside]
    return [parameters[:first], *filter(None, blocks), after]


def _is_locked(tower: nn.Module) -> bool:
    return not any(p.requires_grad for p in tower.parameters())


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


__all__ = ["Tune", "layer_groups", "rest_frozen", "tower_layers", "towers", "tune_only"]
