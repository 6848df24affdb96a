"""Published weights as models of ours, and ours as Hugging Face's CLIP or ViT."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chiasm.bundle import check_fit, fill, own_tensors
from chiasm.config import read_json
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig
from chiasm.errors import UserError
from chiasm.hub import find
from chiasm.models import Clip, ClipConfig, LanguageModel, Model, ModelConfig, PictureClassifier, build_model
from chiasm.models.decoder import CausalDecoder
from chiasm.models.language import TextRules
from chiasm.models.vision import Vit
from chiasm.pretrained.encoder_decoder import captioner_config, captioner_rules, clean_captioner
from chiasm.pretrained.files import read_weights
from chiasm.pretrained.gpt2 import clean_gpt2, language_config, language_rules
from chiasm.pretrained.huggingface import clip_config, clip_rules, describe
from chiasm.pretrained.openclip import openclip_config, openclip_rules
from chiasm.pretrained.perceiver import perceiver_rules, read_perceiver
from chiasm.pretrained.preprocess import describe_processor, read_openclip, read_processor, read_vit_processor
from chiasm.pretrained.rules import Rule, names, to_ours, to_theirs
from chiasm.pretrained.siglip import siglip_config, siglip_rules
from chiasm.pretrained.vit import (
    classifier_config,
    classifier_rules,
    clean_vit,
    describe_classifier,
    vit_config,
    vit_rules,
)
from chiasm.text import Tokenizer

M = TypeVar("M", bound=nn.Module)
Tensors = dict[str, Tensor]


class Layout(NamedTuple):
    """How one kind of published model is read: its sizes, its tensors' rules, and how its pictures are prepared."""

    config: Callable[..., ModelConfig]
    """Of config.json and, where it reads texts, the tokenizer."""
    rules: Callable[..., list[Rule]]
    processor: Callable[[dict[str, Any], tuple[int, int]], PreprocessConfig] | None = read_processor
    """Of preprocessor_config.json and the pictures' size; None where it sees no pictures."""
    clean: Callable[[Tensors], Tensors] = lambda tensors: tensors
    """Leaves out what files hold that is no weight of the model's."""
    reads_texts: bool = True


HUGGINGFACE = {
    "clip": Layout(clip_config, clip_rules),
    "siglip": Layout(siglip_config, siglip_rules),
    "vit": Layout(classifier_config, classifier_rules, read_vit_processor, clean_vit, reads_texts=False),
    "gpt2": Layout(language_config, language_rules, None, clean_gpt2),
    "vision-encoder-decoder": Layout(captioner_config, captioner_rules, read_vit_processor, clean_captioner),
}
"""By "model_type"."""
WEIGHTS = "model"
TOKENS = "text.embed.tokens.weight"
OPENCLIP_WEIGHTS = ("open_clip_model", "open_clip_pytorch_model")
_KNOWN = (
    "It reads CLIP, SigLIP, ViT with classes, Perceivers, GPT-2, and ViT with GPT-2 in Hugging Face's layout, and "
    "OpenCLIP's ViT with its own text transformer."
)


def load_pretrained(source: str | Path) -> tuple[Model, Tokenizer | None, PreprocessConfig]:
    """A published model with its tokenizer and preprocessing, from a folder or a repository of the Hub.

    It reads Hugging Face's layouts of CLIP, SigLIP, ViT as a classifier, Perceivers (pictures' classes, masked language
    model), GPT-2 as a language model, and ViT with GPT-2 as a captioner (config.json, model.safetensors, also in
    shards), and OpenCLIP's (open_clip_config.json); with tokenizer.json, unless the model reads no texts, which gives
    None. UserError for what is missing, left over, or unknown to us;
    pickles are never opened.
    """
    folder = find(source)
    try:
        config, rules, tokenizer, preprocess, tensors = _read(folder)
        model = filled(lambda: build_model(config), rules, tensors, folder)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} describes a model that chiasm cannot build: {error}", _KNOWN) from error
    return model, tokenizer, preprocess


def load_decoder(source: str | Path) -> tuple[CausalDecoder, Tokenizer]:
    """A published GPT-2 as a decoder without cross-attention, and its tokenizer; UserError as for `load_pretrained`."""
    model, tokenizer, _ = load_pretrained(source)
    if not isinstance(model, LanguageModel) or tokenizer is None:
        raise UserError(f"{source} holds a {type(model).__name__}", "Name a GPT-2.")
    return model.decoder, tokenizer


def load_vit(source: str | Path) -> tuple[Vit, PreprocessConfig]:
    """A published ViT without its classes, if it has any; its first token, normalised, is what it pools.

    UserError as for `load_pretrained`.
    """
    folder = find(source)
    try:
        described = read_json(folder / "config.json")
        if described.get("model_type") != "vit":
            raise ValueError(f"model_type is {described.get('model_type')!r}")
        config, tensors = vit_config(described), clean_vit(read_weights(folder, WEIGHTS))
        inner = {name.removeprefix("vit."): t for name, t in tensors.items() if not name.startswith("classifier.")}
        preprocess = read_vit_processor(_processor(folder), config.size)
        return filled(lambda: Vit(config), vit_rules(config, ""), inner, folder), preprocess
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} describes no ViT that chiasm can build: {error}", "It reads ViT.") from error


