"""Shapes and types in signatures are enforced in every test (and only there); builders that several rooms share."""

import os

import hypothesis
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
install_import_hook("chiasm", "beartype.beartype")
hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def make_captioner():
    """A function that builds a tiny captioner in evaluation mode, equal for equal seeds.

    Its weights are larger than at the start of training, so that pictures and words matter to its logits.
    """
    import torch

    from chiasm.models import CaptionerConfig, build_model
    from chiasm.models.language import DecoderConfig, TextRules
    from chiasm.models.vision import VitConfig

    def make(vision=None, *, vocabulary=11, context=12, dropout=0.0, seed=0, gain=4.0):
        vision = vision or VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, dropout=dropout)
        rules = TextRules(context=context)
        decoder = DecoderConfig(width=16, depth=2, heads=2, rules=rules, vocabulary=vocabulary, dropout=dropout)
        torch.manual_seed(seed)
        model = build_model(CaptionerConfig(vision=vision, decoder=decoder))
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "vision.embed" not in name:
                parameter.data.mul_(gain)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_images():
    """A function that draws noise as pictures, equal for equal seeds."""
    import torch

    def make(pictures, size=(16, 16), seed=0):
        return torch.randn(pictures, 3, *size, generator=torch.Generator().manual_seed(seed))

    return make
