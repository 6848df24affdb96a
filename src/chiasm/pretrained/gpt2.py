"""The layout of Hugging Face's `GPT2LMHeadModel`, which is read: a decoder, with cross-attention or without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.models import LanguageConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.pretrained.huggingface import known_activation
from chiasm.pretrained.rules import FUSED, Rule, Tensors, join_attention, layer, same
from chiasm.text import Tokenizer

GPT2 = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True,
}  # fmt: skip
"""What a configuration leaves out where it is as in the smallest of them."""
MASKS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias", ".crossattention.masked_bias")
"""Causal masks, which older files hold."""
HEAD, TABLE = "lm_head.weight", "transformer.wte.weight"


def gpt2_config(config: dict[str, Any], tokenizer: Tokenizer) -> DecoderConfig:
    """Our sizes of a `GPT2Config`; ValueError for what we do not have."""
    told = GPT2 | config
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"):
        if told[name] != GPT2[name]:
            raise ValueError(f"{name} is {told[name]}")
    if tokenizer.vocab_size != told["vocab_size"]:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {told['vocab_size']}")
    return DecoderConfig(
        width=told["n_embd"],
        depth=told["n_layer"],
        heads=told["n_head"],
        rules=TextRules.of(tokenizer, told["n_positions"]),
        vocabulary=told["vocab_size"],
        mlp_ratio=(told["n_inner"] or 4 * told["n_embd"]) / told["n_embd"],
        activation=known_activation(told["activation_function"]),
        norm_eps=told["layer_norm_epsilon"],
    )


def language_config(config: dict[str, Any], tokenizer: Tokenizer) -> LanguageConfig:
    """The same as those of a language model."""
    return LanguageConfig(decoder=gpt2_config(config, tokenizer))


def language_rules(config: LanguageConfig) -> list[Rule]:
    """Each tensor of a `GPT2LMHeadModel`, and a language model's."""
    return gpt2_rules(config.decoder.depth, "decoder.")


def clean_gpt2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under today's names, without masks and without an output layer that is the token table again.

    ValueError where the output layer has weights of its own.
    """
    if TABLE not in tensors:  # the oldest files hold the inner model alone
        tensors = {name if name == HEAD else f"transformer.{name}": tensor for name, tensor in tensors.items()}
    head = tensors.get(HEAD)
    if head is not None and not torch.equal(head, tensors[TABLE]):
        raise ValueError(f"the output layer ({HEAD}) has weights of its own, and not those of the token table")
    return {name: t for name, t in tensors.items() if name != HEAD and not name.endswith(MASKS)}


def gpt2_rules(depth: int, ours: str, theirs: str = "") -> list[Rule]:
    """Each tensor of a `GPT2LMHeadModel` without cross-attention, and ours; both sides' names behind a prefix."""
    outer = f"{theirs}transformer"
    return [
        same(f"{ours}embed.tokens.weight", f"{outer}.wte.weight"),
        same(f"{ours}embed.positions", f"{outer}.wpe.weight"),
        *layer(f"{ours}norm", f"{outer}.ln_f"),
        *(
            rule
            for i in range(depth)
            for a, b in [(f"{ours}blocks.{i}", f"{outer}.h.{i}")]
            for rule in (
                *layer(f"{a}.norm_self", f"{b}.ln_1"),
                Rule(
                    tuple(f"{a}.attend_self.{name}" for name in FUSED),
                    tuple(f"{b}.attn.{name}.{part}" for name in ("c_attn", "c_proj") for part in ("weight", "bias")),
                    _join_self,
                ),
                *layer(f"{a}.norm_mlp", f"{b}.ln_2"),
                transposed(f"{a}.mlp.0", f"{b}.mlp.c_fc"),
                transposed(f"{a}.mlp.2", f"{b}.mlp.c_proj"),
            )
        ),
    ]


def transposed(ours: str, theirs: str) -> Rule:
    """A linear layer whose weight is kept as input by output ("Conv1D")."""
    mine, others = ((f"{name}.weight", f"{name}.bias") for name in (ours, theirs))
    return Rule(mine, others, lambda weight, bias: (weight.T, bias))


def _join_self(weight: Tensor, bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensors:
    query, key, value = weight.T.chunk(3)
    query_bias, _, value_bias = bias.chunk(3)
    return query, query_bias, *join_attention(key, value, value_bias, out.T, out_bias)
