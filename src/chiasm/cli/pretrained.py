"""`chiasm import` and `chiasm export`: published weights as a bundle, and a bundle's as others read them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm.bundle import Bundle
from chiasm.errors import UserError
from chiasm.models import Clip
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.pretrained import load_pretrained, save_pretrained


def import_(source: str, *, out: Path) -> int:
    """Make a bundle of published weights: CLIP, SigLIP or OpenCLIP.

    Reads safetensors with config.json (or open_clip_config.json), tokenizer.json and preprocessor_config.json. Prints
    what it understood; then `chiasm classify OUT ...`, `chiasm index OUT ...` and the like work.

    Args:
        source: the folder with the files, or their repository's id on the Hugging Face Hub
        out: the new bundle's folder
    """
    _must_be_free(out)
    clip, tokenizer, preprocess = load_pretrained(source)
    card = f"# {Path(source).name}\n\nPublished weights, brought in by `chiasm import {source}`.\n"
    bundle = Bundle(model=clip, tokenizer=tokenizer, preprocess=preprocess, card=card)
    bundle.save(out)
    print(_understood(bundle))
    print(f"bundle     {out}")
    return 0


def export(run: Path, *, layout: Literal["huggingface"] = "huggingface", out: Path) -> int:
    """Write a model's weights, tokenizer and preprocessing as other libraries read them.

    The layout `huggingface` is that of `transformers.CLIPModel`: for dual encoders of a ViT with a class token and a
    causal text encoder.

    Args:
        run: the folder of a run or a bundle
        layout: whose files to write
        out: the new folder
    """
    _must_be_free(out)
    bundle = Bundle.load(run)
    if not isinstance(bundle.model, Clip) or bundle.tokenizer is None:
        raise UserError(f"{run} is no dual encoder", f"The layout {layout} is for what `chiasm train clip` makes.")
    try:
        save_pretrained(bundle.model, bundle.tokenizer, bundle.preprocess, out)
    except ValueError as error:
        hint = "A preset like vit-b-32, with preprocess.resize=crop, can be."
        raise UserError(f"{run} cannot be written so: {error}", hint) from error
    print(f"{layout} {out}")
    return 0


def _must_be_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty", "Name a new folder.")


def _understood(bundle: Bundle) -> str:
    """What was found, in lines."""
    clip, preprocess = bundle.model, bundle.preprocess
    assert isinstance(clip, Clip)
    vision, text = clip.config.vision, clip.config.text
    assert isinstance(vision, VitConfig) and isinstance(text, TextConfig)
    millions = sum(parameter.numel() for parameter in clip.parameters()) / 1e6
    height, width = preprocess.size
    return "\n".join(
        [
            f"pictures   ViT, {vision.depth} layers of width {vision.width}, patches of {vision.patch_pixels} pixels",
            f"           {height} x {width} pixels, {preprocess.resize}, {preprocess.interpolation}",
            f"texts      transformer, {text.depth} layers of width {text.width}, at most {text.rules.context} tokens "
            f"of {text.vocabulary}",
            f"space      {clip.config.embed_dim} values, {clip.config.similarity}, scale {clip.log_scale.exp():.1f}",
            f"in all     {millions:.1f} million parameters, activation {vision.activation}",
        ]
    )
