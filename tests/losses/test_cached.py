"""Gradients cached by parts against those of the whole batch, with dropout, under autocast, with a locked tower."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from chiasm.losses import info_nce, sigmoid_pairs
from chiasm.losses.cached import cached_backward, refuse_batch_norm

ROWS = 21
IDS = torch.arange(ROWS) % 17, torch.arange(ROWS) % 19


class Dual(nn.Module):
    """Two towers with dropout, log-scale and bias."""

    def __init__(self, dropout=0.4):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (
            nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 6)) for _ in range(2)
        )
        self.log_scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-3.0))

    def forward(self, pictures, texts):
        return normalize(self.image(pictures).float(), dim=1), normalize(self.text(texts).float(), dim=1)

    def info_nce(self, images, texts):
        return info_nce(images, texts, self.log_scale, *IDS)

    def sigmoid(self, images, texts):
        return sigmoid_pairs(images, texts, self.log_scale, self.bias, *IDS)


def parts_of(model, rows=5):
    """The model on consecutive parts of one batch, the last smaller, as calls."""
    g = torch.Generator().manual_seed(1)
    batch = zip(
        torch.randn(ROWS, 8, generator=g).split(rows), torch.randn(ROWS, 8, generator=g).split(rows), strict=True
    )
    return [lambda part=part: model(*part) for part in batch]


def whole(parts, loss):
    """The full batch's loss and gradients with one graph; dropout's masks are drawn part by part, as they come."""
    value = loss(*(torch.cat(side) for side in zip(*(part() for part in parts), strict=True)))
    value.backward()
    return value.item()


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def both_ways(run, **model_options):
    """Value, gradients and the next random number of `run(method, model)` by parts and at once, from one seed."""
    seen = []
    for method in (cached_backward, whole):
        model = Dual(**model_options)
        torch.manual_seed(7)
        seen.append((run(method, model), gradients(model), torch.rand(())))
    return seen


@pytest.mark.parametrize("rows", [1, 5, ROWS])
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_it_equals_the_whole_batch_with_dropout_on(name, rows):
    (got, ours, after), (wanted, theirs, after_whole) = both_ways(
        lambda method, model: method(parts_of(model, rows), getattr(model, name))
    )
    assert got == pytest.approx(wanted, rel=1e-5)
    assert ours.keys() == theirs.keys() and len(ours) == (10 if name == "sigmoid" else 9)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert after == after_whole  # the replay leaves the generator where one pass would


def test_masks_differ_between_parts():
    """Equal rows in every part come out different: dropout is not one mask replayed for all."""
    model, seen = Dual(), []
    row = torch.ones(2, 8)

    def part():
        seen.append(model(row, row))
        return seen[-1]

    cached_backward([part, part], lambda images, texts: images.sum() + texts.sum())
    first, second, first_again, second_again = (images for images, _ in seen)
    assert not torch.equal(first, second)
    assert torch.equal(first, first_again) and torch.equal(second, second_again)


def test_gradients_add_to_what_is_there():
    model = Dual(dropout=0.0)
    cached_backward(parts_of(model), model.sigmoid)
    once = {name: gradient.clone() for name, gradient in gradients(model).items()}
    cached_backward(parts_of(model), model.sigmoid)
    torch.testing.assert_close(gradients(model), {name: 2 * gradient for name, gradient in once.items()})


def test_it_equals_the_whole_batch_under_autocast():
    def run(method, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return method(parts_of(model), model.sigmoid)

    (got, ours, _), (wanted, theirs, _) = both_ways(run)
    assert got == pytest.approx(wanted, rel=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():  # sums over rows are rounded to bf16 part by part
        assert (ours[name] - gradient).norm() < 0.02 * gradient.norm(), name


def test_what_was_fp32_under_autocast_stays_so_in_the_backward_passes():
    """Towers and loss that leave autocast are as exact inside it as without it."""

    def run(method, model):
        def in_fp32(part):
            with torch.autocast("cpu", enabled=False):
                return part()

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=method is cached_backward):
            return method([lambda part=part: in_fp32(part) for part in parts_of(model)], model.info_nce)

    (_, ours, _), (_, theirs, _) = both_ways(run)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_locked_tower_gets_no_gradient_and_the_other_its_own():
    def run(method, model):
        model.image.requires_grad_(False)
        return method(parts_of(model), model.info_nce)

    (_, ours, _), (_, theirs, _) = both_ways(run)
    assert {name.split(".")[0] for name in ours} == {"text", "log_scale"}
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_what_the_loss_reads_and_what_is_not_locked_gets_gradients():
    model = Dual()
    cached_backward(parts_of(model), lambda images, texts: images.sum())
    assert all(gradient.any() == name.startswith("image") for name, gradient in gradients(model).items())
    model = Dual().requires_grad_(False)
    model.log_scale.requires_grad_()
    cached_backward(parts_of(model), model.info_nce)
    assert list(gradients(model)) == ["log_scale"]


def test_accumulating_parts_losses_is_not_the_same():
    """Each part as a batch of its own misses the negatives of the others: the mistake that this file exists for."""
    (_, ours, _), _ = both_ways(lambda method, model: method(parts_of(model), model.info_nce), dropout=0.0)
    model = Dual(dropout=0.0)
    for part, *ids in zip(parts_of(model), *(side.split(5) for side in IDS), strict=True):
        (info_nce(*part(), model.log_scale, *ids) * len(ids[0]) / ROWS).backward()
    assert (gradients(model)["log_scale"] - ours["log_scale"]).abs() > 0.1


def test_one_part_s_graph_lives_at_a_time():
    model, alive = Dual(), []

    def part(rows):
        images, texts = model(*rows)
        if images.requires_grad:
            alive.append(0)
            images.register_hook(lambda gradient: alive.append(-1))
        return images, texts

    batch = torch.randn(3, 7, 8)
    cached_backward([lambda rows=rows: part((rows, rows)) for rows in batch], model.sigmoid)
    assert alive == [0, -1] * 3


def test_batch_norm_is_refused_by_name_unless_it_reads_running_statistics():
    model = Dual()
    refuse_batch_norm(model)
    model.image.insert(1, nn.BatchNorm1d(32))
    with pytest.raises(ValueError, match=r"image\.1 is a BatchNorm1d"):
        refuse_batch_norm(model)
    model.image.eval()
    refuse_batch_norm(model)
    model.image[1] = nn.BatchNorm1d(32, track_running_stats=False).eval()
    with pytest.raises(ValueError, match=r"image\.1 is a BatchNorm1d"):
        refuse_batch_norm(model)


def test_no_parts_are_refused():
    with pytest.raises(ValueError, match="no parts"):
        cached_backward([], Dual().info_nce)
