"""The sizes that a comparison's arms take, against all that they could take."""

from dataclasses import replace

import pytest
import torch

from chiasm.compare.sizes import TOLERANCE, about, fitted
from chiasm.models import (
    CaptionerConfig,
    ClipConfig,
    CocaConfig,
    FusionClassifierConfig,
    PerceiverClassifierConfig,
    PictureClassifierConfig,
    build_model,
)
from chiasm.models.adapted import ModuleVisionConfig
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.inputs import Inputs, PictureInput, TextInput
from chiasm.models.language import TextConfig
from chiasm.models.perceiver import LatentConfig, ReadConfig
from chiasm.models.vision import ConvConfig, VitConfig

CLASSES = ("a", "b", "c")
SIZES = {"width": 32, "heads": 2}
VIT = VitConfig(size=(16, 16), depth=2, stem="conv", **SIZES)
TEXT = TextConfig(depth=1, causal=False, pool="mean", **SIZES)
CONV = ConvConfig(size=(16, 16), widths=(8, 16, 32), pool="mean")
CAPTIONER = CaptionerConfig(vision=VIT, decoder=DecoderConfig(depth=2, **SIZES), latents=4)
CLIP = ClipConfig(vision=replace(VIT, pool="mean"), text=TEXT, embed_dim=16)
MODELS = {
    "late": FusionClassifierConfig(vision=replace(VIT, pool="mean"), text=TEXT, fusion=LateConfig(width=32)),
    "early": FusionClassifierConfig(
        vision=replace(VIT, depth=0), text=replace(TEXT, depth=0), fusion=EarlyConfig(depth=4, **SIZES)
    ),
    "cross": FusionClassifierConfig(
        vision=replace(VIT, depth=1), text=replace(TEXT, depth=2), fusion=CrossConfig(depth=1, **SIZES)
    ),
    "perceiver": FusionClassifierConfig(
        vision=replace(VIT, depth=0),
        text=replace(TEXT, depth=0),
        fusion=PerceiverFusionConfig(depth=3, latents=4, **SIZES),
    ),
    **{f"captioner-{fusion}": with_fusion(CAPTIONER, fusion) for fusion in ("late", "early", "cross", "perceiver")},
    "captioner-conv": replace(CAPTIONER, vision=replace(CONV, pool="none")),
    "clip": CLIP,
    "clip-conv": replace(CLIP, vision=CONV),
    "vit": PictureClassifierConfig(vision=replace(VIT, pool="cls")),
    "cnn": PictureClassifierConfig(vision=CONV),
    "latents": PerceiverClassifierConfig(
        inputs=Inputs(picture=PictureInput(size=(8, 8), patch_pixels=4), text=TextInput(width=16)),
        latents=LatentConfig(latents=4, depth=2, read=ReadConfig(heads=4), **SIZES),
    ),
    "coca": CocaConfig(
        vision=VIT, latents=4, embed_dim=16, decoder=DecoderConfig(depth=3, unimodal_depth=2, **SIZES)
    ),
}  # fmt: skip
TARGETS = 0.45, 0.6, 0.8, 0.97, 1.01, 1.07, 1.25, 1.5, 2.2


@pytest.fixture(scope="module")
def parameters():
    """A function that counts a model's parameters, each size once."""
    known = {}

    def parameters(config):
        if config not in known:
            with torch.device("meta"):
                model = build_model(config.completed(50, 3, CLASSES))
                known[config] = float(sum(p.numel() for p in model.parameters()))
        return known[config]

    return parameters


def roughly(config):
    """About as many parameters as the model has, without building it."""
    total = 0.0
    for part in parts(config).values():
        if isinstance(part, ConvConfig):
            total += 9.0 * sum(a * b + 2 * b * b for a, b in zip((3, *part.widths), part.widths, strict=False))
        else:
            blocks, ratio = getattr(part, "depth", 0), getattr(part, "mlp_ratio", 0)
            total += part.width * (50 + 30 * part.width + blocks * part.width * (4 + 2 * ratio))
    return total + 3000 * getattr(config, "latent_blocks", 0)


