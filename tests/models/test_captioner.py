"""What the decoder reads of a picture by each fusion, and the maps of where it looked."""

import json
from dataclasses import replace

import pytest
import torch

from chiasm import config as configs
from chiasm.models import CaptionerConfig
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.presets import captioner_preset
from chiasm.models.vision import ConvConfig, VitConfig

IDS = torch.tensor([[1, 5, 6, 7], [1, 3, 3, 9]])
SMALL = {"size": (16, 24), "patch_pixels": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize("pool", ["none", "cls", "mean", "attention"])
def test_the_decoder_reads_the_pooled_vector_in_front_of_the_grid(make_captioner, make_images, pool):
    model = make_captioner(VitConfig(**SMALL, pool=pool))
    images = make_images(2, (16, 24))
    seen, read = model.vision(images), model.encode(images)
    assert torch.equal(read.tokens[:, -6:], seen.tokens)
    if pool == "none":
        assert read.tokens.shape[1] == 6
    else:
        assert read.tokens.shape[1] == 7 and torch.equal(read.tokens[:, 0], seen.pooled)


@pytest.mark.parametrize("pool", ["none", "cls"])
def test_attention_maps_are_shares_of_the_grid_in_its_shape(make_captioner, make_images, pool):
    model = make_captioner(VitConfig(**SMALL, pool=pool))
    images, ids = make_images(2, (16, 24)), torch.tensor([[1, 5, 6, 7], [1, 3, 3, 9]])
    maps = model.attention_maps(images, ids)
    assert maps.shape == (2, 4, 2, 3)
    whole = model.decoder.attention_maps(ids, model.encode(images)).mean((1, 2))
    assert torch.equal(maps.flatten(2), whole[..., -6:])
    shares = maps.sum((2, 3))
    if pool == "none":
        torch.testing.assert_close(shares, torch.ones(2, 4))
    else:
        torch.testing.assert_close(shares, 1 - whole[..., 0])
        assert (shares < 1).all()


def test_rules_are_the_decoder_s(make_captioner):
    model = make_captioner(context=7)
    assert model.rules == model.config.decoder.rules and model.rules.context == 7


@pytest.mark.parametrize("pool", ["none", "cls"])
def test_late_reads_one_vector_and_early_the_whole_picture_each_marked(make_captioner, make_images, pool):
    images = make_images(2, (16, 24))
    late, early = (make_captioner(VitConfig(**SMALL, pool=pool), fusion=fusion) for fusion in ("late", "early"))
    seen = late.vision(images)
    wanted = seen.tokens.mean(1) if pool == "none" else seen.pooled
    torch.testing.assert_close(late.encode(images).tokens, (wanted + late.bridge.mark)[:, None])
    read = early.encode(images).tokens - early.bridge.mark
    torch.testing.assert_close(read[:, -6:], early.vision(images).tokens)
    assert read.shape[1] == (6 if pool == "none" else 7)


@pytest.mark.parametrize("fusion", ["cross", "early", "perceiver"])
def test_maps_are_shares_of_the_grid_which_early_divides_with_the_words_before(make_captioner, make_images, fusion):
    model = make_captioner(ConvConfig(size=(16, 16), widths=(8,)), fusion=fusion, latents=3)
    maps = model.attention_maps(make_images(2), IDS)
    assert maps.shape == (2, 4, 8, 8) and (maps >= 0).all()
    shares = maps.sum((2, 3))
    if fusion == "early":
        assert (shares < 1).all() and (shares > 0.01).all()
    else:
        torch.testing.assert_close(shares, torch.ones(2, 4))


def test_maps_of_latents_are_their_shares_times_what_they_read(make_captioner, make_images):
    model, images = (
        make_captioner(VitConfig(**SMALL, pool="cls"), fusion="perceiver", latents=3),
        make_images(2, (16, 24)),
    )
    read = []
    attends = [model.bridge.reader.read.attend, *(block.attend_cross for block in model.decoder.blocks)]
    hooks = [
        attend.register_forward_pre_hook(
            lambda attention, args, kwargs: read.append(attention.weights(*args, **kwargs).mean(1)), with_kwargs=True
        )
        for attend in attends
    ]
    model(images, IDS)
    for hook in hooks:
        hook.remove()
    latents, *words = read
    wanted = torch.zeros(2, 4, 7)
    for of_layer in words:
        for latent in range(3):
            wanted += of_layer[:, :, latent, None] * latents[:, None, latent] / len(words)
    torch.testing.assert_close(model.attention_maps(images, IDS).flatten(2), wanted[..., 1:])


def test_late_fusion_has_no_places_to_look_at(make_captioner, make_images):
    model = make_captioner(fusion="late")
    assert not model.looks
    with pytest.raises(ValueError, match="no places to look at"):
        model.attention_maps(make_images(1), IDS[:1])


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_another_fusion_keeps_the_depth_and_moves_it(preset):
    cross = captioner_preset(preset)
    before, after = cross.vision.depth, cross.decoder.depth
    late, early, perceiver = (with_fusion(cross, fusion) for fusion in ("late", "early", "perceiver"))
    assert (late.vision.depth, late.decoder.depth) == (before, after)
    assert (early.vision.depth, early.decoder.depth) == (0, before + after)
    assert (perceiver.vision.depth, perceiver.latent_blocks + 1, perceiver.decoder.depth) == (0, before, after)
    for fused in (late, early, perceiver):
        assert with_fusion(fused, fused.fusion) == fused
        with pytest.raises(ValueError, match=f"fusion is {fused.fusion} already"):
            with_fusion(fused, "cross")


def test_a_convolutional_encoder_keeps_its_stages():
    cross = CaptionerConfig(vision=ConvConfig())
    for fusion in ("late", "early", "perceiver"):
        assert with_fusion(cross, fusion) == replace(cross, fusion=fusion)


@pytest.mark.parametrize("changes", [{"latents": 0}, {"latent_blocks": -1}])
def test_impossible_numbers_of_latents_are_refused(changes):
    with pytest.raises(ValueError, match="there must be a latent"):
        CaptionerConfig(fusion="perceiver", **changes)


def test_a_configuration_of_before_there_were_fusions_is_cross(tmp_path):
    path = tmp_path / "config.json"
    config = CaptionerConfig(decoder=DecoderConfig(width=32))
    configs.save(config, path)
    told = json.loads(path.read_text())
    del told["fusion"], told["latents"], told["latent_blocks"], told["decoder"]["activation"]
    path.write_text(json.dumps(told))
    assert configs.load(CaptionerConfig, path) == config
