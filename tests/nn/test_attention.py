"""Attention on both of its paths equals a loop over queries, keys and heads, gradients and masked rows included."""

import math

import pytest
import torch
from torch.nn import functional as F

from chiasm.nn import Attention, KeyValueCache, KeyValues, causal_keep, prefix_causal_keep
from chiasm.nn import attention as module

B, L, N, D, H = 3, 5, 7, 8, 2


@pytest.fixture(params=["product", "fused"])
def path(request, monkeypatch):
    """Both ways of computing, on the same inputs, with gradients."""
    monkeypatch.setattr(module, "SHORT_KEYS", 10_000 if request.param == "product" else 0)
    return request.param


def make(context_width=None, seed=0):
    torch.manual_seed(seed)
    return Attention(D, H, context_width=context_width)


def visible(keep, causal, row, query, key, queries, keys):
    if causal and key > query + keys - queries:
        return False
    if keep is None:
        return True
    return bool(keep[row, key] if keep.ndim == 2 else keep[row, query, key])


def naive(attention, x, context, keep=None, causal=False):
    """One head, one query, one key at a time; only what may be read is ever touched. Also returns the maps."""
    b, l, d = x.shape
    n, k = context.shape[1], d // attention.heads
    key_weight, value_weight = attention.key_value.weight.chunk(2)
    queries = x @ attention.query.weight.T + attention.query.bias
    keys, values = context @ key_weight.T, context @ value_weight.T
    read, maps = [], torch.zeros(b, attention.heads, l, n, dtype=x.dtype)
    for row in range(b):
        for query in range(l):
            for head in range(attention.heads):
                part = slice(head * k, (head + 1) * k)
                seen = [key for key in range(n) if visible(keep, causal, row, query, key, l, n)]
                if not seen:
                    read.append(torch.zeros(k, dtype=x.dtype))
                    continue
                scores = torch.stack([queries[row, query, part] @ keys[row, key, part] for key in seen]) / math.sqrt(k)
                shares = scores.exp() / scores.exp().sum()
                maps[row, head, query, seen] = shares.detach()
                read.append(sum(share * values[row, key, part] for share, key in zip(shares, seen, strict=True)))
    return torch.stack(read).view(b, l, d) @ attention.out.weight.T + attention.out.bias, maps


def keeps():
    flat = torch.rand(B, N, generator=torch.Generator().manual_seed(1)) < 0.6
    flat[0] = True
    full = torch.rand(B, L, N, generator=torch.Generator().manual_seed(2)) < 0.6
    flat[1] = False  # a row of the batch that may read nothing
    full[2, 3] = False  # a single query that may read nothing
    return {"all": None, "padded": flat, "per query": full}


