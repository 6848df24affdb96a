"""Sizes with names, as functions; `--set` changes any of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from chiasm.errors import UserError
from chiasm.models.autoencoder import PerceiverAutoencoderConfig
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.classifier import FusionClassifierConfig, PictureClassifierConfig
from chiasm.models.clip import ClipConfig
from chiasm.models.coca import CocaConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.flamingo import FlamingoConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, FusionConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.inputs import Inputs, MelInput, PictureInput, TextInput
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.lm import LanguageConfig
from chiasm.models.mlm import PerceiverMlmConfig
from chiasm.models.perceiver import LatentConfig, PerceiverClassifierConfig, ReadConfig
from chiasm.models.vision import ConvConfig, VitConfig

C = TypeVar("C")
Perceiver = PerceiverClassifierConfig | PerceiverAutoencoderConfig | PerceiverMlmConfig


def captioner_tiny() -> CaptionerConfig:
    """The sizes of the lesson this project grew from: 32 px, patches of 8, width 128, 2 + 2 layers, 4 heads."""
    return CaptionerConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4),
        decoder=DecoderConfig(width=128, depth=2, heads=4),
    )


def captioner_small() -> CaptionerConfig:
    """About 4 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    return CaptionerConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv"),
        decoder=DecoderConfig(width=192, depth=2, heads=4),
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
    return _preset(CAPTIONERS, name, "captioner")


def lm_tiny() -> LanguageConfig:
    """A decoder like `captioner_tiny`'s, to try things out."""
    return LanguageConfig(decoder=DecoderConfig(width=128, depth=2, heads=4))


def lm_small() -> LanguageConfig:
    """About 2 M parameters and texts of 64 tokens: for captions and short texts."""
    return LanguageConfig(decoder=DecoderConfig(width=192, depth=4, heads=4, rules=TextRules(context=64)))


def lm_base() -> LanguageConfig:
    """GPT-2's smallest: 12 layers of width 768, texts of 1,024 tokens."""
    decoder = DecoderConfig(width=768, depth=12, heads=12, rules=TextRules(context=1024), activation="gelu_tanh")
    return LanguageConfig(decoder=decoder)


LMS: dict[str, Callable[[], LanguageConfig]] = {"tiny": lm_tiny, "small": lm_small, "base": lm_base}


def lm_preset(name: str) -> LanguageConfig:
    """The language model of that name; UserError names the others."""
    return _preset(LMS, name, "lm")


def coca_tiny() -> CocaConfig:
    """About 2 M parameters at 32 px, to try things out."""
    return CocaConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4, stem="conv"),
        latents=16,
        decoder=DecoderConfig(width=128, depth=3, unimodal_depth=2, heads=4),
        embed_dim=128,
    )


def coca_small() -> CocaConfig:
    """About 7 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    return CocaConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv"),
        latents=32,
        decoder=DecoderConfig(width=192, depth=4, unimodal_depth=2, heads=4),
    )


COCAS: dict[str, Callable[[], CocaConfig]] = {"tiny": coca_tiny, "small": coca_small}


def coca_preset(name: str) -> CocaConfig:
    """The CoCa of that name; UserError names the others."""
    return _preset(COCAS, name, "CoCa")


def flamingo_tiny() -> FlamingoConfig:
    """About 1 M parameters at 32 px and sequences of 64 tokens, to try things out."""
    return FlamingoConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4, stem="conv"),
        decoder=DecoderConfig(width=128, depth=2, heads=4, rules=TextRules(context=64)),
        latents=8,
    )


def flamingo_small() -> FlamingoConfig:
    """About 7 M parameters at 64 px, and sequences of 128 tokens: for hundreds to tens of thousands of pictures."""
    return FlamingoConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv"),
        decoder=DecoderConfig(width=192, depth=4, heads=4, rules=TextRules(context=128)),
    )


FLAMINGOS: dict[str, Callable[[], FlamingoConfig]] = {"tiny": flamingo_tiny, "small": flamingo_small}


def flamingo_preset(name: str) -> FlamingoConfig:
    """The Flamingo of that name; UserError names the others."""
    return _preset(FLAMINGOS, name, "Flamingo")


def clip_lesson() -> ClipConfig:
    """The sizes of the lesson's MiniCLIP: a strided CNN at 32 px, a text transformer of 2 layers, width 256."""
    return ClipConfig(
        vision=ConvConfig(size=(32, 32), widths=(64, 128, 256), pool="mean"),
        text=TextConfig(width=256, depth=2, heads=4),
    )


