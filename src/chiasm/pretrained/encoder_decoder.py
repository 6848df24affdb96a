"""The layout of Hugging Face's `VisionEncoderDecoderModel`, which is read where it is a ViT with a GPT-2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from chiasm.models import CaptionerConfig
from chiasm.models.vision import VitConfig
from chiasm.pretrained.gpt2 import clean_gpt2, gpt2_config, gpt2_rules
from chiasm.pretrained.rules import FUSED, Rule, Tensors, join_attention, layer
from chiasm.pretrained.vit import clean_vit, vit_config, vit_rules
from chiasm.text import Tokenizer

ENCODER, DECODER = "encoder.", "decoder."
BRIDGE = ("enc_to_dec_proj.weight", "enc_to_dec_proj.bias")


def captioner_config(config: dict[str, Any], tokenizer: Tokenizer) -> CaptionerConfig:
    """Our sizes of a ViT that a GPT-2 reads by cross-attention; ValueError for any other pair."""
    encoder, decoder = config["encoder"], config["decoder"]
    kinds = encoder.get("model_type"), decoder.get("model_type")
    if kinds != ("vit", "gpt2"):
        raise ValueError(f"an encoder of kind {kinds[0]!r} with a decoder of kind {kinds[1]!r}")
    if not decoder.get("add_cross_attention"):
        raise ValueError("add_cross_attention is false: the decoder reads no picture")
    sizes = gpt2_config(decoder, tokenizer)
    start = config.get("decoder_start_token_id", decoder.get("decoder_start_token_id"))
    if start is not None:
        sizes = replace(sizes, rules=replace(sizes.rules, bos=start))
    return CaptionerConfig(vision=vit_config(encoder), decoder=sizes)


def captioner_rules(config: CaptionerConfig) -> list[Rule]:
    """Each tensor of the pair, and ours; where their widths differ, what joins them becomes part of keys and values."""
    assert isinstance(config.vision, VitConfig)
    bridge = BRIDGE if config.vision.width != config.decoder.width else ()
    return [
        *vit_rules(config.vision, "vision.", ENCODER),
        *gpt2_rules(config.decoder.depth, "decoder.", DECODER),
        *(
            rule
            for i in range(config.decoder.depth)
            for a, b in [(f"decoder.blocks.{i}", f"{DECODER}transformer.h.{i}")]
            for rule in (
                *layer(f"{a}.norm_cross", f"{b}.ln_cross_attn"),
                Rule(
                    tuple(f"{a}.attend_cross.{name}" for name in FUSED),
                    (*(f"{b}.crossattention.{name}.{part}" for name in ("q_attn", "c_attn", "c_proj")
                       for part in ("weight", "bias")), *bridge),
                    _join_cross,
                ),
            )
        ),
    ]  # fmt: skip


def clean_captioner(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both halves as `clean_vit` and `clean_gpt2` leave them."""
    decoder = {n.removeprefix(DECODER): tensor for n, tensor in tensors.items() if n.startswith(DECODER)}
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(DECODER)}
    return clean_vit(others) | {f"{DECODER}{name}": tensor for name, tensor in clean_gpt2(decoder).items()}


def _join_cross(
    query: Tensor, query_bias: Tensor, context: Tensor, context_bias: Tensor, out: Tensor, out_bias: Tensor,
    *bridge: Tensor,
) -> Tensors:  # fmt: skip
    """A bias of what the keys read is inert under softmax, as is a key's own; of the values' it passes through."""
    key, value = context.T.chunk(2)
    value_bias = context_bias.chunk(2)[1]
    if bridge:
        between, shift = bridge
        key, value, value_bias = key @ between, value @ between, value_bias + value @ shift
    return query.T, query_bias, *join_attention(key, value, value_bias, out.T, out_bias)
