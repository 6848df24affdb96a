"""Sizes with names, as functions; `--set` changes any of their values."""

from __future__ import annotations

from collections.abc import Callable

from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.language import DecoderConfig, TextRules
from chiasm.models.vision import VitConfig


def captioner_tiny() -> CaptionerConfig:
    """The sizes of the lesson this project grew from: 32 px, patches of 8, width 128, 2 + 2 layers, 4 heads."""
    return CaptionerConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4),
        decoder=DecoderConfig(width=128, depth=2, heads=4),
    )


def captioner_small() -> CaptionerConfig:
    """About 5 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    return CaptionerConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv"),
        decoder=DecoderConfig(width=192, depth=3, heads=4),
    )


def captioner_base() -> CaptionerConfig:
    """ViT-B/16 at 224 px and a decoder of 12 layers."""
    return CaptionerConfig(
        vision=VitConfig(size=(224, 224), patch_pixels=16, width=768, depth=12, heads=12),
        decoder=DecoderConfig(width=768, depth=12, heads=12, rules=TextRules(context=64)),
    )


CAPTIONERS: dict[str, Callable[[], CaptionerConfig]] = {
    "tiny": captioner_tiny,
    "small": captioner_small,
    "base": captioner_base,
}


def captioner_preset(name: str) -> CaptionerConfig:
    """The captioner of that name; UserError names the others."""
    if name not in CAPTIONERS:
        raise UserError(f"There is no captioner preset {name!r}", f"Presets: {', '.join(CAPTIONERS)}.")
    return CAPTIONERS[name]()
