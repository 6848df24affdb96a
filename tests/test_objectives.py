"""Captioning: labels shifted once, pads out of it, sums that do not depend on how a batch is cut."""

import pytest
import torch

from chiasm.objectives import Captioning
from chiasm.types import Batch

LENGTHS = [7, 4, 3, 5, 6]


@pytest.fixture
def batch(make_images):
    ids = torch.randint(3, 11, (5, 7), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 1
    for row, length in zip(ids, LENGTHS, strict=True):
        row[length - 1] = 2
        row[length:] = 0
    names = torch.arange(5)
    return Batch(images=make_images(5), ids=ids, keep=ids != 0, image_ids=names, text_ids=names, keys=tuple("abcde"))


def naive(model, batch, smoothing):
    """Each caption by itself and without pads, each token from those before it."""
    smoothed = plain = 0.0
    for row, length in enumerate(LENGTHS):
        for place in range(1, length):
            ids = batch.ids[row : row + 1, :place]
            log_probs = model.head(model(batch.images[row : row + 1], ids))[0, -1].log_softmax(-1)
            gain = log_probs[batch.ids[row, place]]
            plain -= gain
            smoothed -= (1 - smoothing) * gain + smoothing * log_probs.mean()
    return {"loss": smoothed, "token_loss": plain}


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_it_equals_a_loop_over_tokens_that_never_sees_a_pad_or_the_answer(make_captioner, batch, smoothing):
    model = make_captioner()
    losses, wanted = Captioning(label_smoothing=smoothing)(model, batch), naive(model, batch, smoothing)
    assert list(losses) == ["loss", "token_loss"]  # the first is minimised
    for name, value in losses.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-4)


def test_it_counts_every_token_but_bos_and_pads(batch):
    assert Captioning().count(batch) == sum(length - 1 for length in LENGTHS)


def test_what_stands_at_pads_does_not_matter(make_captioner, batch):
    model = make_captioner()
    changed = Batch(**vars(batch) | {"ids": torch.where(batch.keep, batch.ids, 9)})
    for objective in (Captioning(), Captioning(label_smoothing=0.3)):
        first, second = objective(model, batch), objective(model, changed)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_parts_give_the_whole_batch_s_loss_and_gradient(make_captioner, batch, rows):
    model, objective = make_captioner(), Captioning(label_smoothing=0.1)
    model.double()
    batch = Batch(**vars(batch) | {"images": batch.images.double()})
    whole = objective(model, batch)
    wanted = torch.autograd.grad(whole["loss"] / objective.count(batch), list(model.parameters()))
    sums = dict.fromkeys(whole, 0.0)
    for part in batch.split(rows):
        losses = objective(model, part)
        (losses["loss"] / objective.count(batch)).backward()
        sums = {name: sums[name] + value for name, value in losses.items()}
    assert sum(objective.count(part) for part in batch.split(rows)) == objective.count(batch)
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_targets_end_with_the_end(make_captioner, batch):
    model = make_captioner()
    before = Captioning()(model, batch)["token_loss"]
    other = batch.ids.clone()
    other[2, LENGTHS[2] - 1] = 5  # the same input to every prediction but the last one's target
    after = Captioning()(model, Batch(**vars(batch) | {"ids": other}))["token_loss"]
    log_probs = model.head(model(batch.images, batch.ids))[2, LENGTHS[2] - 2].log_softmax(-1)
    torch.testing.assert_close(after - before, log_probs[2] - log_probs[5], rtol=1e-3, atol=1e-3)
