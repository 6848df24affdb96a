"""Muon: the directions of a matrix, which parameters are matrices, parity with torch's, and states that are saved."""

import copy

import pytest
import torch

from chiasm.cost.batches import example_batch, training_objective
from chiasm.errors import UserError
from chiasm.models import build_model
from chiasm.models.presets import captioner_tiny
from chiasm.nn import measure_update_seconds
from chiasm.nn.optimizer import Muon, build_optimizer, orthogonalized
from chiasm.train.finetune import layer_groups

CONFIG = captioner_tiny().completed(40, None)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG)


def optimizer_of(model, name, layer_decay=1.0):
    return build_optimizer(model, layer_groups(model, 0.1, layer_decay), name, learning_rate=1e-2)


def backward(model, seed=0):
    torch.manual_seed(seed)
    batch = example_batch(CONFIG, 4, 8)
    training_objective(CONFIG).backward(model, batch, 1, lambda loss: loss.backward())


def stepped(model, optimizer, steps=1):
    for seed in range(steps):
        backward(model, seed)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", [(2, 24, 24), (3, 16, 48), (1, 48, 16)])
def test_singular_values_become_alike_and_their_vectors_stay(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    between = u.mT @ orthogonalized(x) @ v.mT
    values = between.diagonal(dim1=1, dim2=2)
    assert (between - torch.diag_embed(values)).abs().max() < 1e-10
    large = s > 0.03 * s.norm(dim=1, keepdim=True)
    assert large.float().mean() > 0.8
    assert values[large].min() > 0.65 and values.max() < 1.25


def test_a_zero_gradient_moves_nothing():
    assert not orthogonalized(torch.zeros(1, 3, 4)).any()


def test_what_moves_as_a_matrix(model):
    model.decoder.blocks[0].requires_grad_(False)
    groups = optimizer_of(model, "muon").param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, others = ({names[id(p)] for g in groups if g["is_matrix"] == which for p in g["params"]}
                        for which in (True, False))  # fmt: skip
    assert matrices | others == {name for name, p in model.named_parameters() if p.requires_grad}
    assert matrices == {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and "blocks." in name and name.endswith("weight") and "norm" not in name
    }
    assert not any(name.startswith("decoder.blocks.0.") for name in matrices | others)
    assert any("embed" in name for name in others)


def test_all_else_takes_the_steps_of_adamw(model):
    twin = copy.deepcopy(model)
    muon, adamw = optimizer_of(model, "muon"), optimizer_of(twin, "adamw")
    assert isinstance(muon, Muon) and not isinstance(adamw, Muon)
    matrices = {id(p) for g in muon.param_groups if g["is_matrix"] for p in g["params"]}
    is_matrix = [id(p) in matrices for p in model.parameters()]
    mine, its = stepped(model, muon), stepped(twin, adamw)
    for (name, p), matrix in zip(mine.items(), is_matrix, strict=True):
        assert torch.equal(p, its[name]) != matrix, name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_a_matrix_takes_the_steps_of_torch_s_muon(model):
    twin = copy.deepcopy(model)
    muon = optimizer_of(model, "muon")
    names = {id(p): name for name, p in model.named_parameters()}
    chosen = {names[id(p)] for g in muon.param_groups if g["is_matrix"] for p in g["params"]}
    its = torch.optim.Muon([p for name, p in twin.named_parameters() if name in chosen], lr=1e-2, weight_decay=0.1,
                           momentum=0.95, adjust_lr_fn="match_rms_adamw")  # fmt: skip
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for seed in range(3):
        noise = torch.Generator().manual_seed(
            seed
        )  # of full rank: torch's is computed in bf16, and adds noise of its own
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=noise)
            q.grad = p.grad.clone()
        muon.step()
        its.step()
    for name, p in model.named_parameters():
        if name in chosen:
            q = twin.get_parameter(name)
            assert (p - q).norm() < 0.03 * (p - start[name]).norm(), name
            assert (p - start[name]).norm() > 0.01 * start[name].norm()


def test_a_saved_state_goes_on_to_the_bit(model, tmp_path):
    optimizer = optimizer_of(model, "muon")
    stepped(model, optimizer, 2)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "saved")
    undisturbed = stepped(model, optimizer, 2)
    weights, state = torch.load(tmp_path / "saved")
    other = build_model(CONFIG)
    other.load_state_dict(weights)
    resumed = optimizer_of(other, "muon")
    resumed.load_state_dict(state)
    again = stepped(other, resumed, 2)
    assert all(torch.equal(p, again[name]) for name, p in undisturbed.items())


def test_each_group_keeps_the_rate_of_its_depth(model):
    optimizer = optimizer_of(model, "muon", layer_decay=0.5)
    factors = {g["factor"] for g in optimizer.param_groups if g["is_matrix"]}
    assert factors == {0.5, 0.25}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert all(torch.equal(p, start[name]) for name, p in stepped(model, optimizer).items())


def test_muon_without_a_matrix_is_refused(model):
    for name, p in model.named_parameters():
        p.requires_grad_("blocks." not in name)
    with pytest.raises(UserError, match="none learns here"):
        optimizer_of(model, "muon")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_measuring_an_update_leaves_the_weights(model, name):
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    assert 0 < measure_update_seconds(model, name) < 5
    assert all(torch.equal(p, start[key]) and p.grad is None for key, p in model.named_parameters())
