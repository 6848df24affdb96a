"""Presets build, without memory, to the sizes that their descriptions promise."""

from dataclasses import replace

import pytest
import torch

from chiasm.errors import UserError
from chiasm.models import build_model
from chiasm.models.presets import CAPTIONERS, captioner_preset

MILLIONS = {"tiny": (0.8, 1.3), "small": (3.5, 5.5), "base": (180, 220)}
VIT_B16_MILLIONS = 85.8
"""Of 2010.11929, without its head; keys have no bias here, which is 0.01 M of difference."""


def on_meta(name, vocabulary=2000):
    config = captioner_preset(name)
    with torch.device("meta"):
        return build_model(replace(config, decoder=replace(config.decoder, vocabulary=vocabulary)))


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", CAPTIONERS)
def test_every_preset_builds_to_about_its_size(name):
    low, high = MILLIONS[name]
    assert low < millions(on_meta(name)) < high


@pytest.mark.parametrize("name", CAPTIONERS)
def test_every_preset_maps_pictures_and_ids_to_logits(name):
    model = on_meta(name)
    with torch.device("meta"):
        hidden = model(torch.zeros(2, 3, *model.config.vision.size), torch.zeros(2, 9, dtype=torch.long))
        assert model.head(hidden).shape == (2, 9, 2000)


def test_base_is_vit_b16():
    assert millions(on_meta("base").vision) == pytest.approx(VIT_B16_MILLIONS, abs=0.1)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="no captioner preset 'huge'\nPresets: tiny, small, base"):
        captioner_preset("huge")
