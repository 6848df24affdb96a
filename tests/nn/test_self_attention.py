"""Self-attention in training, by one projection, equals its plain twin; checkpointing changes no gradient."""

import pytest
import torch
from torch import nn

from chiasm.nn import Attention, Block, LatentReader, attention, checkpoint_blocks
from chiasm.types import Encoded

B, L, D, H = 3, 7, 12, 2  # heads of 6: the scale is no power of two


def keeps():
    flat = torch.rand(B, L, generator=torch.Generator().manual_seed(1)) < 0.6
    full = torch.rand(B, L, L, generator=torch.Generator().manual_seed(2)) < 0.6
    flat[1] = False  # a row of the batch that may read nothing
    full[2, 3] = False  # a single query that may read nothing
    return {"all": None, "padded": flat, "per query": full}


@pytest.fixture
def attend():
    torch.manual_seed(0)
    return Attention(D, H)


def naive(attend, x, keep=None, causal=False):
    """One row, one head, one query at a time; only what may be read is ever touched."""
    key_weight, value_weight = attend.key_value.weight.chunk(2)
    queries = x @ attend.query.weight.T + attend.query.bias
    keys, values, out = x @ key_weight.T, x @ value_weight.T, []
    for row in range(B):
        for query in range(L):
            mask = (
                torch.ones(L, dtype=torch.bool) if keep is None else keep[row] if keep.ndim == 2 else keep[row, query]
            )
            seen = [key for key in range(L) if mask[key] and not (causal and key > query)]
            for part in torch.arange(D).chunk(H):
                scores = keys[row, seen][:, part] @ queries[row, query, part] / len(part) ** 0.5
                shares = scores.exp() / scores.exp().sum()
                out.append(shares @ values[row, seen][:, part] if seen else torch.zeros(len(part)))
    return torch.cat(out).view(B, L, D) @ attend.out.weight.T + attend.out.bias


def gradients(attend, x, output):
    loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    return torch.autograd.grad(loss, [x, *attend.parameters()])


def of_context(attend, x, **masks):
    return attend(x, attend.project(x), **masks)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", keeps().values(), ids=keeps())
def test_equals_the_naive_twin_in_value_and_gradient(attend, keep, causal):
    x = torch.randn(B, L, D, requires_grad=True)
    fast = attend.of_itself(x, nn.Identity(), keep=keep, causal=causal)
    slow = naive(attend, x, keep, causal)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients(attend, x, fast), gradients(attend, x, slow), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", keeps().values(), ids=keeps())
def test_in_bf16_it_is_as_near_to_fp32_as_its_plain_twin(attend, keep, causal):
    x, masks = torch.randn(B, L, D, requires_grad=True), {"keep": keep, "causal": causal}
    exact = of_context(attend, x, **masks)
    exact = [exact, *gradients(attend, x, exact)]
    for way in (of_context, lambda attend, x, **masks: attend.of_itself(x, nn.Identity(), **masks)):
        with torch.autocast("cpu", torch.bfloat16):
            rough = way(attend, x, **masks)
        assert rough.dtype == torch.bfloat16
        for got, wanted in zip([rough, *gradients(attend, x, rough.float())], exact, strict=True):
            assert (got - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("length, bf16, gradient, fused", [
    (160, False, True, 1), (161, False, True, 0), (160, False, False, 0), (512, True, True, 1), (513, True, True, 0)
])  # fmt: skip
def test_it_is_taken_where_it_is_faster(monkeypatch, attend, length, bf16, gradient, fused):
    calls, own = [], attention.SelfProduct.apply
    monkeypatch.setattr(attention.SelfProduct, "apply", lambda *args: calls.append(1) or own(*args))
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        attend.of_itself(torch.randn(1, length, D), nn.Identity())
    assert len(calls) == fused


def test_values_of_another_width_take_the_plain_way():
    torch.manual_seed(0)
    attend, x = Attention(D, H, key_width=8, value_width=4), torch.randn(B, L, D)
    torch.testing.assert_close(attend.of_itself(x, nn.Identity()), of_context(attend, x))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointed_blocks_have_the_same_gradients_to_the_bit(dropout, precision):
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(D, H, context_width=D, dropout=dropout) for _ in range(2))
    x, keep = torch.randn(B, L, D), keeps()["padded"]

    def step():
        torch.manual_seed(1)
        out = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            for block in blocks:
                out = block(out, keep=keep, causal=True, context=block.project(x), context_keep=keep)
        out.float().square().sum().backward()
        made = [out.detach(), *(p.grad for p in blocks.parameters())]
        blocks.zero_grad(set_to_none=True)
        return made

    kept = step()
    checkpoint_blocks(blocks)
    calls = []
    blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    again = step()
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_a_checkpointed_block_holds_its_input_alone():
    torch.manual_seed(0)
    reader = LatentReader(L, D, H, blocks=3)
    context, held = Encoded(tokens=torch.randn(B, 5, D)), []

    def count():
        held.append(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(held.pop() + x.numel()) or x, lambda x: x):
            reader(context)

    count()
    checkpoint_blocks(reader)
    count()
    assert held[1] < 0.5 * held[0]
