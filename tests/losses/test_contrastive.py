"""Contrastive losses against loops, at their floors, and where others went wrong; chunked ones against plain ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from chiasm.losses import info_nce, info_nce_floor, sigmoid_pairs
from chiasm.losses.contrastive import info_nce_of_rows
from chiasm.losses.positives import count_positives, positives, positives_of_tiles

LOSSES = {"info_nce": info_nce, "sigmoid_pairs": sigmoid_pairs}


def drawn(pairs=11, width=6, kinds=7, seed=0, dtype=torch.float32):
    """Unit embeddings, log-scale, bias, and ids of which some repeat."""
    g = torch.Generator().manual_seed(seed)
    sides = [normalize(torch.randn(pairs, width, generator=g, dtype=torch.float64), dim=1).to(dtype) for _ in range(2)]
    scale, bias = torch.tensor(2.3, dtype=dtype), torch.tensor(-1.7, dtype=dtype)
    leaves = [leaf.requires_grad_() for leaf in (*sides, scale, bias)]
    return leaves, [torch.randint(kinds, (pairs,), generator=g) for _ in range(2)]


def inputs(name, leaves):
    return leaves if name == "sigmoid_pairs" else leaves[:3]


def value_and_gradients(name, leaves, ids, **options):
    leaves = inputs(name, leaves)
    loss = LOSSES[name](*leaves, *ids, **options)
    return loss.detach(), torch.autograd.grad(loss, leaves)


def assert_equal_to_1e_5(got, wanted):
    torch.testing.assert_close(got[0].double(), wanted[0].double(), rtol=1e-5, atol=0)
    for g, w in zip(got[1], wanted[1], strict=True):
        assert (g - w).abs().max() <= 1e-5 * w.abs().max()


def naive(name, leaves, ids):
    images, texts, log_scale, bias = (leaf.detach().double().tolist() for leaf in leaves)
    image_ids, text_ids = (side.tolist() for side in ids)
    b = len(images)
    dots = [[math.exp(log_scale) * sum(x * y for x, y in zip(u, v, strict=True)) for v in texts] for u in images]
    same = [[image_ids[i] == image_ids[j] or text_ids[i] == text_ids[j] for j in range(b)] for i in range(b)]
    if name == "sigmoid_pairs":
        signs = [[1 if same[i][j] else -1 for j in range(b)] for i in range(b)]
        return sum(math.log1p(math.exp(-signs[i][j] * (dots[i][j] + bias))) for i in range(b) for j in range(b)) / b
    total = 0.0
    for matrix in (dots, list(zip(*dots, strict=True))):
        for i, row in enumerate(matrix):
            probabilities = [math.exp(z) / sum(map(math.exp, row)) for z in row]
            own = [-math.log(probabilities[j]) for j in range(b) if same[i][j]]
            total += sum(own) / len(own)
    return total / (2 * b)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_it_equals_the_naive_twin(name, chunk):
    leaves, ids = drawn()
    got = LOSSES[name](*inputs(name, leaves), *ids, chunk=chunk)
    assert got.item() == pytest.approx(naive(name, leaves, ids), rel=1e-5)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name, chunk):
    leaves, ids = drawn(pairs=5, width=3, kinds=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *at: LOSSES[name](*at, *ids, chunk=chunk), inputs(name, leaves))


@pytest.mark.parametrize("chunk", [1, 5, 16, 33, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_chunked_equals_plain(name, chunk):
    leaves, ids = drawn(pairs=33, width=8, kinds=20)
    wanted = value_and_gradients(name, drawn(pairs=33, width=8, kinds=20, dtype=torch.float64)[0], ids)
    assert_equal_to_1e_5(value_and_gradients(name, leaves, ids), wanted)
    assert_equal_to_1e_5(value_and_gradients(name, leaves, ids, chunk=chunk), wanted)


@given(
    ids=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12),
    chunk=st.integers(1, 14),
    seed=st.integers(0, 99),
    name=st.sampled_from(sorted(LOSSES)),
)
def test_chunked_equals_plain_whatever_repeats(ids, chunk, seed, name):
    leaves, _ = drawn(pairs=len(ids), seed=seed, dtype=torch.float64)
    ids = torch.tensor(ids).T
    wanted, got = (value_and_gradients(name, leaves, ids, chunk=size) for size in (None, chunk))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_chunked_keeps_no_matrix():
    """The largest tensor saved for the backward pass, or made in it, is not of batch x batch values."""
    leaves, ids = drawn(pairs=256, width=4, kinds=200)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    for name in LOSSES:
        with Watch():
            value_and_gradients(name, leaves, ids, chunk=16)
        assert max(sizes) <= 4 * 256
        with Watch():
            value_and_gradients(name, leaves, ids)
        assert max(sizes) == 256**2  # it would have been seen
        sizes.clear()


@pytest.mark.parametrize("chunk", [None, 1, 8])
def test_a_batch_of_one_loses_exactly_nothing(chunk):
    for seed in range(20):
        leaves, ids = drawn(pairs=1, width=512, seed=seed)
        loss, gradients = value_and_gradients("info_nce", leaves, ids, chunk=chunk)
        assert loss == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("chunk", [None, 3])
def test_captions_that_repeat_reach_the_floor_and_no_gradient(chunk):
    """Perfect embeddings of repeated captions lose the mean of ln(repeats), not zero; equal captions do not repel."""
    ids = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    images = torch.eye(4)[ids].requires_grad_()
    log_scale = torch.tensor(math.log(100.0), requires_grad=True)
    floor = info_nce_floor(torch.arange(7), ids)
    assert floor == pytest.approx((3 * math.log(3) + 2 * math.log(2)) / 7)
    loss = info_nce(images, images.detach(), log_scale, torch.arange(7), ids, chunk=chunk)
    assert loss.item() == pytest.approx(floor, abs=1e-5)
    assert torch.autograd.grad(loss, images)[0].abs().max() < 1e-4


def test_a_collapsed_model_loses_ln_of_the_batch():
    one = normalize(torch.ones(9, 4), dim=1)
    loss = info_nce(one, one, torch.tensor(4.6), torch.arange(9), torch.arange(9))
    assert loss.item() == pytest.approx(math.log(9), rel=1e-5)


def test_sigmoid_is_summed_over_the_matrix_and_divided_by_the_batch():
    """At scale 0 and bias 0 every one of the b x b pairs loses ln 2: b ln 2 a row, not ln 2."""
    leaves, ids = drawn(pairs=8)
    loss = sigmoid_pairs(*leaves[:2], torch.tensor(-200.0), torch.tensor(0.0), *ids)
    assert loss.item() == pytest.approx(8 * math.log(2), rel=1e-6)


def test_equal_pictures_are_positives_as_equal_texts_are():
    ids = torch.tensor([[0, 0, 1, 2], [5, 6, 6, 7]])
    wanted = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert positives(ids, ids).int().tolist() == wanted
    assert info_nce_floor(*ids) == pytest.approx(sum(math.log(sum(row)) for row in wanted) / 4)


@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 1, 2**62])), min_size=1, max_size=9),
    columns=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 1, 2**62])), min_size=1, max_size=9),
)
def test_positives_are_counted_without_the_matrix(rows, columns):
    rows, columns = torch.tensor(rows).T, torch.tensor(columns).T
    assert count_positives(rows, columns).tolist() == positives(rows, columns).sum(1).tolist()


@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9),
    columns=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9),
    chunk=st.integers(1, 10),
    dense=st.sampled_from([0, 64]),
)
def test_positives_of_tiles_are_those_of_the_matrix(rows, columns, chunk, dense):
    rows, columns = torch.tensor(rows).T, torch.tensor(columns).T
    wanted = [
        positives(part, other).nonzero().tolist()
        for part in rows.split(chunk, dim=1)
        for other in columns.split(chunk, dim=1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chiasm.losses.positives.DENSE", dense)
        found = list(positives_of_tiles(rows, columns, chunk))
    assert [sorted(torch.stack(places, dim=1).tolist()) for places in found] == wanted


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_round_the_plain_one(name):
    """Its forward and backward passes are fp32; bf16 comes in rounded."""
    leaves, ids = drawn()
    wanted = value_and_gradients(name, leaves, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](*inputs(name, leaves), *ids)
    assert loss.dtype == torch.float32
    assert_equal_to_1e_5((loss.detach(), torch.autograd.grad(loss, inputs(name, leaves))), wanted)
    rough = [leaf.detach().bfloat16() for leaf in inputs(name, leaves)]
    assert LOSSES[name](*rough, *ids) == LOSSES[name](*(r.float() for r in rough), *ids)


def close_pairs(pairs=300, width=64, kinds=10_000, noise=0.1, scale=100.0):
    """Embeddings of which a pair's two lie near each other, as fp32 leaves and as fp64 ones, and their ids."""
    g = torch.Generator().manual_seed(3)
    images = normalize(torch.randn(pairs, width, generator=g), dim=1)
    texts = normalize(images + noise * torch.randn(pairs, width, generator=g), dim=1)
    leaves = [leaf.requires_grad_() for leaf in (images, texts, torch.tensor(scale).log(), torch.tensor(-5.0))]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return leaves, doubles, [torch.randint(kinds, (pairs,), generator=g) for _ in range(2)]


