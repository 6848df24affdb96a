"""The layout of Hugging Face's `CLIPModel`, in both directions."""

from __future__ import annotations

from typing import Any, cast

from chiasm.models import ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.nn import Activation
from chiasm.pretrained.rules import Rule, attention, layer, same, stem
from chiasm.text import Tokenizer

ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
TEXT = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
"""What a configuration leaves out where it is as in ViT-B/32."""
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


def clip_config(config: dict[str, Any], tokenizer: Tokenizer) -> ClipConfig:
    """Our sizes of a `CLIPConfig`; ValueError for what we do not have."""
    text = TEXT | (config.get("text_config") or {}) | (config.get("text_config_dict") or {})
    vision = VISION | (config.get("vision_config") or {}) | (config.get("vision_config_dict") or {})
    return ClipConfig(
        vision=VitConfig(**vision_sizes(vision), pool="cls", norm_first=True),
        text=TextConfig(**text_sizes(text, tokenizer)),
        embed_dim=config.get("projection_dim", 512),
    )


def vision_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """What the configurations of CLIP's and SigLIP's picture encoders say, as fields of ours."""
    if config["num_channels"] != 3:
        raise ValueError(f"pictures of {config['num_channels']} channels; chiasm's have 3")
    size = config["image_size"]
    return {
        "size": (size, size) if isinstance(size, int) else tuple(size),
        "patch_pixels": config["patch_size"],
        **_sizes(config),
    }


def text_sizes(config: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """What the configurations of the text encoders say, as fields of ours; the tokenizer knows its ids better."""
    if tokenizer.vocab_size != config["vocab_size"]:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config['vocab_size']}")
    rules = TextRules.of(tokenizer, config["max_position_embeddings"])
    return {"vocabulary": config["vocab_size"], "rules": rules, **_sizes(config)}


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
        "activation": known_activation(config["hidden_act"]),
        "norm_eps": config["layer_norm_eps"],
    }


def known_activation(name: str) -> Activation:
    """Ours by the name that it has there."""
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def clip_rules(config: ClipConfig) -> list[Rule]:
    """Each tensor of a `CLIPModel`, and ours."""
    vision, text = cast(VitConfig, config.vision), cast(TextConfig, config.text)
    grid = vision.size[0] // vision.patch_pixels, vision.size[1] // vision.patch_pixels
    parts = ("patch_embedding.weight", "class_embedding", "position_embedding.weight")
    first, second, third = (f"vision_model.embeddings.{part}" for part in parts)
    return [
        stem("vision", (first, second, third), grid),
        *layer("vision.norm_first", "vision_model.pre_layrnorm"),
        *blocks("vision", "vision_model", vision.depth),
        *layer("vision.norm", "vision_model.post_layernorm"),
        *text_rules(text.depth),
        same("project_image.weight", "visual_projection.weight"),
        same("project_text.weight", "text_projection.weight"),
        same("log_scale", "logit_scale"),
    ]


def text_rules(depth: int) -> list[Rule]:
    """The text encoder, which CLIP and SigLIP name alike."""
    return [
        same("text.embed.tokens.weight", "text_model.embeddings.token_embedding.weight"),
        same("text.embed.positions", "text_model.embeddings.position_embedding.weight"),
        *blocks("text", "text_model", depth),
        *layer("text.norm", "text_model.final_layer_norm"),
    ]


def blocks(ours: str, theirs: str, depth: int) -> list[Rule]:
    """A tower's transformer blocks, which CLIP and SigLIP name alike."""
    return [
        rule
        for i in range(depth)
        for a, b in [(f"{ours}.blocks.{i}", f"{theirs}.encoder.layers.{i}")]
        for rule in (
            *layer(f"{a}.norm_self", f"{b}.layer_norm1"),
            *layer(f"{a}.attend_self.query", f"{b}.self_attn.q_proj"),
            attention(f"{a}.attend_self", *(f"{b}.self_attn.{name}" for name in ("k_proj", "v_proj", "out_proj"))),
            *layer(f"{a}.norm_mlp", f"{b}.layer_norm2"),
            *layer(f"{a}.mlp.0", f"{b}.mlp.fc1"),
            *layer(f"{a}.mlp.2", f"{b}.mlp.fc2"),
        )
    ]


def describe(config: ClipConfig) -> dict[str, Any]:
    """The `config.json` of a `CLIPModel`; ValueError names what this layout cannot express."""
    vision, text = config.vision, config.text
    problems = []
    if not isinstance(vision, VitConfig):
        problems.append("a picture encoder other than a ViT")
    elif (vision.stem, vision.pool, vision.norm_first) != ("patch", "cls", True) or vision.size[0] != vision.size[1]:
        problems.append("a ViT other than square pictures, stem=patch, pool=cls, norm_first=true")
    if not isinstance(text, TextConfig) or not text.causal or text.pool != "eot":
        problems.append("a text encoder other than causal=true, pool=eot")
    elif text.rules.eot == 2:
        problems.append("EOT with the id 2, which transformers takes for an old mistake in files")
    if config.similarity != "softmax" or config.projection != "both":
        problems.append("similarity or projection as in SigLIP")
    if problems:
        raise ValueError(f"Hugging Face's CLIP layout has no place for {'; '.join(problems)}")
    vision, text = cast(VitConfig, vision), cast(TextConfig, text)
    rules = text.rules
    ids = {"bos_token_id": rules.bos, "eos_token_id": rules.eot, "pad_token_id": rules.pad}
    shared = {"projection_dim": config.embed_dim}
    places = {"vocab_size": text.vocabulary, "max_position_embeddings": rules.context}
    cut = {"image_size": vision.size[0], "patch_size": vision.patch_pixels, "num_channels": 3}
    return {
        "architectures": ["CLIPModel"], "model_type": "clip", **shared,
        "text_config": {"model_type": "clip_text_model", **described_sizes(text), **places, **ids, **shared},
        "vision_config": {"model_type": "clip_vision_model", **described_sizes(vision), **cut, **shared},
    }  # fmt: skip


def described_sizes(config: VitConfig | TextConfig) -> dict[str, Any]:
    """The fields that the configurations of CLIP's towers and of ViT name alike."""
    return {
        "hidden_size": config.width,
        "intermediate_size": round(config.width * config.mlp_ratio),
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_eps": config.norm_eps,
    }