def filled(build: Callable[[], M], rules: list[Rule], tensors: Tensors, folder: Path) -> M:
    """The model with another layout's tensors, in evaluation mode; UserError where some are missing or left over."""
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_fit(folder, missing=names(rules) - given.keys(), extra=given.keys() - names(rules))
    with torch.device("meta"):  # every value comes from the file: drawing them first would take most of the time
        model = build()
    first: dict[int, str] = {}
    tied = [(n, first.setdefault(id(p), n)) for n, p in model.named_parameters(remove_duplicate=False)]
    model.to_empty(device="cpu")
    for name, own in tied:
        if name != own:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, model.get_parameter(own))
    fill(model, to_ours(rules, tensors), folder)
    return model.eval()


def _read(folder: Path) -> tuple[ModelConfig, list[Rule], Tokenizer | None, PreprocessConfig, Tensors]:
    described = folder / "config.json"
    kind = read_json(described).get("model_type") if described.exists() else None
    if kind in HUGGINGFACE:
        layout = HUGGINGFACE[kind]
        tokenizer = Tokenizer.adopt(folder) if layout.reads_texts else None
        config = layout.config(read_json(described), *([tokenizer] if tokenizer else []))
        if layout.processor is None:
            preprocess = PreprocessConfig(size=NO_PICTURES)
        else:
            preprocess = layout.processor(_processor(folder), config.size)
        return config, layout.rules(config), tokenizer, preprocess, layout.clean(read_weights(folder, WEIGHTS))
    if kind == "perceiver":
        config, tokenizer, preprocess = read_perceiver(read_json(described), _processor(folder, needed=False))
        return config, perceiver_rules(config), tokenizer, preprocess, read_weights(folder, WEIGHTS)
    if not (folder / "open_clip_config.json").exists():
        raise ValueError(f"model_type is {kind!r}" if described.exists() else "there is no config.json")
    settings, tokenizer = read_json(folder / "open_clip_config.json"), Tokenizer.adopt(folder)
    config = openclip_config(settings["model_cfg"], tokenizer)
    preprocess = read_openclip(settings.get("preprocess_cfg", {}), config.size)
    return config, openclip_rules(config), tokenizer, preprocess, read_weights(folder, *OPENCLIP_WEIGHTS)


def _processor(folder: Path, needed: bool = True) -> dict[str, Any]:
    """The picture processor's settings: in a file of their own, or in the one of the whole processor."""
    own, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    if not needed and not own.exists() and not whole.exists():
        return {}
    return read_json(own) if own.exists() or not whole.exists() else read_json(whole)["image_processor"]


def save_pretrained(
    model: Clip | PictureClassifier, tokenizer: Tokenizer | None, preprocess: PreprocessConfig, folder: str | Path
) -> None:
    """Write what `from_pretrained` of transformers' `CLIPModel` or `ViTForImageClassification`, and their processors,
    read; outputs are the same there.

    ValueError names what these layouts cannot express: they are for a ViT of square patches with a class token, CLIP's
    also for a causal text encoder pooled at EOT.
    """
    files: dict[str, Any] = {"preprocessor_config.json": describe_processor(preprocess)}
    tensors = {name: tensor.detach() for name, tensor in own_tensors(model).items()}
    published = None
    if isinstance(model, PictureClassifier):
        files["config.json"] = describe_classifier(model.config)
        theirs = to_theirs(classifier_rules(model.config), tensors)
    else:
        assert tokenizer is not None
        published, order = tokenizer.published()
        config = _renumbered(model.config, published)
        files["config.json"] = describe(config)
        files["tokenizer_config.json"] = _tokenizer_settings(published, config.rules.context)
        theirs = to_theirs(clip_rules(config), tensors | {TOKENS: tensors[TOKENS][order]})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(theirs, folder / f"{WEIGHTS}.safetensors", {"format": "pt"})
    if published is not None:
        published.save(folder / "tokenizer.json")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _renumbered(config: ClipConfig, tokenizer: Tokenizer) -> ClipConfig:
    """The same sizes with the ids of another tokenizer."""
    return replace(config, text=replace(config.text, rules=TextRules.of(tokenizer, config.rules.context)))


def _tokenizer_settings(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """What `AutoTokenizer` wants to know beside tokenizer.json."""
    ids = {
        "pad_token": tokenizer.pad,
        "bos_token": tokenizer.bos,
        "eos_token": tokenizer.eot,
        "unk_token": tokenizer.unk,
    }
    named = {role: tokenizer.token(index) for role, index in ids.items() if index is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    return settings | {"clean_up_tokenization_spaces": False} | named


__all__ = ["load_decoder", "load_pretrained", "load_vit", "save_pretrained"]
