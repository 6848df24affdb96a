"""The layout of Hugging Face's Perceivers, which is read: masked language model, and picture classes three ways."""

from __future__ import annotations

from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from torch import Tensor

from chiasm.data.transforms import PreprocessConfig
from chiasm.models import PerceiverClassifierConfig, PerceiverMlmConfig
from chiasm.models.inputs import ConvInput, Inputs, PictureInput, Positions, TextInput
from chiasm.models.language import TextRules
from chiasm.models.perceiver import LatentConfig, ReadConfig
from chiasm.pretrained.rules import Rule, Tensors, attention, layer, same
from chiasm.text import Tokenizer

PERCEIVER = {
    "num_latents": 256, "d_latents": 1280, "d_model": 768, "num_blocks": 1, "num_self_attends_per_block": 26,
    "num_self_attention_heads": 8, "num_cross_attention_heads": 8, "qk_channels": None, "v_channels": None,
    "cross_attention_shape_for_attention": "kv", "self_attention_widening_factor": 1,
    "cross_attention_widening_factor": 1, "hidden_act": "gelu", "use_query_residual": True, "vocab_size": 262,
    "max_position_embeddings": 2048, "image_size": 56,
}  # fmt: skip
"""What a configuration leaves out where it is as in the language model."""
PROCESSOR = {"size": 224, "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
MASKED, LEARNED, FOURIER, CONV = (
    "PerceiverForMaskedLM",
    "PerceiverForImageClassificationLearned",
    "PerceiverForImageClassificationFourier",
    "PerceiverForImageClassificationConvProcessing",
)
SPECIALS = ("[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]")
"""Ids 0 to 5; the bytes follow."""
MASK = SPECIALS.index("[MASK]")
BANDS = 64
BATCH_NORM_EPS = 1e-5

Config = PerceiverMlmConfig | PerceiverClassifierConfig


def perceiver_config(config: dict[str, Any], size: tuple[int, int]) -> Config:
    """Our sizes of a `PerceiverConfig`, of pictures of this size; ValueError for what we do not have."""
    told = PERCEIVER | config
    if told["hidden_act"] != "gelu":
        raise ValueError(f"hidden_act is {told['hidden_act']!r}, not gelu")
    if (architecture := _architecture(config)) == MASKED:
        ids = {name: SPECIALS.index(token) for name, token in (("pad", "[PAD]"), ("bos", "[CLS]"), ("eot", "[SEP]"))}
        rules = TextRules(**ids, context=told["max_position_embeddings"])
        text = TextInput(width=told["d_model"], rules=rules, vocabulary=told["vocab_size"])
        read = ReadConfig(heads=8, key_width=8 * 32, value_width=text.width, mlp_ratio=1.0, residual=False)
        return PerceiverMlmConfig(inputs=Inputs(text=text), latents=_latents(told, text.width), decoder=read)
    labels = told.get("id2label") or {}
    picture = _picture(architecture, size)
    return PerceiverClassifierConfig(
        inputs=Inputs(picture=picture),
        latents=_latents(told, (picture.width or 3) + picture.positions.channels(axes=2)),
        decoder=ReadConfig(mlp_ratio=1.0),
        classes=tuple(labels[key] for key in sorted(labels, key=int)),
    )


def perceiver_rules(config: Config) -> list[Rule]:
    """Each tensor of a published Perceiver, and ours."""
    shared = encoder_rules(config.latents.depth, "encoder.", "perceiver.", _order(config))
    if isinstance(config, PerceiverMlmConfig):
        return shared + _text_rules()
    return shared + _picture_rules(config.inputs.picture) + _class_rules()


def encoder_rules(depth: int, ours: str, theirs: str, order: Tensor | None = None) -> list[Rule]:
    """Each tensor of latents, their look and their blocks; both sides' names behind a prefix.

    `order` says where our channels of a token stand among theirs.
    """
    return [
        same(f"{ours}latents", f"{theirs}embeddings.latents"),
        *_look(f"{ours}reads.0", f"{theirs}encoder.cross_attention", order),
        *(rule for i in range(depth) for rule in _block(f"{ours}stages.0.{i}", f"{theirs}encoder.self_attends.{i}")),
    ]


def read_perceiver(
    config: dict[str, Any], processor: dict[str, Any]
) -> tuple[Config, Tokenizer | None, PreprocessConfig]:
    """Sizes, tokenizer and preprocessing of a published Perceiver; ValueError for what we do not have.

    Pictures: transformers cuts the middle `size / crop_size` (seven eighths) of the short side out of them, and chiasm
    all of it.
    """
    if _architecture(config) == MASKED:
        return perceiver_config(config, (0, 0)), byte_tokenizer(), PreprocessConfig(size=(0, 0))
    told = PROCESSOR | processor
    size = told["size"] if isinstance(told["size"], int) else told["size"]["height"]
    if _architecture(config) == LEARNED:
        size = (PERCEIVER | config)["image_size"]
    preprocess = PreprocessConfig(
        size=(size, size),
        resize="crop",
        mean=tuple(told["image_mean"]),
        std=tuple(told["image_std"]),
        fast_decode=False,
    )
    return perceiver_config(config, preprocess.size), None, preprocess


def byte_tokenizer() -> Tokenizer:
    """Perceivers' tokenizer, of which there is no file: every byte of UTF-8 is a token, between [CLS] and [SEP]."""
    inner = tokenizers.Tokenizer(models.BPE(vocab=_vocabulary(), merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    first, last = "[CLS]", "[SEP]"
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, SPECIALS.index(token)) for token in (first, last)]
    )
    inner.enable_padding(pad_id=SPECIALS.index("[PAD]"), pad_token="[PAD]")
    return Tokenizer(inner)


