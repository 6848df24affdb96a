"""The layout of Hugging Face's `SiglipModel` (2303.15343), which is read."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from chiasm.models import ClipConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.pretrained.huggingface import TEXT, VISION, blocks, text_rules, text_sizes, vision_sizes
from chiasm.pretrained.rules import FUSED, MULTIHEAD, Rule, Tensors, join_fused_attention, layer
from chiasm.text import Tokenizer

SHARED = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip
SIGLIP_TEXT = TEXT | SHARED | {"vocab_size": 32000, "max_position_embeddings": 64}
SIGLIP_VISION = VISION | SHARED | {"patch_size": 16, "vision_use_head": True}
"""What a configuration leaves out where it is as in ViT-B/16."""


def siglip_config(config: dict[str, Any], tokenizer: Tokenizer) -> ClipConfig:
    """Our sizes of a `SiglipConfig`; ValueError for what we do not have."""
    text = SIGLIP_TEXT | (config.get("text_config") or {})
    vision = SIGLIP_VISION | (config.get("vision_config") or {})
    if not vision["vision_use_head"]:
        raise ValueError("a picture encoder without its pooling head (vision_use_head)")
    return ClipConfig(
        vision=VitConfig(**vision_sizes(vision), pool="map"),
        text=TextConfig(**text_sizes(text, tokenizer), causal=False, pool="last"),
        embed_dim=text.get("projection_size") or text["hidden_size"],
        similarity="sigmoid",
        projection="text",
    )


def siglip_rules(config: ClipConfig) -> list[Rule]:
    """Each tensor of a `SiglipModel`, and ours."""
    vision, text = cast(VitConfig, config.vision), cast(TextConfig, config.text)
    rows, columns = (side // vision.patch_pixels for side in vision.size)
    head, reader = "vision_model.head", "vision.pool.reader"
    return [
        *layer("vision.embed.project", "vision_model.embeddings.patch_embedding"),
        Rule(
            ("vision.positions.table",),
            ("vision_model.embeddings.position_embedding.weight",),
            lambda table: (table.T.unflatten(1, (rows, columns)),),
        ),
        *blocks("vision", "vision_model", vision.depth),
        *layer("vision.norm", "vision_model.post_layernorm"),
        Rule(
            (f"{reader}.latents", *(f"{reader}.read.attend.{name}" for name in FUSED)),
            (f"{head}.probe", *(f"{head}.attention.{name}" for name in MULTIHEAD)),
            _join_probe,
        ),
        *layer(f"{reader}.read.norm_mlp", f"{head}.layernorm"),
        *layer(f"{reader}.read.mlp.0", f"{head}.mlp.fc1"),
        *layer(f"{reader}.read.mlp.2", f"{head}.mlp.fc2"),
        *text_rules(text.depth),
        *layer("project_text", "text_model.head"),
        Rule(("log_scale",), ("logit_scale",), lambda x: (x.reshape(()),)),
        Rule(("bias",), ("logit_bias",), lambda x: (x.reshape(()),)),
    ]


def _join_probe(probe: Tensor, *attention: Tensor) -> Tensors:
    """Our query adds what it reads to itself, SigLIP's does not: one constant, taken from the output's bias."""
    *others, bias = join_fused_attention(*attention)
    return probe[0], *others, bias - probe[0, 0]
