"""What the decoder reads of a picture, and the maps of where it looked."""

import pytest
import torch

from chiasm.models.vision import VitConfig

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
