"""LoRA: the identity at first, the paper's sum afterwards, plain weights in the end."""

import copy

import pytest
import torch
from torch import nn

from chiasm.nn import Attention, Block, weight_decay_groups
from chiasm.nn.block import FeedForward
from chiasm.nn.lora import LowRank, add_lora, has_lora, merge_lora

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(Block(16, 2), Block(16, 2))


def stir(model):
    """Low-rank terms as after some training."""
    for module in model.modules():
        if isinstance(module, LowRank):
            module.up.data.normal_(generator=torch.Generator().manual_seed(1))


def test_at_first_it_is_the_identity():
    model, plain = make(), make()
    assert add_lora(model, rank=2) == 6  # query, key_value and out of two blocks
    assert torch.equal(model(X), plain(X))


def test_it_adds_the_scaled_product_of_the_paper():
    model, plain = make(), make()
    add_lora(model, rank=2, alpha=6.0)
    stir(model)
    layer, own = model[0].attend_self.query, plain[0].attend_self.query
    term = layer.parametrizations["weight"][0]
    wanted = own(X) + 6 / 2 * (X @ term.down.T) @ term.up.T
    torch.testing.assert_close(layer(X), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(X), plain(X), atol=1e-2)


def test_merged_it_is_plain_weights_with_the_same_outputs():
    model, plain = make(), make()
    add_lora(model, rank=2, inside=(Attention, FeedForward))
    stir(model)
    before = model(X)
    assert has_lora(model)
    merge_lora(model)
    assert not has_lora(model)
    assert list(model.state_dict()) and model.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(X), before, atol=1e-6, rtol=1e-6)
    assert type(model[0].attend_self.query) is nn.Linear


def test_a_copy_is_merged_without_touching_the_model():
    model = make()
    add_lora(model, rank=2)
    stir(model)
    merged = copy.deepcopy(model)
    merge_lora(merged)
    assert has_lora(model) and torch.allclose(merged(X), model(X), atol=1e-6)


def test_only_low_rank_terms_of_the_adapted_layers_learn():
    model = make()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    add_lora(model, rank=2)
    stir(model)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and hasattr(m, "parametrizations")]
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters() if p.requires_grad], lr=0.1)
    model(X).square().sum().backward()
    terms = [m for m in model.modules() if isinstance(m, LowRank)]
    assert all(term.up.grad is not None and term.down.grad is not None for term in terms)
    optimizer.step()
    for i, block in enumerate(model):
        own = block.attend_self.query.parametrizations["weight"].original
        assert own.grad is None and torch.equal(own, weights[f"{i}.attend_self.query.weight"])
        assert block.attend_self.query.bias.grad is None
    groups = weight_decay_groups(model, 0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert {id(term.up) for term in terms} <= set(listed) and len(listed) == len(set(listed))


@pytest.mark.parametrize("rank", [0, 17])
def test_ranks_that_make_no_sense(rank):
    with pytest.raises(ValueError, match="from 1 to 16"):
        add_lora(make(), rank=rank)


def test_twice_or_nowhere_is_refused():
    model = make()
    add_lora(model, rank=1)
    with pytest.raises(ValueError, match="already"):
        add_lora(model, rank=1)
    with pytest.raises(ValueError, match="no linear layer within Attention"):
        add_lora(nn.Linear(4, 4), rank=1)
