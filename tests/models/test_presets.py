"""Presets build, without memory, to the sizes that their descriptions promise."""

from dataclasses import replace

import pytest
import torch

from chiasm.cost import model_cost
from chiasm.errors import UserError
from chiasm.models import build_model
from chiasm.models.presets import CAPTIONERS, FUSIONS, VITS, captioner_preset, fusion_preset, vit_preset

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


ASKED = ("late", "early", "cross", "perceiver")
FUSION_MILLIONS = {"tiny": (1.3, 1.7), "small": (3.8, 4.7)}
VIT_MILLIONS = {"tiny": (0.7, 1.1), "small": (2.5, 3.3), "vit-s-16": (21.5, 22.1), "vit-b-16": (85.5, 86.8),
                "vit-l-16": (302.5, 305)}  # fmt: skip
"""As the papers have them, with the heads of few classes."""


@pytest.mark.parametrize("name", FUSIONS)
def test_all_fusions_of_a_preset_have_about_as_many_parameters_and_the_same_inputs(name):
    configs = [fusion_preset(name, fusion).completed(60, 3, tuple(map(str, range(14)))) for fusion in ASKED]
    with torch.device("meta"):
        sizes = [millions(build_model(config)) for config in configs]
    low, high = FUSION_MILLIONS[name]
    assert low < min(sizes) and max(sizes) < high and max(sizes) < 1.1 * min(sizes)
    assert len({(c.size, c.rules, c.vision.width, c.vision.stem, c.text.causal) for c in configs}) == 1
    flops = [model_cost(c, batch_size=1, text_tokens=16, measure=False).step_flops for c in configs]
    assert max(flops) < 2 * min(flops)


@pytest.mark.parametrize("name", FUSIONS)
def test_fusions_differ_in_where_their_depth_is(name):
    depths = {}
    for fusion in ASKED:
        config = fusion_preset(name, fusion)
        before = config.vision.depth + config.text.depth
        depths[fusion] = before, getattr(config.fusion, "depth", 0)
    assert depths["late"][1] == depths["early"][0] == depths["perceiver"][0] == 0
    assert min(depths["cross"]) > 0 and depths["late"][0] == depths["early"][1] - 1 == depths["perceiver"][1]


@pytest.mark.parametrize("name", VITS)
def test_every_vit_builds_to_about_its_size(name):
    config = vit_preset(name).completed(0, None, tuple(map(str, range(10))))
    with torch.device("meta"):
        model = build_model(config)
    low, high = VIT_MILLIONS[name]
    assert low < millions(model) < high


def test_unknown_fusions_and_presets_list_the_known_ones():
    with pytest.raises(UserError, match="no fusion 'middle'\nFusions: late, early, cross, perceiver"):
        fusion_preset("tiny", "middle")
    with pytest.raises(UserError, match="no fusion preset 'huge'\nPresets: tiny, small"):
        fusion_preset("huge", "late")
    with pytest.raises(UserError, match="no vit preset 'huge'\nPresets: tiny, small, vit-s-16"):
        vit_preset("huge")
