"""`chiasm import` and `chiasm export`: published weights as a bundle, and a bundle's as others read them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm.bundle import Bundle
from chiasm.errors import UserError
from chiasm.models import Captioner, Classifier, Clip, LanguageModel, PictureClassifier
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.pretrained import load_pretrained, save_pretrained


def import_(source: str, *, out: Path) -> int:
    """Make a bundle of published weights: CLIP, SigLIP, OpenCLIP, ViT with classes, GPT-2, or ViT with GPT-2.

    Reads safetensors with config.json (or open_clip_config.json) and, as far as the model needs them, tokenizer.json
    and preprocessor_config.json. Prints what it understood; then `chiasm classify OUT ...`, `chiasm index OUT ...`,
    `chiasm caption OUT ...` and the like work.

    Args:
        source: the folder with the files, or their repository's id on the Hugging Face Hub
        out: the new bundle's folder
    """
    _must_be_free(out)
    model, tokenizer, preprocess = load_pretrained(source)
    card = f"# {Path(source).name}\n\nPublished weights, brought in by `chiasm import {source}`.\n"
    bundle = Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, card=card)
    bundle.save(out)
    print(_understood(bundle))
    print(f"bundle     {out}")
    return 0


def export(run: Path, *, layout: Literal["huggingface"] = "huggingface", out: Path) -> int:
    """Write a model's weights, tokenizer and preprocessing as other libraries read them.

    The layout `huggingface` is that of `transformers.CLIPModel`, for dual encoders of a ViT with a class token and a
    causal text encoder, or of `transformers.ViTForImageClassification`, for classifiers of a ViT with a class token.

    Args:
        run: the folder of a run or a bundle
        layout: whose files to write
        out: the new folder
    """
    _must_be_free(out)
    bundle = Bundle.load(run)
    if not isinstance(bundle.model, (Clip, PictureClassifier)):
        raise UserError(
            f"{run} holds a {type(bundle.model).__name__}",
            f"The layout {layout} is for what `chiasm train clip` and `chiasm train vit` make.",
        )
    try:
        save_pretrained(bundle.model, bundle.tokenizer, bundle.preprocess, out)
    except ValueError as error:
        hint = "A clip of a preset like vit-b-32 can be, or a vit with pool=cls and stem=patch; preprocess.resize=crop."
        raise UserError(f"{run} cannot be written so: {error}", hint) from error
    print(f"{layout} {out}")
    return 0


def _must_be_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty", "Name a new folder.")


def _understood(bundle: Bundle) -> str:
    """What was found, in lines."""
    model, (height, width), lines = bundle.model, bundle.preprocess.size, []
    if isinstance(model, (Captioner, Clip, PictureClassifier)):
        vision = model.config.vision
        assert isinstance(vision, VitConfig)
        lines += [
            f"pictures   ViT, {vision.depth} layers of width {vision.width}, patches of {vision.patch_pixels} pixels",
            f"           {height} x {width} pixels, {bundle.preprocess.resize}, {bundle.preprocess.interpolation}; "
            f"{vision.activation}",
        ]
    if isinstance(model, (Captioner, Clip, LanguageModel)):
        text = model.config.text if isinstance(model, Clip) else model.config.decoder
        assert isinstance(text, (TextConfig, DecoderConfig))
        lines.append(
            f"texts      transformer, {text.depth} layers of width {text.width}, at most {text.rules.context} tokens "
            f"of {text.vocabulary}"
        )
    if isinstance(model, Clip):
        scale = float(model.log_scale.detach().exp())
        lines.append(f"space      {model.config.embed_dim} values, {model.config.similarity}, scale {scale:.1f}")
    if isinstance(model, Classifier):
        more = ", ..." if len(model.classes) > 3 else ""
        lines.append(f"classes    {len(model.classes):,}: {', '.join(model.classes[:3])}{more}")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return "\n".join([*lines, f"in all     {type(model).__name__}, {millions:.1f} million parameters"])
