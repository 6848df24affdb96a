"""The sizes that a model may take so that it costs what another does: all widths together, and a few blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from typing_extensions import assert_never

from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FusionClassifierConfig,
    ModelConfig,
    PerceiverClassifierConfig,
    PictureClassifierConfig,
)
from chiasm.models.adapted import ModuleTextConfig, ModuleVisionConfig
from chiasm.models.brought import HfTextConfig, HfVisionConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.inputs import Inputs
from chiasm.models.language import TextConfig
from chiasm.models.perceiver import LatentConfig
from chiasm.models.vision import ConvConfig, VitConfig

TOLERANCE = 0.02
"""How far from the target a cost may be."""
WIDTH_FACTOR = 4
"""The widest and the narrowest model are so many times as wide, and as narrow, as the one asked for."""
HIDDEN_CHANGE = 0.25
"""By so much of themselves feed-forward layers may be wider or narrower."""
MULTIPLE = 8
"""Of which every width is one: group norms have 8 groups, 2-D positions need 4."""

Part = (
    VitConfig
    | ConvConfig
    | TextConfig
    | DecoderConfig
    | LateConfig
    | EarlyConfig
    | CrossConfig
    | PerceiverFusionConfig
    | LatentConfig
    | Inputs
    | HfVisionConfig
    | HfTextConfig
    | ModuleVisionConfig
    | ModuleTextConfig
)
Transformer = VitConfig | TextConfig | DecoderConfig | EarlyConfig | CrossConfig | PerceiverFusionConfig | LatentConfig
Cost = Callable[[ModelConfig], float]
Resize = Callable[[int, int], int]
"""A new width for a width, and for that of which it must be a multiple."""


def fitted(model: ModelConfig, cost: Cost, target: float) -> ModelConfig:
    """The smallest change of a model that makes it cost `target` within 2 %; else the size that comes nearest.

    Smallest is the first of these that there is: none; all widths together; these, and the hidden layers of all
    feed-forwards by up to a quarter; the same with one block more or fewer in one stack, or with some of a
    convolutional encoder's widths but the last one multiple up or down. Where there are several, hidden layers change
    least; then it is the one that costs nearest the target. Widths go from a quarter to four times, each to a multiple
    of 8 and of two per head, equal ones staying equal; hidden layers to multiples of 8. Stacks without blocks get none,
    so that an early fusion stays early. Pictures, patches, contexts, heads, latents, `embed_dim` and the ranks of joins
    stay as they are, and so do encoders that were brought in or that come from a trained model.
    """
    nearest, best = abs(cost(model) / target - 1), model
    if nearest <= TOLERANCE or not _widths(model):
        return best
    for variants in ([model], list(_variants(model))):
        ranges = [Sizes(variant, cost) for variant in variants]
        for tuned in (False, True):
            fits = []
            for sizes in ranges:
                for step in sizes.around(target):
                    hidden = sizes.hidden(step, target) if tuned else 1.0
                    off = abs(sizes.cost(step, hidden) / target - 1)
                    if off < nearest:
                        nearest, best = off, sizes.at(step, hidden)
                    if off <= TOLERANCE:
                        fits.append((abs(hidden - 1), off, len(fits), sizes.at(step, hidden)))
            if fits:
                return min(fits)[-1]
    return best


class Sizes:
    """A model in all its widths, counted in steps of the largest one's multiple, and feed-forwards of all sizes."""

    def __init__(self, model: ModelConfig, cost: Cost):
        self.model = model
        self.multiples = _widths(model)
        self.widest = max(self.multiples)
        self.multiple = self.multiples[self.widest]
        self.first = max(1, math.ceil(self.widest / WIDTH_FACTOR / self.multiple))
        self.last = max(self.first, self.widest * WIDTH_FACTOR // self.multiple)
        self._cost = cost
        self._counted: dict[tuple[int, float], float] = {}

    def at(self, step: int, hidden: float = 1.0) -> ModelConfig:
        """The model of one width, its feed-forwards' hidden layers times `hidden`."""
        share = step * self.multiple / self.widest

        def resize(width: int, _: int) -> int:
            multiple = self.multiples[width]
            return max(1, round(width * share / multiple)) * multiple

        return _with_hidden(_with_widths(self.model, resize), hidden)

    def cost(self, step: int, hidden: float = 1.0) -> float:
        """What it costs, counted once."""
        if (step, hidden) not in self._counted:
            self._counted[step, hidden] = self._cost(self.at(step, hidden))
        return self._counted[step, hidden]

    def around(self, target: float) -> list[int]:
        """The widest that costs no more than the target and the narrowest that costs more, where there are such."""
        below, above, guess = self.first - 1, self.last + 1, round(self.widest / self.multiple)
        while above - below > 1:
            guess = min(max(guess, below + 1), above - 1)
            found = self.cost(guess)
            below, above = (guess, above) if found <= target else (below, guess)
            guess = round(guess * math.sqrt(target / found))  # most of a cost is quadratic in the width
        return [step for step in (below, above) if self.first <= step <= self.last]

    def hidden(self, step: int, target: float) -> float:
        """By how much hidden layers must grow or shrink for the cost to be nearest the target: costs are linear in it.

        1 where there are none.
        """
        slope = (self.cost(step, 1 + HIDDEN_CHANGE) - self.cost(step)) / HIDDEN_CHANGE
        change = (target - self.cost(step)) / slope if slope else 0.0
        return round(1 + min(max(change, -HIDDEN_CHANGE), HIDDEN_CHANGE), 3)


def _variants(model: Any) -> Iterator[ModelConfig]:
    """The model with one block more or fewer somewhere, and with its convolutional encoder in other proportions."""
    for name, number in _blocks(model).items():
        for other in (number + 1, number - 1):
            if other >= _fewest(model, name):
                yield _with_blocks(model, name, other)
    conv = _parts(model).get("vision")
    if isinstance(conv, ConvConfig):
        for changes in product((0, MULTIPLE, -MULTIPLE), repeat=len(conv.widths) - 1):
            widths = tuple(w + change for w, change in zip(conv.widths, (*changes, 0), strict=True))
            if any(changes) and min(widths) > 0:
                yield replace(model, vision=replace(conv, widths=widths))


def _parts(model: ModelConfig) -> dict[str, Part]:
    """What may be resized of a model, by the name that it has there; nothing of those that no comparison trains."""
    match model:
        case FusionClassifierConfig():
            unused = {"picture": "text", "text": "vision"}.get(model.inputs)
            kept = "vision" if model.vision_from else None
            parts = {"vision": model.vision, "text": model.text, "fusion": model.fusion}
            return {name: part for name, part in parts.items() if name not in (unused, kept)}
        case CaptionerConfig() | CocaConfig():
            return {"vision": model.vision, "decoder": model.decoder}
        case ClipConfig() if model.projection == "text":  # the picture's vector is what texts are compared with
            return {"text": model.text}
        case ClipConfig():
            return {"vision": model.vision, "text": model.text}
        case PictureClassifierConfig():
            return {"vision": model.vision}
        case PerceiverClassifierConfig():
            return {"inputs": model.inputs, "latents": model.latents}
        case _:
            return {}


def _widths(model: ModelConfig) -> dict[int, int]:
    """The widths that may change, each with that of which it must stay a multiple; none of a model of fixed size."""
    multiples: dict[int, int] = {}

    def note(width: int, multiple: int) -> int:
        multiples[width] = math.lcm(multiples.get(width, 1), multiple)
        return width

    _with_widths(model, note)
    return multiples


def _with_widths(model: Any, resize: Resize) -> Any:
    """The model with `resize` of every width, which is also told of what the result must be a multiple."""
    parts = {name: _resized(part, resize) for name, part in _parts(model).items()}
    if isinstance(model, PerceiverClassifierConfig):
        resize(model.latents.width, 2 * model.decoder.heads)
    return replace(model, **parts)


def _resized(part: Part, resize: Resize) -> Part:
    match part:
        case VitConfig() | TextConfig() | DecoderConfig() | EarlyConfig() | CrossConfig() | PerceiverFusionConfig():
            return replace(part, width=resize(part.width, math.lcm(MULTIPLE, 2 * part.heads)))
        case LatentConfig():
            return replace(part, width=resize(part.width, math.lcm(MULTIPLE, 2 * part.heads, 2 * part.read.heads)))
        case LateConfig():
            return replace(part, width=resize(part.width, MULTIPLE))
        case ConvConfig():
            return replace(part, widths=tuple(resize(width, MULTIPLE) for width in part.widths))
        case Inputs():
            named = part.named()
            widths = {name: resize(each.width, MULTIPLE) for name, each in named.items() if each.width is not None}
            return replace(part, **{name: replace(named[name], width=width) for name, width in widths.items()})
        case HfVisionConfig() | HfTextConfig() | ModuleVisionConfig() | ModuleTextConfig():
            return part
        case _:
            assert_never(part)


def _with_hidden(model: Any, hidden: float) -> Any:
    """The model with hidden layers `hidden` times as wide, in multiples of 8."""
    parts = {}
    for name, part in _parts(model).items():
        if isinstance(part, Transformer) and hidden != 1:
            units = max(1, round(part.width * part.mlp_ratio * hidden / MULTIPLE)) * MULTIPLE
            parts[name] = replace(part, mlp_ratio=units / part.width)
    return replace(model, **parts)


def _blocks(model: ModelConfig) -> dict[str, int]:
    """How many blocks there are in every stack that has any; a layer of co-attention is one."""
    blocks = {name: part.depth for name, part in _parts(model).items() if isinstance(part, Transformer)}
    if isinstance(model, CaptionerConfig) and model.fusion == "perceiver":
        blocks["latent_blocks"] = model.latent_blocks
    return {name: number for name, number in blocks.items() if number > 0}


def _fewest(model: Any, name: str) -> int:
    return model.decoder.unimodal_depth + 1 if name == "decoder" else 1


def _with_blocks(model: Any, name: str, number: int) -> Any:
    parts = _parts(model)
    return replace(model, **{name: replace(parts[name], depth=number) if name in parts else number})


def about(model: ModelConfig) -> str:
    """A model's sizes in one line, blocks x width."""
    parts = {name: told for name, part in _parts(model).items() if (told := _told(part))}
    match model:
        case FusionClassifierConfig():
            if model.vision_from:
                parts = {"vision": f"encoder of {model.vision_from}"} | parts
            encoders = [f"text {told}" if name == "text" else told for name, told in parts.items() if name != "fusion"]
            alone = "" if model.inputs == "both" else f", {model.inputs} alone"
            return f"{FUSIONS[type(model.fusion)]}: {', '.join([*encoders, _told_fusion(model.fusion)])}{alone}"
        case CaptionerConfig():
            read = {
                "cross": [],
                "early": ["picture in front of the words"],
                "late": ["picture as one token"],
                "perceiver": [f"{model.latents} latents with {_counted(model.latent_blocks, 'block')}"],
            }[model.fusion]
            seen = [parts["vision"]] if "vision" in parts else []
            return f"{model.fusion}: {', '.join([*seen, *read, 'decoder ' + parts['decoder']])}"
        case PerceiverClassifierConfig():
            return f"{model.latents.latents} latents, {parts['latents']}, of {' and '.join(model.inputs.named())}"
        case _:
            told = [told if name == "vision" else f"{name} {told}" for name, told in parts.items()]
            return ", ".join(told) or type(model).__name__.removesuffix("Config")


FUSIONS = {LateConfig: "late", EarlyConfig: "early", CrossConfig: "cross", PerceiverFusionConfig: "perceiver"}


def _told(part: Part) -> str:
    """The sizes of a part; nothing of one without blocks, or of what stands in the fusion's line."""
    match part:
        case VitConfig():
            pooled = "" if part.pool == "none" else f", pool {part.pool}"
            return f"ViT {part.depth} x {_sizes(part)}{pooled}" if part.depth else ""
        case ConvConfig():
            pooled = "" if part.pool == "none" else f", pool {part.pool}"
            return f"CNN {'-'.join(map(str, part.widths))}{pooled}"
        case TextConfig() | DecoderConfig() | LatentConfig():
            return f"{part.depth} x {_sizes(part)}" if part.depth else ""
        case HfVisionConfig() | HfTextConfig():
            return part.source
        case ModuleVisionConfig() | ModuleTextConfig():
            return part.factory
        case LateConfig() | EarlyConfig() | CrossConfig() | PerceiverFusionConfig() | Inputs():
            return ""
        case _:
            assert_never(part)


def _told_fusion(fusion: LateConfig | EarlyConfig | CrossConfig | PerceiverFusionConfig) -> str:
    match fusion:
        case LateConfig():
            return f"joined at the end ({fusion.join}), width {fusion.width}"
        case EarlyConfig():
            return f"{_counted(fusion.depth, 'block')} on one sequence, width {_sizes(fusion)}"
        case CrossConfig():
            return f"{_counted(fusion.depth, 'layer')} of co-attention, width {_sizes(fusion)}"
        case PerceiverFusionConfig():
            reads = f", {fusion.reads} reads" if fusion.reads > 1 else ""
            return f"{_counted(fusion.depth, 'block')} on {fusion.latents} latents{reads}, width {_sizes(fusion)}"
        case _:
            assert_never(fusion)


def _sizes(part: Transformer) -> str:
    """The width, and that of hidden layers where it is not four times as much."""
    return f"{part.width}" if part.mlp_ratio == 4.0 else f"{part.width} (hidden {round(part.width * part.mlp_ratio)})"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


__all__ = ["TOLERANCE", "about", "fitted"]
