"""How weights start, and which of them decay."""

import pytest
import torch
from torch import nn

from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import Block, LatentReader, init_weights, weight_decay_groups


class Sizes(nn.Module):
    """A block and a token table large enough for statistics."""

    def __init__(self):
        super().__init__()
        self.block = Block(64, 4, context_width=64)
        self.table = nn.Embedding(300, 64)
        self.conv = nn.Conv2d(32, 64, 3)


@pytest.mark.parametrize("depth", [1, 8])
def test_what_adds_to_the_residual_stream_starts_smaller_the_deeper_the_model(depth):
    torch.manual_seed(0)
    model = Sizes()
    init_weights(model, depth)
    block, small = model.block, 64**-0.5 / (2 * depth) ** 0.5
    for weight in (block.attend_self.query, block.attend_self.key_value, block.attend_cross.query):
        assert weight.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert block.mlp[0].weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    for weight in (block.attend_self.out, block.attend_cross.out, block.mlp[2]):
        assert weight.weight.std().item() == pytest.approx(small, rel=0.05)
    assert model.table.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.conv.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)  # He et al., 1502.01852


def test_biases_start_at_zero_and_norms_at_one():
    model = Sizes()
    init_weights(model, 2)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def test_latents_and_position_tables_keep_the_start_that_their_module_gave_them():
    reader = LatentReader(500, 16, 2)
    before = reader.latents.clone()
    init_weights(reader, 2)
    assert torch.equal(reader.latents, before)
    assert reader.latents.std().item() == pytest.approx(0.02, rel=0.05)


def every_kind():
    size = {"size": (16, 16), "width": 16, "depth": 1, "heads": 2}
    return [
        *(VitConfig(**size, pool=pool) for pool in ("none", "cls", "mean", "attention")),
        VitConfig(**size, stem="conv"),
        ConvConfig(size=(16, 16), widths=(8, 16), pool="attention"),
    ]


@pytest.mark.parametrize("vision", every_kind(), ids=lambda v: f"{type(v).__name__}-{v.pool}")
def test_each_trained_parameter_is_in_exactly_one_group_and_tables_and_vectors_do_not_decay(make_captioner, vision):
    model = make_captioner(vision)
    decaying, others = weight_decay_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    listed = [id(p) for p in decaying["params"] + others["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter in decaying["params"]:
        assert parameter.ndim >= 2
        assert not any(word in names[id(parameter)] for word in ("position", "cls", "latents", "norm", "bias"))
    for parameter in others["params"]:
        name = names[id(parameter)]
        assert parameter.ndim <= 1 or name.endswith(("positions", "positions.table", "latents")), name


def test_a_tied_weight_is_listed_once_and_decays(make_captioner):
    model = make_captioner()
    assert model.decoder.head.weight is model.decoder.embed.tokens.weight
    decaying, others = weight_decay_groups(model, 0.1)
    assert sum(p is model.decoder.head.weight for p in decaying["params"]) == 1
    assert not any(p is model.decoder.head.weight for p in others["params"])


def test_frozen_parameters_are_left_out(make_captioner):
    model = make_captioner()
    model.vision.requires_grad_(False)
    listed = {id(p) for group in weight_decay_groups(model, 0.1) for p in group["params"]}
    assert listed == {id(p) for p in model.decoder.parameters()}
