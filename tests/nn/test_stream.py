"""Streaming attention is attention: values, gradients, masks, whatever the chunks."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from chiasm.nn import stream
from chiasm.nn.stream import stream_attention


def plain(queries, context, key_value, eps, keep=None):
    """The whole at once."""
    _, h, _, k = queries.shape
    keys, values = F.linear(F.layer_norm(context, context.shape[-1:], eps=eps), key_value).split(
        [h * k, len(key_value) - h * k], -1
    )
    keys, values = (part.unflatten(-1, (h, -1)).transpose(1, 2) for part in (keys, values))
    scores = queries @ keys.transpose(-2, -1) * k**-0.5
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None], -torch.inf)
    return scores.softmax(-1).nan_to_num() @ values


@pytest.fixture(
    params=[(2**20, stream.SAFE), (64 * 24, stream.SAFE), (2**20, -1.0), (64 * 24, -1.0)],
    ids=["one-chunk", "chunks", "one-chunk-shifted", "chunks-shifted"],
)
def chunked(request, monkeypatch):
    elements, safe = request.param
    monkeypatch.setattr(stream, "ELEMENTS", elements)
    monkeypatch.setattr(stream, "SAFE", safe)


def inputs(dtype=torch.float64, n=200, scale=1.0):
    g = torch.Generator().manual_seed(0)
    shapes = (2, 3, 4, 5), (2, n, 7), (3 * (5 + 2), 7)
    made = [scale * torch.randn(*shape, generator=g, dtype=dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def masks():
    keep = torch.rand(2, 200, generator=torch.Generator().manual_seed(1)) < 0.4
    first = torch.ones_like(keep)
    first[:, 60:] = False  # whole chunks are masked
    first[0, :70] = False
    first[0, 199] = True
    return {"none": None, "some": keep, "chunks": first}


@pytest.mark.parametrize("keep", masks().values(), ids=masks())
def test_values_and_gradients_are_those_of_the_whole(chunked, keep):
    results = []
    for attend in (stream_attention, plain):
        made = inputs()
        read = attend(*made, 1e-5, keep)
        (read * torch.linspace(-1, 1, read.numel(), dtype=read.dtype).view_as(read)).sum().backward()
        results.append([read, *(tensor.grad for tensor in made)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_large_scores_do_not_overflow(chunked):
    made = inputs(torch.float32, scale=30.0)
    read = stream_attention(*made, 1e-5)
    torch.testing.assert_close(read, plain(*made, 1e-5), rtol=1e-3, atol=1e-3)
    read.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in made)


def test_no_score_exceeds_the_bound():
    queries, context, key_value = (tensor.detach() for tensor in inputs(torch.float32, n=2000))
    normed = F.layer_norm(context, context.shape[-1:], eps=1e-5)
    keys = F.linear(normed, key_value[:15]).unflatten(-1, (3, 5)).transpose(1, 2)
    largest = (queries @ keys.transpose(-2, -1)).abs().max().item()
    assert largest <= stream._largest_score(queries, key_value) <= 3 * largest


def test_scores_up_to_the_bound_stay_in_range():
    """Every token alike, as far along one query as a token can be, and as far against another."""
    direction = F.layer_norm(torch.arange(8.0)[None], (8,))
    key_value = torch.cat([direction.expand(1, 8), torch.ones(1, 8)])
    queries = (stream.SAFE / 8 * 0.999) * torch.tensor([1.0, -1.0])[None, None, :, None]
    queries.requires_grad_()
    for dtype in (torch.float32, torch.bfloat16):
        context = torch.arange(8.0).expand(1, 3000, 8).to(dtype).requires_grad_()
        read = stream_attention(queries.to(dtype), context, key_value.to(dtype), 1e-5)
        read.sum().backward()
        assert read.isfinite().all() and queries.grad.isfinite().all() and context.grad.isfinite().all()
        torch.testing.assert_close(read.float(), torch.zeros_like(read.float()), atol=0.05, rtol=0.0)


def test_a_row_without_tokens_reads_zeros_and_gets_no_gradient(chunked):
    made = inputs()
    keep = torch.ones(2, 200, dtype=torch.bool)
    keep[1] = False
    read = stream_attention(*made, 1e-5, keep)
    assert (read[1] == 0).all() and (read[0] != 0).all()
    read.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in made)
    assert (made[0].grad[1] == 0).all() and (made[1].grad[1] == 0).all()


def test_a_context_that_learns_nothing_gets_no_gradient(chunked):
    queries, context, weight = inputs()
    stream_attention(queries, context.detach(), weight, 1e-5).sum().backward()
    assert context.grad is None and weight.grad.abs().max() > 0


def test_autocast_computes_in_its_type_and_stays_near(chunked):
    made = inputs(torch.float32)
    exact = plain(*made, 1e-5)
    exact.square().sum().backward()
    expected = [tensor.grad.clone() for tensor in made]
    for tensor in made:
        tensor.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        read = stream_attention(*made, 1e-5)
    assert read.dtype == torch.float32
    read.square().sum().backward()
    assert 0 < (read - exact).abs().max() < 0.02 * exact.abs().max()
    for tensor, grad in zip(made, expected, strict=True):
        assert tensor.grad.dtype == torch.float32
        assert (tensor.grad - grad).norm() < 0.05 * grad.norm()


def test_bf16_stays_as_near_as_the_whole_in_bf16(chunked):
    exact = [tensor.detach().bfloat16().float().requires_grad_() for tensor in inputs(torch.float32)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    results = []
    for attend, made in ((plain, exact), (stream_attention, rounded)):
        read = attend(*made, 1e-5)
        read.float().square().sum().backward()
        results.append([read.float(), *(tensor.grad.float() for tensor in made)])
    for expected, got in zip(*results, strict=True):
        assert (got - expected).norm() < 0.05 * expected.norm()


MEMORY = """
import torch
from chiasm.nn import CrossRead
from chiasm.types import Encoded
status = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
torch.set_num_threads(1)
read, queries = CrossRead(128, 2, context_width=32), torch.randn(1, 16, 128)
read(queries, Encoded(tokens=torch.randn(1, 4096, 32))).sum().backward()
tokens = torch.randn(1, 131072, 32)
before = status()
read(queries, Encoded(tokens=tokens)).sum().backward()
print((status() - before) / 1024)
"""


def test_memory_does_not_grow_with_the_context():
    """Keys and values alone would be 128 MiB, in a process of its own."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 40


def test_nothing_as_long_as_the_context_is_kept():
    queries, context, weight = inputs(torch.float32, n=5000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        stream_attention(queries, context, weight, 1e-5)
    long = [tensor for tensor in kept if tensor.numel() >= 5000]
    assert {tensor.data_ptr() for tensor in long} == {context.data_ptr()}
