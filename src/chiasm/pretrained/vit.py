"""The layout of Hugging Face's `ViTModel` and `ViTForImageClassification`, in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.models import PictureClassifierConfig
from chiasm.models.vision import VitConfig
from chiasm.pretrained.huggingface import described_sizes, vision_sizes
from chiasm.pretrained.rules import Rule, Tensors, attention, layer

VIT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}  # fmt: skip
"""What a configuration leaves out where it is as in ViT-B/16."""
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
"""A layer of next to no use, which only some files hold and no classifier reads."""


def vit_config(config: dict[str, Any]) -> VitConfig:
    """Our sizes of a `ViTConfig`; ValueError for what we do not have."""
    told = VIT | config
    if not told["qkv_bias"]:
        raise ValueError("attention without biases (qkv_bias)")
    return VitConfig(**vision_sizes(told), pool="cls")


def classifier_config(config: dict[str, Any]) -> PictureClassifierConfig:
    """Our sizes of a `ViTForImageClassification`, and the names of its classes; ValueError where it has none."""
    if "ViTForImageClassification" not in config.get("architectures", ()):
        raise ValueError(f"a ViT without classes ({', '.join(config.get('architectures', ())) or 'no architecture'})")
    names = config.get("id2label") or {}
    classes = tuple(names[key] for key in sorted(names, key=int))
    if len(set(classes)) < len(classes):
        raise ValueError(f"id2label names a class twice ({next(c for c in classes if classes.count(c) > 1)!r})")
    return PictureClassifierConfig(vision=vit_config(config), classes=classes)


def classifier_rules(config: PictureClassifierConfig) -> list[Rule]:
    """Each tensor of a `ViTForImageClassification`, and ours."""
    assert isinstance(config.vision, VitConfig)
    return [*vit_rules(config.vision, "vision.", "vit."), *layer("head", "classifier")]


def vit_rules(config: VitConfig, ours: str, theirs: str = "") -> list[Rule]:
    """Each tensor of a `ViTModel` but its pooler's, and ours; both sides' names behind a prefix."""
    embed, mine = f"{theirs}embeddings", ("embed.project.weight", "embed.project.bias", "cls", "positions.table")
    given = ("patch_embeddings.projection.weight", "patch_embeddings.projection.bias", "cls_token",
             "position_embeddings")  # fmt: skip
    grid = config.size[0] // config.patch_pixels, config.size[1] // config.patch_pixels

    def join(patches: Tensor, bias: Tensor, cls: Tensor, positions: Tensor) -> Tensors:
        return patches, bias, cls[0, 0] + positions[0, 0], positions[0, 1:].T.unflatten(1, grid)

    def split(patches: Tensor, bias: Tensor, cls: Tensor, table: Tensor) -> Tensors:
        places = torch.cat([torch.zeros_like(cls)[None], table.flatten(1).T])
        return patches, bias, cls[None, None], places[None]

    stem = Rule(tuple(f"{ours}{name}" for name in mine), tuple(f"{embed}.{name}" for name in given), join, split)
    return [
        stem,
        *(
            rule
            for i in range(config.depth)
            for a, b in [(f"{ours}blocks.{i}", f"{theirs}encoder.layer.{i}")]
            for rule in (
                *layer(f"{a}.norm_self", f"{b}.layernorm_before"),
                *layer(f"{a}.attend_self.query", f"{b}.attention.attention.query"),
                attention(
                    f"{a}.attend_self",
                    f"{b}.attention.attention.key",
                    f"{b}.attention.attention.value",
                    f"{b}.attention.output.dense",
                ),
                *layer(f"{a}.norm_mlp", f"{b}.layernorm_after"),
                *layer(f"{a}.mlp.0", f"{b}.intermediate.dense"),
                *layer(f"{a}.mlp.2", f"{b}.output.dense"),
            )
        ),
        *layer(f"{ours}norm", f"{theirs}layernorm"),
    ]


def clean_vit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the pooler."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(POOLER)}


def describe_classifier(config: PictureClassifierConfig) -> dict[str, Any]:
    """The `config.json` of a `ViTForImageClassification`; ValueError names what this layout cannot express."""
    vision = config.vision
    if not isinstance(vision, VitConfig):
        raise ValueError("Hugging Face's ViT layout has no place for a picture encoder other than a ViT")
    if (vision.stem, vision.pool, vision.norm_first, vision.registers) != ("patch", "cls", False, 0):
        raise ValueError(
            "Hugging Face's ViT layout has no place for a ViT other than stem=patch, pool=cls, norm_first=false, "
            "registers=0"
        )
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        **described_sizes(vision),
        "image_size": vision.size[0] if vision.size[0] == vision.size[1] else list(vision.size),
        "patch_size": vision.patch_pixels,
        "num_channels": 3,
        "qkv_bias": True,
        "id2label": {str(number): name for number, name in enumerate(config.classes)},
        "label2id": {name: number for number, name in enumerate(config.classes)},
    }
