"""A reader's latents see exactly what is kept of their context."""

import pytest
import torch

from chiasm.nn import CrossRead, LatentReader, latent
from chiasm.types import Encoded


def make(latents=3, blocks=1, context_width=6):
    torch.manual_seed(0)
    return LatentReader(latents, 8, 2, context_width=context_width, blocks=blocks)


def test_it_returns_its_latents_and_their_mean():
    read = make()(Encoded(tokens=torch.randn(2, 7, 6)))
    assert read.tokens.shape == (2, 3, 8) and read.keep is None
    torch.testing.assert_close(read.pooled, read.tokens.mean(1))


def test_masked_tokens_leave_no_trace():
    reader, tokens = make(), torch.randn(2, 7, 6)
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[:, 5:] = False
    loud = tokens.clone()
    loud[:, 5:] = 1e3 * torch.randn(2, 2, 6)
    read, same = reader(Encoded(tokens=tokens, keep=keep)), reader(Encoded(tokens=loud, keep=keep))
    assert torch.equal(read.tokens, same.tokens) and torch.equal(read.pooled, same.pooled)
    cut = reader(Encoded(tokens=tokens[:, :5]))
    torch.testing.assert_close(read.tokens, cut.tokens, rtol=1e-5, atol=1e-6)


def test_masked_tokens_get_no_gradient():
    reader, tokens = make(), torch.randn(2, 7, 6, requires_grad=True)
    keep = torch.rand(2, 7) < 0.5
    keep[1] = False  # a modality that is missing altogether
    reader(Encoded(tokens=tokens, keep=keep)).tokens.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in reader.parameters())
    assert ((tokens.grad.abs().sum(-1) > 0) == keep).all()


def test_latents_start_small_and_different():
    reader = make(latents=400)
    assert reader.latents.std().item() == pytest.approx(0.02, rel=0.05)
    assert len(reader.latents.unique(dim=0)) == 400


def test_the_read_ignores_the_order_of_the_context():
    reader, tokens = make(), torch.randn(2, 7, 6)
    order = torch.randperm(7)
    first, second = reader(Encoded(tokens=tokens)), reader(Encoded(tokens=tokens[:, order]))
    torch.testing.assert_close(first.tokens, second.tokens, rtol=1e-5, atol=1e-6)


def test_queries_and_context_are_normalised():
    reader, tokens = make(), torch.randn(2, 7, 6)
    first, second = reader(Encoded(tokens=tokens)), reader(Encoded(tokens=100 * tokens + 7))
    torch.testing.assert_close(first.tokens, second.tokens, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_a_long_context_is_read_as_a_short_one(monkeypatch, masked):
    torch.manual_seed(0)
    read = CrossRead(8, 2, context_width=6, key_width=4, value_width=12).double()
    torch.nn.init.normal_(read.norm_context.weight)
    torch.nn.init.normal_(read.norm_context.bias)
    queries, tokens = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 70, 6, dtype=torch.float64)
    keep = torch.rand(2, 70) < 0.5 if masked else None
    if keep is not None:
        keep[1] = False
    results = []
    for long in (1, 1000):
        monkeypatch.setattr(latent, "LONG", long)
        read.zero_grad()
        inputs = queries.clone().requires_grad_(), tokens.clone().requires_grad_()
        out = read(inputs[0], Encoded(tokens=inputs[1], keep=keep))
        out.square().sum().backward()
        grads = {name: p.grad.clone() for name, p in read.named_parameters()}
        results.append([out, inputs[0].grad, inputs[1].grad, *grads.values()])
    for streamed, whole in zip(*results, strict=True):
        torch.testing.assert_close(streamed, whole, rtol=1e-4, atol=1e-6)