def _architecture(config: dict[str, Any]) -> str:
    known = MASKED, LEARNED, FOURIER, CONV
    (name,) = config.get("architectures") or ("none",)
    if name not in known:
        raise ValueError(f"a Perceiver of the kind {name}; known: {', '.join(known)}")
    return name


def _latents(told: dict[str, Any], input_width: int) -> LatentConfig:
    keys, values, width = told["qk_channels"], told["v_channels"], told["d_latents"]
    read_keys = keys or (input_width if told["cross_attention_shape_for_attention"] == "kv" else width)
    return LatentConfig(
        latents=told["num_latents"],
        width=width,
        stages=told["num_blocks"],
        depth=told["num_self_attends_per_block"],
        heads=told["num_self_attention_heads"],
        key_width=keys,
        value_width=values or keys,
        mlp_ratio=float(told["self_attention_widening_factor"]),
        read=ReadConfig(
            heads=told["num_cross_attention_heads"],
            key_width=read_keys,
            value_width=values or read_keys,
            mlp_ratio=float(told["cross_attention_widening_factor"]),
            residual=told["use_query_residual"],
        ),
    )


def _picture(architecture: str, size: tuple[int, int]) -> PictureInput | ConvInput:
    match architecture:
        case "PerceiverForImageClassificationLearned":
            return PictureInput(size=size, width=256, positions=Positions(learned=True, width=256))
        case "PerceiverForImageClassificationFourier":
            return PictureInput(size=size, positions=Positions(bands=BANDS, max_frequency=224.0))
        case _:
            return ConvInput(size=size, width=64, positions=Positions(bands=BANDS, max_frequency=56.0))


def _order(config: Config) -> Tensor | None:
    """Where our channels of a token stand among theirs: they tell all places, then all sines, then all cosines."""
    picture = config.inputs.picture
    if picture is None or picture.positions.learned:
        return None
    contents, b = picture.width or 3, picture.positions.bands
    rows = [contents, *range(contents + 2, contents + 2 + b), *range(contents + 2 + 2 * b, contents + 2 + 3 * b)]
    columns = [contents + 1, *(i + b for i in rows[1:])]
    return torch.tensor([*range(contents), *rows, *columns])


