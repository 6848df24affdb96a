"""OpenCLIP's layout (`open_clip_config.json`), which is read: its own ViT and text transformer."""

from __future__ import annotations

from typing import Any, cast

from chiasm.models import ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.pretrained.rules import FUSED, MULTIHEAD, Rule, join_fused_attention, layer, same, stem
from chiasm.text import Tokenizer

VISION = {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
"""What a configuration leaves out."""
KNOWN = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}


def openclip_config(config: dict[str, Any], tokenizer: Tokenizer) -> ClipConfig:
    """Our sizes of the "model_cfg"; ValueError names settings that we do not have, as towers of timm."""
    vision, text = VISION | config["vision_cfg"], TEXT | config["text_cfg"]
    unknown = [*(config.keys() - KNOWN), *(vision.keys() - VISION.keys()), *(text.keys() - TEXT.keys())]
    if unknown or not isinstance(vision["layers"], int):
        raise ValueError(
            f"other towers than OpenCLIP's ViT and its text transformer ({', '.join(unknown) or 'ResNet'})"
        )
    if tokenizer.vocab_size != text["vocab_size"]:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {text['vocab_size']}")
    size = vision["image_size"]
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return ClipConfig(
        vision=VitConfig(
            size=(size, size) if isinstance(size, int) else tuple(size), patch_pixels=vision["patch_size"],
            width=vision["width"], depth=vision["layers"], heads=vision["width"] // vision["head_width"],
            mlp_ratio=vision["mlp_ratio"], pool="cls", norm_first=True, activation=activation,
        ),
        text=TextConfig(
            width=text["width"], depth=text["layers"], heads=text["heads"], mlp_ratio=text["mlp_ratio"],
            vocabulary=text["vocab_size"], activation=activation,
            rules=TextRules.of(tokenizer, text["context_length"]),
        ),
        embed_dim=config["embed_dim"],
    )  # fmt: skip


def openclip_rules(config: ClipConfig) -> list[Rule]:
    """Each tensor of OpenCLIP's `CLIP`, and ours."""
    vision, text = cast(VitConfig, config.vision), cast(TextConfig, config.text)
    grid = vision.size[0] // vision.patch_pixels, vision.size[1] // vision.patch_pixels
    return [
        stem("vision", ("visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding"), grid),
        *layer("vision.norm_first", "visual.ln_pre"),
        *_blocks("vision", "visual.transformer", vision.depth),
        *layer("vision.norm", "visual.ln_post"),
        _transposed("project_image.weight", "visual.proj"),
        same("text.embed.tokens.weight", "token_embedding.weight"),
        same("text.embed.positions", "positional_embedding"),
        *_blocks("text", "transformer", text.depth),
        *layer("text.norm", "ln_final"),
        _transposed("project_text.weight", "text_projection"),
        Rule(("log_scale",), ("logit_scale",), lambda x: (x.reshape(()),)),
    ]


def _transposed(ours: str, theirs: str) -> Rule:
    return Rule((ours,), (theirs,), lambda x: (x.T,))


def _blocks(ours: str, theirs: str, depth: int) -> list[Rule]:
    return [
        rule
        for i in range(depth)
        for a, b in [(f"{ours}.blocks.{i}", f"{theirs}.resblocks.{i}")]
        for rule in (
            *layer(f"{a}.norm_self", f"{b}.ln_1"),
            Rule(
                tuple(f"{a}.attend_self.{name}" for name in FUSED),
                tuple(f"{b}.attn.{name}" for name in MULTIHEAD),
                join_fused_attention,
            ),
            *layer(f"{a}.norm_mlp", f"{b}.ln_2"),
            *layer(f"{a}.mlp.0", f"{b}.mlp.c_fc"),
            *layer(f"{a}.mlp.2", f"{b}.mlp.c_proj"),
        )
    ]