def parts(config):
    names = [
        "vision",
        "text",
        "fusion",
        *([] if isinstance(config, PerceiverClassifierConfig) else ["decoder"]),
        "latents",
    ]
    return {name: part for name in names if hasattr(part := getattr(config, name, None), "__dataclass_fields__")}


def brute_widths(config):
    """The model in every width there is."""
    for step in range(1, 9):  # 8 to 64
        width = 8 * step
        wide = {}
        for name, part in parts(config).items():
            if isinstance(part, ConvConfig):
                wide[name] = replace(part, widths=tuple(max(1, round(w * step / 32)) * 8 for w in part.widths))
            else:
                wide[name] = replace(part, width=width)
        if isinstance(config, PerceiverClassifierConfig):
            text = replace(config.inputs.text, width=max(1, round(16 * step / 32)) * 8)
            wide["inputs"] = replace(config.inputs, text=text)
        yield replace(config, **wide)


def brute_hidden(config):
    """The model with the narrowest and the widest hidden layers that it may have."""
    deep = {name: part for name, part in parts(config).items() if hasattr(part, "mlp_ratio")}
    return [replace(config, **{n: replace(p, mlp_ratio=ratio) for n, p in deep.items()}) for ratio in (3.0, 5.0)]


@pytest.mark.parametrize("name", MODELS)
def test_the_change_is_the_smallest_that_brute_force_finds(name):
    model, hit, parameters = MODELS[name], 0, roughly
    widths = list(brute_widths(model))
    for target in (share * parameters(model) for share in TARGETS):

        def off(config, target=target):
            return abs(parameters(config) / target - 1)

        found = fitted(model, parameters, target)
        hit += off(found) <= TOLERANCE
        fits = [config for config in widths if off(config) <= TOLERANCE]
        tuned = [wide for wide in widths if between(*map(parameters, brute_hidden(wide)), target)]
        if off(model) <= TOLERANCE:
            assert found == model
        elif fits:
            assert found == min(fits, key=off)
        elif tuned:
            assert off(found) <= TOLERANCE and stacks(found) == stacks(model)
            assert [part.width for part in parts(found).values() if hasattr(part, "width")] in [
                [part.width for part in parts(wide).values() if hasattr(part, "width")] for wide in tuned
            ]
        elif off(found) <= TOLERANCE:
            more = sum(abs(stacks(found)[n] - stacks(model)[n]) for n in stacks(model))
            assert more == 1 or (more == 0 and conv(found) not in map(conv, widths))
        else:
            assert off(found) <= min(map(off, widths))
    assert hit >= (3 if name == "cnn" else 6)  # such narrow models have few sizes


def between(low, high, target):
    return low / (1 + TOLERANCE) < target < high * (1 + TOLERANCE)


def stacks(config):
    found = {name: part.depth for name, part in parts(config).items() if hasattr(part, "depth")}
    return found | {"latent_blocks": getattr(config, "latent_blocks", 0)}


def conv(config):
    return getattr(getattr(config, "vision", None), "widths", None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.65, 1.5])
def test_what_is_no_size_stays(name, share):
    before = MODELS[name]
    after = fitted(before, roughly, share * roughly(before))
    build_model(after.completed(50, 3, CLASSES))
    for one, other in zip(parts(before).values(), parts(after).values(), strict=True):
        for field in ("size", "patch_pixels", "heads", "latents", "rules", "pool", "stem", "join", "unimodal_depth"):
            assert getattr(one, field, None) == getattr(other, field, None)
        assert (getattr(one, "depth", 0) == 0) == (getattr(other, "depth", 0) == 0)
        assert abs(getattr(one, "depth", 0) - getattr(other, "depth", 0)) <= 1
        assert 3 <= getattr(other, "mlp_ratio", 4) <= 5
    widths = {part.width for part in parts(after).values() if not isinstance(part, ConvConfig)}
    assert len(widths) <= 1 and all(width % 8 == 0 for width in widths)
    assert getattr(before, "embed_dim", 0) == getattr(after, "embed_dim", 0)


def test_heads_stay_whole_and_even(parameters):
    model = PictureClassifierConfig(vision=VitConfig(size=(16, 16), width=72, depth=3, heads=6, pool="mean"))
    for share in (0.6, 1.7):
        width = fitted(model, parameters, share * parameters(model)).vision.width
        assert width % 24 == 0


