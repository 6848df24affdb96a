"""Runs of a second for the coach: data with what is wrong with it, and the settings of tiny models."""

import dataclasses

import numpy as np
from PIL import Image

from chiasm.data.task import TaskConfig
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.classifier import PictureClassifierConfig
from chiasm.models.clip import ClipConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.train.config import DataConfig, RunConfig, TrainConfig

COLOURS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "yellow": (240, 220, 40)}
SIZES = {"width": 32, "depth": 1, "heads": 2}
VIT = VitConfig(size=(32, 32), patch_pixels=8, pool="mean", **SIZES)


def quarters(colours, rng, side):
    """A picture of four colours, row by row, a little noisy, so that no two are equal."""
    pixels = np.array([COLOURS[colour] for colour in colours]).reshape(2, 2, 3)
    pixels = pixels.repeat(side // 2, 0).repeat(side // 2, 1) + rng.integers(-15, 15, (side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write_quarters(folder, *, train=128, side=32, twins=0, around="", text="all", label="first", blank=False):
    """A table of pictures in three splits, captioned by their colours; what is wrong with them is asked for.

    So many test pictures are `twins` of training ones. Texts name "all" colours or the "first", with the words `around`
    them; the label is the "first" colour or a "random" one. Pictures that are `blank` are all gray.
    """
    folder.mkdir(parents=True)
    rng, lines, first = np.random.default_rng(0), ["image,caption,label,split"], []
    for split, count in {"train": train, "val": 32, "test": 32}.items():
        for i in range(count):
            colours = rng.choice(list(COLOURS), 4).tolist()
            pixels = np.full((side, side, 3), 128, np.uint8) if blank else quarters(colours, rng, side)
            if split == "test" and i < twins:
                colours, pixels = first[i]
            first.append((colours, pixels))
            Image.fromarray(pixels).save(folder / f"{split}-{i}.png")
            told = " ".join(colours if text == "all" else colours[:1]) + around
            answer = rng.choice(list(COLOURS)) if label == "random" else colours[0]
            lines.append(f"{split}-{i}.png,{told},{answer},{split}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def captioner(path, *, context=32, data=None, **training):
    decoder = DecoderConfig(**SIZES, rules=TextRules(context=context))
    return settings(CaptionerConfig(vision=VIT, decoder=decoder), path, data, training)


def clip(path, *, data=None, similarity="softmax", **training):
    model = ClipConfig(vision=VIT, text=TextConfig(**SIZES), embed_dim=16, similarity=similarity)
    return settings(model, path, data, training)


def classifier(path, *, data=None, width=32, depth=1, **training):
    model = PictureClassifierConfig(vision=dataclasses.replace(VIT, width=width, depth=depth))
    return settings(model, path, {"task": TaskConfig(name="label")} | (data or {}), training)


def settings(model, path, data, training):
    usual = {"steps": 60, "batch_size": 32, "precision": "fp32", "augment": None, "label_smoothing": 0.0}
    usual |= {"learning_rate": 5e-3, "ema_decay": 0.5, "validate_every_epochs": 5.0, "checkpoint_every_seconds": 60.0}
    data = DataConfig(path=str(path), **data or {})
    return RunConfig(data=data, model=model, train=TrainConfig(**usual | training))
