"""Cross-entropy against a loop, smoothed and plain."""

import math

import pytest
import torch

from chiasm.losses import cross_entropy


def naive(logits, targets, smoothing):
    """Cross-entropy against targets of which `smoothing` is spread evenly over the vocabulary (1512.00567)."""
    smoothed = plain = 0.0
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        total = math.log(sum(map(math.exp, row)))
        for token, logit in enumerate(row):
            share = (1 - smoothing) * (token == target) + smoothing / len(row)
            smoothed -= share * (logit - total)
            plain -= (token == target) * (logit - total)
    return smoothed, plain


def drawn():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 9, generator=generator) * 3, torch.randint(9, (6,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_it_equals_the_naive_twin(smoothing):
    logits, targets = drawn()
    got = cross_entropy(logits, targets, smoothing)
    assert [value.item() for value in got] == pytest.approx(naive(logits, targets, smoothing), rel=1e-5)


def test_it_equals_torch_s_cross_entropy_in_value_and_gradient():
    logits, targets = drawn()
    logits.requires_grad_()
    smoothed, plain = cross_entropy(logits, targets, 0.2)
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(smoothed, wanted)
    torch.testing.assert_close(torch.autograd.grad(smoothed, logits), torch.autograd.grad(wanted, logits))
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


def test_parts_sum_to_the_whole():
    logits, targets = drawn()
    whole = cross_entropy(logits, targets, 0.1)
    parts = [cross_entropy(logits[part], targets[part], 0.1) for part in (slice(0, 1), slice(1, 5), slice(5, 6))]
    for name, value in enumerate(whole):
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_it_is_computed_in_fp32():
    logits, targets = drawn()
    rough = logits.bfloat16()
    got = cross_entropy(rough, targets, 0.1)
    assert all(value.dtype == torch.float32 for value in got)
    torch.testing.assert_close(got, cross_entropy(rough.float(), targets, 0.1), rtol=0, atol=0)


def test_no_tokens_lose_nothing():
    assert [v.item() for v in cross_entropy(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), 0.1)] == [0.0, 0.0]
