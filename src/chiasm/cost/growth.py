"""How the cost of models grows with the resolution of pictures and the length of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chiasm.cost.flops import model_cost
from chiasm.models import CaptionerConfig, FusionClassifierConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.progress import track

SCALES = 0.5, 1.0, 2.0, 4.0, 8.0
"""Sides of pictures, in those of the model."""
TEXT_TOKENS = 8, 16, 32, 64, 128, 256, 512, 1024
Joined = CaptionerConfig | FusionClassifierConfig


@dataclass(frozen=True)
class Growth:
    """FLOPs of a training step on one picture with its text, by the model's name and one size, the other held."""

    pixels: tuple[int, ...]
    """The pictures' heights."""
    tokens: tuple[int, ...]
    by_pixels: dict[str, tuple[int, ...]]
    by_tokens: dict[str, tuple[int, ...]]


def growth(models: Mapping[str, Joined], *, text_tokens: int) -> Growth:
    """Counted for every model at all sizes: pictures from half to eight times the model's side, texts of 8 to 1,024."""
    first = next(iter(models.values()))
    sizes = [size for scale in SCALES if (size := _scaled(first, scale)) is not None]
    jobs = [(name, size, text_tokens) for name in models for size in sizes]
    jobs += [(name, first.size, tokens) for name in models for tokens in TEXT_TOKENS]
    flops = {
        (name, size, tokens): model_cost(
            _sized(models[name], size, tokens), batch_size=1, text_tokens=tokens, measure=False
        ).step_flops
        for name, size, tokens in track(jobs, "Counting", len(jobs))
    }
    return Growth(
        pixels=tuple(size[0] for size in sizes),
        tokens=TEXT_TOKENS,
        by_pixels={name: tuple(flops[name, size, text_tokens] for size in sizes) for name in models},
        by_tokens={name: tuple(flops[name, first.size, tokens] for tokens in TEXT_TOKENS) for name in models},
    )


def _scaled(config: Joined, scale: float) -> tuple[int, int] | None:
    """The size of larger or smaller pictures; None where it is no whole number of patches."""
    height, width = (round(scale * side) for side in config.size)
    patch = config.vision.patch_pixels if isinstance(config.vision, VitConfig) else 1
    return None if height % patch or width % patch else (height, width)


def _sized(config: Joined, size: tuple[int, int], text_tokens: int) -> Joined:
    """The same model for pictures of another size, and for texts that are this long."""
    vision = config.vision
    assert isinstance(vision, (VitConfig, ConvConfig))
    vision = replace(vision, size=size)
    if isinstance(config, CaptionerConfig):
        rules = replace(config.decoder.rules, context=max(text_tokens, config.decoder.rules.context))
        return replace(config, vision=vision, decoder=replace(config.decoder, rules=rules))
    assert isinstance(config.text, TextConfig)
    rules = replace(config.text.rules, context=max(text_tokens, config.text.rules.context))
    return replace(config, vision=vision, text=replace(config.text, rules=rules))


__all__ = ["Growth", "growth"]