def clip_tiny() -> ClipConfig:
    """About 1 M parameters at 32 px, to try things out."""
    return ClipConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4, stem="conv", pool="mean"),
        text=TextConfig(width=128, depth=2, heads=4),
        embed_dim=128,
    )


def clip_small() -> ClipConfig:
    """About 6 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    return ClipConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv", pool="mean"),
        text=TextConfig(width=192, depth=3, heads=4),
    )


def _published(pixels: int, patch: int, vision: tuple[int, int], text: tuple[int, int], embed_dim: int) -> ClipConfig:
    """A size of 2103.00020, table 20: (width, depth) of both towers; heads are 64 wide."""
    return ClipConfig(
        vision=VitConfig(
            size=(pixels, pixels), patch_pixels=patch, width=vision[0], depth=vision[1], heads=vision[0] // 64,
            pool="cls",
            activation="quick_gelu", norm_first=True,
        ),
        text=TextConfig(
            width=text[0], depth=text[1], heads=text[0] // 64, rules=TextRules(context=77), activation="quick_gelu"
        ),
        embed_dim=embed_dim,
    )  # fmt: skip


CLIPS: dict[str, Callable[[], ClipConfig]] = {
    "lesson": clip_lesson,
    "tiny": clip_tiny,
    "small": clip_small,
    "vit-b-32": lambda: _published(224, 32, (768, 12), (512, 12), 512),
    "vit-b-16": lambda: _published(224, 16, (768, 12), (512, 12), 512),
    "vit-l-14": lambda: _published(224, 14, (1024, 24), (768, 12), 768),
}


def clip_preset(name: str) -> ClipConfig:
    """The dual encoder of that name; UserError names the others."""
    return _preset(CLIPS, name, "CLIP")


FUSION_DEPTHS = {
    "tiny": {"late": (3, 1, 0), "early": (0, 0, 5), "cross": (1, 1, 1), "perceiver": (0, 0, 4)},
    "small": {"late": (4, 2, 0), "early": (0, 0, 7), "cross": (1, 1, 2), "perceiver": (0, 0, 6)},
}
"""Blocks of the picture's encoder, of the text's, and of the fusion: about as many parameters whichever the fusion (a
layer of co-attention has two blocks, with cross-attention; a late fusion's head and the latents' read are most of one).
"""


def fusion_tiny(fusion: str) -> FusionClassifierConfig:
    """About 1.5 M parameters at 32 px, to try things out."""
    stem = VitConfig(size=(32, 32), patch_pixels=8, width=128, heads=4, stem="conv")
    return _fusion(fusion, stem, FUSION_DEPTHS["tiny"])


def fusion_small(fusion: str) -> FusionClassifierConfig:
    """About 4 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    stem = VitConfig(size=(64, 64), patch_pixels=8, width=192, heads=4, stem="conv")
    return _fusion(fusion, stem, FUSION_DEPTHS["small"])


def _fusion(name: str, stem: VitConfig, depths: dict[str, tuple[int, int, int]]) -> FusionClassifierConfig:
    if name not in depths:
        raise UserError(f"There is no fusion {name!r}", f"Fusions: {', '.join(depths)}.")
    before_picture, before_text, depth = depths[name]
    sizes: Any = {"width": stem.width, "depth": depth, "heads": stem.heads}
    fusions: dict[str, Callable[[], FusionConfig]] = {
        "late": lambda: LateConfig(width=stem.width),
        "early": lambda: EarlyConfig(**sizes),
        "cross": lambda: CrossConfig(**sizes),
        "perceiver": lambda: PerceiverFusionConfig(**sizes),
    }
    return FusionClassifierConfig(
        vision=replace(stem, depth=before_picture, pool="mean" if name == "late" else "none"),
        text=TextConfig(width=stem.width, depth=before_text, heads=stem.heads, causal=False, pool="mean"),
        fusion=fusions[name](),
    )


FUSIONS: dict[str, Callable[[str], FusionClassifierConfig]] = {"tiny": fusion_tiny, "small": fusion_small}


