"""Fusions learn what neither modality says alone: the colour of the quadrant that is asked for."""

import math
from dataclasses import replace

import pytest
import torch

from chiasm.models import FusionClassifierConfig, build_model
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import Classification
from chiasm.types import Batch

pytestmark = pytest.mark.slow

QUADRANTS, COLOURS = 4, torch.tensor([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]])
FIRST_WORD = 3
SIZES = {"width": 32, "heads": 4}
VIT = VitConfig(size=(16, 16), patch_pixels=8, **SIZES, depth=0)
TEXT = TextConfig(**SIZES, depth=0, causal=False, pool="mean", vocabulary=FIRST_WORD + QUADRANTS,
                  rules=TextRules(context=6))  # fmt: skip
PARTS = {
    "late": (replace(VIT, depth=1, pool="mean"), replace(TEXT, depth=1), LateConfig(width=32, join="product")),
    "early": (VIT, TEXT, EarlyConfig(**SIZES, depth=2)),
    "cross": (VIT, TEXT, CrossConfig(**SIZES, depth=1)),
    "perceiver": (VIT, TEXT, PerceiverFusionConfig(**SIZES, depth=1, latents=8)),
}


def questions(rows, seed):
    """Pictures of two red and two green quadrants, and texts that name a quadrant; labels are its colour."""
    draw = torch.Generator().manual_seed(seed)
    colours = (torch.rand(rows, QUADRANTS, generator=draw).argsort(1) < 2).long()
    grid = COLOURS[colours].view(rows, 2, 2, 3).permute(0, 3, 1, 2)
    images = grid.repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = images + 0.2 * torch.randn(images.shape, generator=draw)
    quadrant, names = torch.randint(QUADRANTS, (rows,), generator=draw), torch.arange(rows)
    ids = torch.stack([torch.full((rows,), 1), FIRST_WORD + quadrant, torch.full((rows,), 2)], 1)
    return Batch(images=images, ids=ids, keep=ids != 0, image_ids=names, text_ids=names,
                 keys=tuple(map(str, range(rows))), labels=colours[names, quadrant])  # fmt: skip


def trained(config, steps):
    torch.manual_seed(0)
    model = build_model(config)
    objective, optimizer = Classification(), torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=1e-3)
    for step in range(steps):
        objective.backward(model, questions(128, step), 1, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def accuracy(model, batch):
    return float((model.classify(batch).argmax(-1) == batch.labels).float().mean())


@pytest.mark.parametrize("name", PARTS)
def test_it_answers_questions_about_pictures_and_guesses_without_either(name):
    vision, text, fusion = PARTS[name]
    model = trained(FusionClassifierConfig(vision=vision, text=text, fusion=fusion, classes=("green", "red")), 250)
    test = questions(1000, -1)
    assert accuracy(model, test) > 0.9
    blind = Batch(**vars(test) | {"images": test.images[:, :, :0, :0]})
    deaf = Batch(**vars(test) | {"ids": test.ids[:, :0], "keep": test.keep[:, :0]})
    exchanged = Batch(**vars(test) | {"images": test.images.roll(1, 0)})
    for less in (blind, deaf, exchanged):
        assert abs(accuracy(model, less) - 0.5) < 0.07


@pytest.mark.parametrize("inputs", ["picture", "text"])
def test_one_modality_alone_is_at_chance(inputs):
    vision, text, fusion = PARTS["early"]
    config = FusionClassifierConfig(vision=vision, text=text, fusion=fusion, inputs=inputs, classes=("green", "red"))
    model, test = trained(config, 100), questions(1000, -1)
    total, count = Classification().validate(model, test)
    assert abs(accuracy(model, test) - 0.5) < 0.05 and total / count > 0.98 * math.log(2)