def _look(ours: str, theirs: str, order: Tensor | None = None) -> list[Rule]:
    """A cross-attention, with the channels of what is read in our order."""

    def norm(weight: Tensor, bias: Tensor) -> Tensors:
        return (weight, bias) if order is None else (weight[order], bias[order])

    inner = f"{theirs}.attention.self"
    read = attention(f"{ours}.attend", f"{inner}.key", f"{inner}.value", f"{theirs}.attention.output.dense")

    def join(*tensors: Tensor) -> Tensors:
        key_value, *out = read.join(*tensors)
        return (key_value if order is None else key_value[:, order]), *out

    parts = ("weight", "bias")
    return [
        *layer(f"{ours}.norm_queries", f"{inner}.layernorm1"),
        Rule(tuple(f"{ours}.norm_context.{p}" for p in parts), tuple(f"{inner}.layernorm2.{p}" for p in parts), norm),
        *layer(f"{ours}.attend.query", f"{inner}.query"),
        Rule(read.ours, read.theirs, join),
        *_thought(ours, theirs),
    ]


def _block(ours: str, theirs: str) -> list[Rule]:
    inner = f"{theirs}.attention.self"
    return [
        *layer(f"{ours}.norm_self", f"{inner}.layernorm1"),
        *layer(f"{ours}.attend_self.query", f"{inner}.query"),
        attention(f"{ours}.attend_self", f"{inner}.key", f"{inner}.value", f"{theirs}.attention.output.dense"),
        *_thought(ours, theirs),
    ]


def _thought(ours: str, theirs: str) -> list[Rule]:
    return [
        *layer(f"{ours}.norm_mlp", f"{theirs}.layernorm"),
        *layer(f"{ours}.mlp.0", f"{theirs}.mlp.dense1"),
        *layer(f"{ours}.mlp.2", f"{theirs}.mlp.dense2"),
    ]


def _text_rules() -> list[Rule]:
    embed, given = "input.adapters.text.embed", "perceiver.input_preprocessor"
    tokens = f"{given}.embeddings.weight"
    decoder = "perceiver.decoder"
    return [
        Rule((f"{embed}.tokens.weight", "mask"), (tokens,), lambda table: (table, table[MASK])),
        same(f"{embed}.positions", f"{given}.position_embeddings.weight"),
        same("queries", f"{decoder}.output_position_encodings.position_embeddings"),
        *_look("decoder", f"{decoder}.decoding_cross_attention"),
        same("bias", "embedding_decoder.bias"),
    ]


def _class_rules() -> list[Rule]:
    decoder = "perceiver.decoder.decoder"
    return [
        same("query", f"{decoder}.output_position_encodings.position_embeddings"),
        *_look("decoder", f"{decoder}.decoding_cross_attention"),
        *layer("head", f"{decoder}.final_layer"),
    ]


def _picture_rules(picture: PictureInput | ConvInput | None) -> list[Rule]:
    ours, theirs = "input.adapters.picture", "perceiver.input_preprocessor"
    if isinstance(picture, ConvInput):
        norm = f"{theirs}.convnet.batchnorm"
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        names = (f"{theirs}.convnet.conv.weight", *(f"{norm}.{part}" for part in parts))
        return [Rule((f"{ours}.conv.weight", f"{ours}.conv.bias"), names, _fold_batch_norm)]
    if picture is None or not picture.positions.learned:
        return []
    pixel, places = f"{theirs}.convnet_1x1", f"{theirs}.positions_projection"
    table = f"{theirs}.position_embeddings.position_embeddings"
    return [
        Rule((f"{ours}.project.weight",), (f"{pixel}.weight",), lambda weight: (weight.flatten(1),)),
        same(f"{ours}.project.bias", f"{pixel}.bias"),
        Rule(
            (f"{ours}.positions.table",),
            (table, f"{places}.weight", f"{places}.bias"),
            lambda table, weight, bias: (table @ weight.T + bias,),
        ),
    ]


def _fold_batch_norm(conv: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, _: Tensor) -> Tensors:
    scale = weight * (var + BATCH_NORM_EPS).rsqrt()
    return conv * scale[:, None, None, None], bias - mean * scale


def _vocabulary() -> dict[str, int]:
    """The specials, and the characters that stand for the bytes in byte-level tokenizers."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    characters = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    ids = {characters[byte]: len(SPECIALS) + byte for byte in range(256)}
    return {token: i for i, token in enumerate(SPECIALS)} | ids


__all__ = ["byte_tokenizer", "encoder_rules", "perceiver_config", "perceiver_rules", "read_perceiver"]