def errors(gradients, wanted):
    return [((g.double() - w).norm() / w.norm()).item() for g, w in zip(gradients[1][:2], wanted[1][:2], strict=True)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kinds", [10_000, 40, 2])
def test_tiles_in_bf16_are_nearly_the_same_and_better_than_bf16_logits(name, kinds):
    leaves, doubles, ids = close_pairs(kinds=kinds, scale=14.3)
    wanted = value_and_gradients(name, doubles, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = value_and_gradients(name, leaves, ids, chunk=128)
        logits = leaves[0] @ leaves[1].T * leaves[2].exp()  # open_clip's, under autocast
        theirs = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
        theirs = (theirs + torch.nn.functional.cross_entropy(logits.T, torch.arange(len(logits)))) / 2
    assert got[0].dtype == got[1][0].dtype == torch.float32
    assert got[0].item() == pytest.approx(wanted[0].item(), rel=2e-3)
    assert max(errors(got, wanted)) < 0.01
    if name == "info_nce" and kinds == 10_000:
        alone = value_and_gradients(name, doubles, [torch.arange(len(logits))] * 2)
        assert max(errors(got, wanted)) < min(errors((0, torch.autograd.grad(theirs, leaves[:2])), alone)) / 2
    rough = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]
    of_rough = value_and_gradients(name, rough, ids, chunk=128)
    assert of_rough[1][0].dtype == torch.bfloat16
    exact = value_and_gradients(name, [leaf.detach().double().requires_grad_() for leaf in rough], ids)
    assert of_rough[0].item() == pytest.approx(exact[0].item(), rel=2e-3)
    assert torch.get_float32_matmul_precision() == "highest"  # as it was before


@pytest.mark.parametrize("kinds", [10_000, 40])
@pytest.mark.parametrize("scale", [14.3, 100.0, 250.0])
@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_large_scales_are_exact_in_fp32(scale, noise, kinds):
    leaves, doubles, ids = close_pairs(noise=noise, scale=scale, kinds=kinds)
    got, wanted = (value_and_gradients("info_nce", side, ids, chunk=c) for side, c in ((leaves, 70), (doubles, None)))
    assert got[0].item() == pytest.approx(wanted[0].item(), rel=1e-5, abs=1e-5)
    for g, w in zip(got[1], wanted[1], strict=True):
        assert (g - w).abs().max() <= 1e-6 * scale / 14.3 * w.abs().max()


def test_pairs_that_are_solved_have_exact_gradients():
    """1 less a probability near 1 is what the rest of its row has: a difference in fp32 is rounding, and grows it."""
    leaves, doubles, _ = close_pairs(pairs=600, noise=0.1, scale=100.0)
    ids = [torch.arange(600)] * 2
    got, wanted = (value_and_gradients("info_nce", side, ids, chunk=c) for side, c in ((leaves, 70), (doubles, None)))
    assert 0 < wanted[0].item() < 1e-12
    assert got[0].item() == pytest.approx(wanted[0].item(), rel=0.01, abs=0)
    assert max(errors(got, wanted)) < 0.01


@pytest.mark.parametrize("both", [True, False])
def test_rows_that_one_shift_does_not_fit_are_summed_in_fp64(both):
    """One pair opposite to all others: at scale 200 its sums lie e^400 below theirs, which fp32 does not span."""
    images = normalize(torch.tensor([[1.0, 0.01 * k] for k in range(6)] + [[1.0, 0.0]]), dim=1)
    texts = normalize(torch.tensor([[1.0, 0.02 * k] for k in range(6)] + [[-1.0, 0.1]]), dim=1)
    images = torch.cat([images, -images[:1]])
    texts = torch.cat([texts, texts[:1]])
    ids = torch.stack([torch.arange(8)] * 2)

    def run(dtype, chunk):
        leaves = [t.to(dtype).detach().requires_grad_() for t in (images, texts, torch.tensor(200.0).log())]
        loss = info_nce_of_rows(*leaves, ids, ids, chunk=chunk, both=both)
        return loss.detach(), torch.autograd.grad(loss, leaves)

    got, wanted = run(torch.float32, 3), run(torch.float64, None)
    assert got[0].item() == pytest.approx(wanted[0].item(), rel=1e-5)
    for g, w in zip(got[1], wanted[1], strict=True):
        assert (g - w).abs().max() <= 1e-5 * w.abs().max()


def test_scales_beyond_fp64_are_refused():
    leaves, _, ids = close_pairs(pairs=20, scale=5000.0)
    with pytest.raises(ValueError, match="similarities times scale reach 5000"):
        info_nce(*leaves[:3], *ids, chunk=8)


def test_a_chunk_of_no_rows_is_refused():
    leaves, ids = drawn()
    for name in LOSSES:
        with pytest.raises(ValueError, match="chunk is 0"):
            LOSSES[name](*inputs(name, leaves), *ids, chunk=0)