def gradients(attention, inputs, output):
    loss = (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    return torch.autograd.grad(loss, [*attention.parameters(), *inputs])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", keeps().values(), ids=keeps())
@pytest.mark.parametrize("context_width", [None, 6], ids=["self", "cross"])
def test_equals_the_naive_twin_in_value_gradient_and_map(path, keep, causal, context_width):
    attention = make(context_width)
    x = torch.randn(B, L, D, requires_grad=True)
    context = torch.randn(B, N, context_width or D, requires_grad=True)
    fast = attention(x, attention.project(context), keep=keep, causal=causal)
    slow, maps = naive(attention, x, context, keep, causal)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(
        gradients(attention, [x, context], fast), gradients(attention, [x, context], slow), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    shown = attention.weights(x, attention.project(context), keep=keep, causal=causal)
    torch.testing.assert_close(shown, maps, rtol=1e-5, atol=1e-6)


def test_a_query_that_may_read_nothing_reads_zeros_and_passes_no_gradient(path):
    attention = make()
    x = torch.randn(1, 2, D)
    context = torch.randn(1, 3, D, requires_grad=True)
    keep = torch.tensor([[[False, False, False], [True, True, False]]])
    output = attention(x, attention.project(context), keep=keep)
    torch.testing.assert_close(output[0, 0], attention.out.bias)
    (gradient,) = torch.autograd.grad(output[0, 0].sum(), context, retain_graph=True)
    assert torch.equal(gradient, torch.zeros_like(context))
    (gradient,) = torch.autograd.grad(output.sum(), context)
    assert gradient.isfinite().all() and gradient[0, :2].abs().min() > 0 and torch.equal(gradient[0, 2], torch.zeros(D))


def test_causal_queries_before_the_first_key_read_zeros(path):
    attention = make()
    x, context = torch.randn(1, 5, D), torch.randn(1, 3, D)
    slow, _ = naive(attention, x, context, causal=True)
    torch.testing.assert_close(attention(x, attention.project(context), causal=True), slow)
    assert torch.equal(slow[0, :2], attention.out.bias.expand(2, D))


def test_what_is_masked_does_not_matter(path):
    attention = make()
    x, context = torch.randn(B, L, D), torch.randn(B, N, D)
    keep = torch.ones(B, N, dtype=torch.bool)
    keep[:, 4:] = False
    changed = context.clone()
    changed[:, 4:] = 1e4
    first, second = (attention(x, attention.project(c), keep=keep) for c in (context, changed))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, attention(x, attention.project(context[:, :4])), rtol=1e-5, atol=1e-6)


def test_maps_sum_to_one_and_reproduce_the_output():
    attention = make()
    x, context = torch.randn(B, L, D), torch.randn(B, N, D)
    known = attention.project(context)
    maps = attention.weights(x, known, causal=True)
    torch.testing.assert_close(maps.sum(-1), torch.ones(B, H, L))
    read = attention.out((maps @ known.values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(read, attention(x, known, causal=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys, gradient, fused", [(160, True, 0), (161, True, 1), (160, False, 1)])
def test_short_contexts_in_training_use_the_product_and_all_else_the_fused_kernel(monkeypatch, keys, gradient, fused):
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: calls.append(1) or kernel(*args))
    attention = make()
    with torch.set_grad_enabled(gradient):
        attention(torch.randn(1, 2, D), attention.project(torch.randn(1, keys, D)))
    assert len(calls) == fused


@pytest.mark.parametrize("keep", keeps().values(), ids=keeps())
def test_under_bf16_autocast_it_stays_close_and_finite(path, keep):
    attention = make()
    x, context = torch.randn(B, L, D), torch.randn(B, N, D)
    exact = attention(x, attention.project(context), keep=keep)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(x, attention.project(context), keep=keep)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.03, atol=0.03)
    assert all(g.isfinite().all() for g in torch.autograd.grad(rough.float().sum(), list(attention.parameters())))


@pytest.mark.parametrize("queries, keys", [(1, 1), (4, 4), (1, 6), (3, 6), (4, 2)])
def test_causal_keep_aligns_the_last_query_with_the_last_key(queries, keys):
    wanted = [[key <= query + keys - queries for key in range(keys)] for query in range(queries)]
    assert causal_keep(queries, keys).tolist() == wanted


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2]], ids=str)
def test_every_chunking_of_a_prefix_equals_the_whole(path, chunks):
    attention = make()
    x = torch.randn(2, 12, D)
    whole = attention(x, attention.project(x), causal=True)
    cache = KeyValueCache()
    with torch.no_grad():
        parts = [attention(part, cache.append(attention.project(part)), causal=True) for part in x.split(chunks, 1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


def numbered(batch, tokens, start):
    values = torch.arange(start, start + tokens, dtype=torch.float32)[None, None, :, None].expand(batch, H, -1, 4)
    rows = torch.arange(batch, dtype=torch.float32)[:, None, None, None] * 1000
    return KeyValues(values + rows, -values - rows)


def test_a_cache_grows_beyond_its_capacity_and_forgets_nothing():
    cache, start = KeyValueCache(), 0
    for tokens in (1, 10, 1, 4, 1, 1, 40, 3, 100):
        seen = cache.append(numbered(2, tokens, start))
        start += tokens
        assert cache.length == start
        for got, wanted in zip(seen, numbered(2, start, 0), strict=True):
            assert torch.equal(got, wanted)


def test_appending_a_token_copies_that_token_only():
    cache = KeyValueCache()
    places = [cache.append(numbered(1, 1, i)).keys.data_ptr() for i in range(200)]
    assert len(set(places)) <= 6  # 16, then doubled


def test_a_cache_selects_rows_in_order_and_goes_on_from_them():
    cache = KeyValueCache()
    cache.append(numbered(3, 5, 0))
    cache.select(torch.tensor([2, 0, 0, 2]))
    seen = cache.append(numbered(4, 20, 5))
    assert seen.keys[:, 0, :5, 0].tolist() == [[row * 1000.0 + i for i in range(5)] for row in (2, 0, 0, 2)]
    assert torch.equal(seen.keys[:, :, 5:], numbered(4, 20, 5).keys)
    assert torch.equal(seen.values, -seen.keys)


def test_key_values_select_rows():
    chosen = numbered(3, 2, 0).select(torch.tensor([1, 1]))
    assert torch.equal(chosen.keys, numbered(3, 2, 0).keys[[1, 1]])
    assert torch.equal(chosen.values, numbered(3, 2, 0).values[[1, 1]])


def test_keys_and_values_have_no_bias_since_it_would_be_inert():
    names = {name for name, _ in make().named_parameters()}
    assert names == {"query.weight", "query.bias", "key_value.weight", "out.weight", "out.bias"}


@pytest.mark.parametrize("heads", [3, 0])
def test_a_width_that_heads_do_not_divide_is_refused(heads):
    with pytest.raises(ValueError, match=f"width 8 is not a multiple of heads {heads}"):
        Attention(8, heads)


@pytest.mark.parametrize("prefix, words", [(3, 4), (0, 3), (2, 0), (1, 1)])
def test_a_prefix_is_read_both_ways_and_words_only_from_behind(prefix, words):
    wanted = [
        [(reads < prefix and read < prefix) or (reads >= prefix and read <= reads) for read in range(prefix + words)]
        for reads in range(prefix + words)
    ]
    assert prefix_causal_keep(prefix, words).tolist() == wanted