def test_the_latents_heads_of_all_readings_stay_whole(parameters):
    model = replace(MODELS["latents"], decoder=ReadConfig(heads=16))
    after = fitted(model, parameters, 1.9 * parameters(model))
    assert after.latents.width == 32  # of 16 heads, the next would be 64
    build_model(after.completed(50, 3, CLASSES))


@pytest.mark.parametrize("changes", [{"vision_from": "runs/clip"}, {"inputs": "text"}])
def test_what_comes_trained_and_what_is_not_there_keeps_its_size(changes, parameters):
    model = replace(MODELS["cross"], **changes)
    after = fitted(model, parameters, 1.6 * parameters(model))
    assert after.vision == model.vision and after.fusion.width > model.fusion.width == 32
    assert abs(parameters(after) / (1.6 * parameters(model)) - 1) <= TOLERANCE
    build_model(after.completed(50, 3, CLASSES))


def test_encoders_brought_in_are_of_fixed_size():
    model = PictureClassifierConfig(vision=ModuleVisionConfig(factory="a:b", width=64))
    assert fitted(model, lambda config: 100.0, 150.0) == model


def test_a_picture_s_vector_that_is_not_projected_keeps_its_width(parameters):
    model = replace(CLIP, vision=replace(VIT, pool="mean", width=16), projection="text")
    after = fitted(model, parameters, 1.5 * parameters(model))
    assert after.vision == model.vision and after.text.width > model.text.width


@pytest.mark.parametrize(("target", "width"), [(1.0, 8), (1e9, 128)])
def test_out_of_reach_the_last_width_is_the_nearest(target, width, parameters):
    assert fitted(MODELS["early"], parameters, target).fusion.width == width


def test_counting_is_dear_so_few_sizes_are_counted():
    for name, model in MODELS.items():
        counted = []

        def cost(config, counted=counted):
            counted.append(config)
            return roughly(config)

        for share in (0.6, 1.25):
            counted.clear()
            found = fitted(model, cost, share * roughly(model))
            if stacks(found) == stacks(model) and name not in ("cnn", "clip-conv", "captioner-conv"):
                assert len(counted) <= 10


ABOUT = {
    "late": "late: ViT 2 x 32, pool mean, text 1 x 32, joined at the end (concat), width 32",
    "early": "early: 4 blocks on one sequence, width 32",
    "cross": "cross: ViT 1 x 32, text 2 x 32, 1 layer of co-attention, width 32",
    "perceiver": "perceiver: 3 blocks on 4 latents, width 32",
    "captioner-late": "late: ViT 2 x 32, picture as one token, decoder 2 x 32",
    "captioner-early": "early: picture in front of the words, decoder 4 x 32",
    "captioner-cross": "cross: ViT 2 x 32, decoder 2 x 32",
    "captioner-perceiver": "perceiver: 4 latents with 1 block, decoder 2 x 32",
    "captioner-conv": "cross: CNN 8-16-32, decoder 2 x 32",
    "clip": "ViT 2 x 32, pool mean, text 1 x 32",
    "clip-conv": "CNN 8-16-32, pool mean, text 1 x 32",
    "vit": "ViT 2 x 32, pool cls",
    "cnn": "CNN 8-16-32, pool mean",
    "latents": "4 latents, 2 x 32, of picture and text",
    "coca": "ViT 2 x 32, decoder 3 x 32",
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_told_in_a_line(name):
    assert about(MODELS[name]) == ABOUT[name]


def test_a_line_tells_of_what_is_unusual():
    early = MODELS["early"]
    told = about(replace(early, fusion=replace(early.fusion, mlp_ratio=3.75), inputs="text"))
    assert told == "early: 4 blocks on one sequence, width 32 (hidden 120), text alone"
    cross = replace(MODELS["cross"], vision_from="runs/clip")
    assert about(cross) == "cross: encoder of runs/clip, text 2 x 32, 1 layer of co-attention, width 32"
    assert about(PictureClassifierConfig(vision=ModuleVisionConfig(factory="my:cnn", width=64))) == "my:cnn"
