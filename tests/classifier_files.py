"""Tiny classifiers as predictors and as bundles' folders, equal for equal seeds; their weights are random and large."""

from dataclasses import replace

import torch

from chiasm.bundle import Bundle
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import PreprocessConfig
from chiasm.models import FusionClassifierConfig, PictureClassifierConfig, build_model
from chiasm.models.fusion import EarlyConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.text import Tokenizer

QUESTIONS = ("what colour is the circle?", "is there a red square?")
TOKENIZER = Tokenizer.train(QUESTIONS)
COLOURS = ("blue", "green", "red")
VISION = VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=0, heads=2)


def fusion_bundle(task="answer", classes=COLOURS, *, inputs="both", seed=0):
    """A fusion of pictures of 16 pixels with texts of at most 8 tokens."""
    rules = TextRules(context=8)
    text = TextConfig(
        width=16, depth=0, heads=2, causal=False, pool="mean", rules=rules, vocabulary=TOKENIZER.vocab_size
    )
    fusion = EarlyConfig(width=16, depth=2, heads=2)
    config = FusionClassifierConfig(vision=VISION, text=text, fusion=fusion, inputs=inputs, classes=classes)
    return _bundle(config, TOKENIZER if config.rules else None, task, seed)


def picture_bundle(classes=COLOURS, *, seed=0):
    """A classifier of pictures of 16 pixels."""
    config = PictureClassifierConfig(vision=replace(VISION, depth=1, pool="mean"), classes=classes)
    return _bundle(config, None, "label", seed)


def _bundle(config, tokenizer, task, seed):
    torch.manual_seed(seed)
    model = build_model(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "vision.embed" not in name:
            parameter.data.mul_(6)
    preprocess = PreprocessConfig(size=config.size)
    return Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, task=TaskConfig(name=task))


def write_classifier(bundle, folder):
    """The folder of the bundle."""
    bundle.save(folder)
    return folder