def fusion_preset(name: str, fusion: str) -> FusionClassifierConfig:
    """The classifier of pictures with texts of that name, with this fusion; UserError names the others."""
    return _preset({known: lambda make=make: make(fusion) for known, make in FUSIONS.items()}, name, "fusion")


def vit_tiny() -> PictureClassifierConfig:
    """About 0.9 M parameters at 32 px, with a convolutional stem, to try things out."""
    return PictureClassifierConfig(
        vision=VitConfig(size=(32, 32), patch_pixels=8, width=128, depth=2, heads=4, stem="conv", pool="mean")
    )


def vit_small() -> PictureClassifierConfig:
    """About 3 M parameters at 64 px, with a convolutional stem: for hundreds to tens of thousands of pictures."""
    return PictureClassifierConfig(
        vision=VitConfig(size=(64, 64), patch_pixels=8, width=192, depth=4, heads=4, stem="conv", pool="mean")
    )


def _published_vit(width: int, depth: int) -> PictureClassifierConfig:
    """A size of 2010.11929, table 1 (or 2012.12877's smaller ones), at 224 px and patches of 16; heads are 64 wide."""
    return PictureClassifierConfig(
        vision=VitConfig(size=(224, 224), patch_pixels=16, width=width, depth=depth, heads=width // 64, pool="cls")
    )


VITS: dict[str, Callable[[], PictureClassifierConfig]] = {
    "tiny": vit_tiny,
    "small": vit_small,
    "vit-s-16": lambda: _published_vit(384, 12),
    "vit-b-16": lambda: _published_vit(768, 12),
    "vit-l-16": lambda: _published_vit(1024, 24),
}


def vit_preset(name: str) -> PictureClassifierConfig:
    """The classifier of pictures of that name; UserError names the others."""
    return _preset(VITS, name, "vit")


def perceiver_tiny(task: str, inputs: Sequence[str]) -> Perceiver:
    """32 latents of width 128 in 4 layers, pictures of 32 px: about 1 M parameters, to try things out."""
    return _perceiver(
        task,
        inputs,
        LatentConfig(latents=32, width=128, depth=4, heads=4, read=ReadConfig(heads=4)),
        pixels=32,
        text_width=64,
    )


def perceiver_small(task: str, inputs: Sequence[str]) -> Perceiver:
    """64 latents of width 192 in 6 layers, pictures of 64 px: about 3 M parameters."""
    return _perceiver(
        task,
        inputs,
        LatentConfig(latents=64, width=192, depth=6, heads=4, read=ReadConfig(heads=4)),
        pixels=64,
        text_width=128,
    )


def _perceiver(task: str, inputs: Sequence[str], latents: LatentConfig, pixels: int, text_width: int) -> Perceiver:
    """Pictures are raw pixels; where they are to be given back, patches of 4."""
    text = TextInput(width=text_width, rules=TextRules(context=64))
    if task == "mask":
        return PerceiverMlmConfig(inputs=Inputs(text=text), latents=latents)
    picture = PictureInput(size=(pixels, pixels), patch_pixels=4 if task == "reconstruct" else 1)
    known = {"picture": picture, "text": text, "sound": MelInput(seconds=2.0)}
    chosen = Inputs(**{name: known[name] for name in inputs})
    if task == "reconstruct":
        return PerceiverAutoencoderConfig(inputs=chosen, latents=latents, query_width=latents.width)
    return PerceiverClassifierConfig(inputs=chosen, latents=latents)


PERCEIVERS: dict[str, Callable[[str, Sequence[str]], Perceiver]] = {"tiny": perceiver_tiny, "small": perceiver_small}


def perceiver_preset(name: str, task: str, inputs: Sequence[str]) -> Perceiver:
    """The Perceiver of that name for label, reconstruct or mask, and the inputs it has; UserError names the others."""
    return _preset(
        {preset: lambda make=make: make(task, inputs) for preset, make in PERCEIVERS.items()}, name, "perceiver"
    )


def _preset(known: dict[str, Callable[[], C]], name: str, what: str) -> C:
    if name not in known:
        raise UserError(f"There is no {what} preset {name!r}", f"Presets: {', '.join(known)}.")
    return known[name]()
