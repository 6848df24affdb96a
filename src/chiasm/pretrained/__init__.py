"""Published CLIP, SigLIP and OpenCLIP weights as models of ours, and ours as Hugging Face's CLIP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chiasm.bundle import check_fit, fill, own_tensors
from chiasm.config import read_json
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.hub import find
from chiasm.models import Clip, ClipConfig
from chiasm.models.language import TextRules
from chiasm.pretrained.files import read_weights
from chiasm.pretrained.huggingface import clip_config, clip_rules, describe
from chiasm.pretrained.openclip import openclip_config, openclip_rules
from chiasm.pretrained.preprocess import describe_processor, read_openclip, read_processor
from chiasm.pretrained.rules import Rule, names, to_ours, to_theirs
from chiasm.pretrained.siglip import siglip_config, siglip_rules
from chiasm.text import Tokenizer

HUGGINGFACE = {"clip": (clip_config, clip_rules), "siglip": (siglip_config, siglip_rules)}
"""By "model_type"."""
WEIGHTS = "model"
TOKENS = "text.embed.tokens.weight"
OPENCLIP_WEIGHTS = ("open_clip_model", "open_clip_pytorch_model")


def load_pretrained(source: str | Path) -> tuple[Clip, Tokenizer, PreprocessConfig]:
    """A published model with its tokenizer and preprocessing, from a folder or a repository of the Hub.

    It reads Hugging Face's layouts of CLIP and SigLIP (config.json, model.safetensors, also in shards) and OpenCLIP's
    (open_clip_config.json), each with tokenizer.json. UserError for what is missing, left over, or unknown to us;
    pickles are never opened.
    """
    folder = find(source)
    tokenizer = Tokenizer.adopt(folder)
    try:
        config, rules, preprocess, tensors = _read(folder, tokenizer)
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        check_fit(folder, missing=names(rules) - given.keys(), extra=given.keys() - names(rules))
        with torch.device("meta"):  # every value comes from the file: drawing them first would take most of the time
            model = Clip(config)
        model.to_empty(device="cpu")
        fill(model, to_ours(rules, tensors), folder)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} describes a model that chiasm cannot build: {error}", _KNOWN) from error
    return model.eval(), tokenizer, preprocess


_KNOWN = "It reads CLIP and SigLIP in Hugging Face's layout, and OpenCLIP's ViT with its own text transformer."


def _read(folder: Path, tokenizer: Tokenizer) -> tuple[ClipConfig, list[Rule], PreprocessConfig, dict[str, Tensor]]:
    described = folder / "config.json"
    kind = read_json(described).get("model_type") if described.exists() else None
    if kind in HUGGINGFACE:
        to_config, to_rules = HUGGINGFACE[kind]
        config = to_config(read_json(described), tokenizer)
        preprocess = read_processor(_processor(folder), config.size)
        return config, to_rules(config), preprocess, read_weights(folder, WEIGHTS)
    if not (folder / "open_clip_config.json").exists():
        raise ValueError(f"model_type is {kind!r}" if described.exists() else "there is no config.json")
    settings = read_json(folder / "open_clip_config.json")
    config = openclip_config(settings["model_cfg"], tokenizer)
    preprocess = read_openclip(settings.get("preprocess_cfg", {}), config.size)
    return config, openclip_rules(config), preprocess, read_weights(folder, *OPENCLIP_WEIGHTS)


def _processor(folder: Path) -> dict[str, Any]:
    """The picture processor's settings: in a file of their own, or in the one of the whole processor."""
    own, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    return read_json(own) if own.exists() or not whole.exists() else read_json(whole)["image_processor"]


def save_pretrained(clip: Clip, tokenizer: Tokenizer, preprocess: PreprocessConfig, folder: str | Path) -> None:
    """Write what `transformers.CLIPModel.from_pretrained` and its processors read; features are the same there.

    ValueError names what that layout cannot express: it is for a ViT of square patches with a class token, and a
    causal text encoder pooled at EOT.
    """
    published, order = tokenizer.published()
    config = _renumbered(clip.config, published)
    described, processor = describe(config), describe_processor(preprocess)
    tensors = {name: tensor.detach() for name, tensor in own_tensors(clip).items()}
    tensors[TOKENS] = tensors[TOKENS][order]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_theirs(clip_rules(config), tensors), folder / f"{WEIGHTS}.safetensors", {"format": "pt"})
    published.save(folder / "tokenizer.json")
    files = {
        "config.json": described,
        "preprocessor_config.json": processor,
        "tokenizer_config.json": _tokenizer_settings(published, config.rules.context),
    }
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


__all__ = ["load_pretrained", "save_pretrained"]
