"""Captioning: labels shifted once, pads out of it, any cut of a batch. Contrastive: the same, floor, chance, clamp."""

import math

import pytest
import torch

from chiasm.losses import info_nce, sigmoid_pairs
from chiasm.objectives import Captioning, Contrastive, contrastive
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


SIMILARITIES = pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])


@pytest.fixture
def pairs(batch):
    """The five pairs, of which two share a text and two a picture."""
    return Batch(
        **vars(batch) | {"text_ids": torch.tensor([0, 1, 0, 2, 3]), "image_ids": torch.tensor([0, 1, 2, 3, 3])}
    )


def gradients(model, objective, batch, parts):
    """What `backward` reports, and the gradients that it leaves."""
    torch.manual_seed(7)
    model.zero_grad()
    told = objective.backward(model, batch, parts, lambda loss: loss.backward())
    return told, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal_gradients(got, wanted):
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@SIMILARITIES
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_in_parts_has_the_whole_batch_s_loss_and_gradient(make_clip, pairs, similarity, parts):
    model = make_clip(similarity=similarity).train()
    whole, wanted = gradients(model, Contrastive(), pairs, 1)
    told, got = gradients(model, Contrastive(), pairs, parts)
    assert told == pytest.approx(whole, rel=1e-5)
    assert_equal_gradients(got, wanted)
    (own,) = (p for p in pairs.split(5))
    assert float(Contrastive()(model, own).detach()) == pytest.approx(told["loss"], rel=1e-5)


@SIMILARITIES
def test_parts_with_dropout_have_the_gradient_of_one_batch_under_the_same_masks(make_clip, pairs, similarity):
    model = make_clip(similarity=similarity, dropout=0.3).train()
    told, got = gradients(model, Contrastive(), pairs, 2)
    torch.manual_seed(7)  # the same masks, part by part, but one graph
    parts = [(model.embed_images(p.images), model.embed_texts(p.ids)) for p in pairs.split(3)]
    images, texts = (torch.cat(side) for side in zip(*parts, strict=True))
    ids = pairs.image_ids, pairs.text_ids
    model.zero_grad()
    if similarity == "softmax":
        loss = info_nce(images, texts, model.log_scale, *ids)
    else:
        loss = sigmoid_pairs(images, texts, model.log_scale, model.bias, *ids)
    loss.backward()
    assert told["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_equal_gradients(got, {name: p.grad for name, p in model.named_parameters()})


@SIMILARITIES
@pytest.mark.parametrize("parts", [1, 2])
def test_a_large_batch_is_walked_in_tiles_to_the_same_gradient(make_clip, pairs, similarity, parts, monkeypatch):
    model = make_clip(similarity=similarity)
    whole, wanted = gradients(model, Contrastive(), pairs, parts)
    monkeypatch.setattr(contrastive, "CHUNK", 2)
    chunks = []
    for name, loss in (("info_nce", info_nce), ("sigmoid_pairs", sigmoid_pairs)):
        record = lambda *args, chunk, loss=loss: (chunks.append(chunk), loss(*args, chunk=chunk))[1]  # noqa: E731
        monkeypatch.setattr(contrastive, name, record)
    told, got = gradients(model, Contrastive(), pairs, parts)
    assert chunks == [2]
    assert told == pytest.approx(whole, rel=1e-5)
    assert_equal_gradients(got, wanted)


def test_batch_norm_is_refused_in_parts(make_clip, pairs):
    model = make_clip().train()
    model.project_image = torch.nn.Sequential(torch.nn.BatchNorm1d(16), model.project_image)
    gradients(model, Contrastive(), pairs, 1)
    with pytest.raises(ValueError, match=r"project_image\.0 is a BatchNorm1d"):
        gradients(model, Contrastive(), pairs, 2)


def positives_of(batch):
    same = zip(batch.image_ids.tolist(), batch.text_ids.tolist(), strict=True)
    return [
        [a == c or b == d for c, d in zip(batch.image_ids.tolist(), batch.text_ids.tolist(), strict=True)]
        for a, b in same
    ]


def test_floor_and_excess_of_infonce(make_clip, pairs):
    told, _ = gradients(make_clip(), Contrastive(), pairs, 1)
    floor = sum(math.log(sum(row)) for row in positives_of(pairs)) / 5
    assert floor > 0
    assert told["floor"] == pytest.approx(floor)
    assert told["excess_loss"] == pytest.approx(told["loss"] - floor)
    assert told["scale"] == pytest.approx(1 / 0.07)


def test_the_sigmoid_loss_has_no_floor(make_clip, pairs):
    told, _ = gradients(make_clip(similarity="sigmoid"), Contrastive(), pairs, 1)
    assert (told["floor"], told["excess_loss"]) == (0.0, told["loss"])


@SIMILARITIES
def test_a_collapsed_model_s_loss_is_chance(make_clip, pairs, similarity):
    model, objective = make_clip(similarity=similarity), Contrastive()
    model.embed_images = model.embed_texts = lambda rows: torch.ones(len(rows), 4) / 2
    if model.bias is not None:  # what the bias alone can reach
        share = sum(map(sum, positives_of(pairs))) / 25
        model.bias.data.fill_(math.log(share / (1 - share)) - float(model.log_scale.detach().exp()))
    assert objective.chance(model, pairs) == pytest.approx(float(objective(model, pairs).detach()), rel=1e-5)
    if model.bias is None:
        assert objective.chance(model, pairs) == pytest.approx(math.log(5))


def test_validation_sums_the_excess_over_pairs(make_clip, pairs):
    model, objective = make_clip(), Contrastive()
    told, _ = gradients(model, objective, pairs, 1)
    total, count = objective.validate(model, pairs)
    assert (total / count, count) == (pytest.approx(told["excess_loss"], rel=1e-5), 5)


def test_infonce_s_scale_is_clamped_after_a_step_and_siglip_s_is_not(make_clip):
    for similarity, log_scale, wanted in (
        ("softmax", 5.0, 100),
        ("softmax", 2.0, math.e**2),
        ("sigmoid", 5.0, math.e**5),
    ):
        model = make_clip(similarity=similarity)
        model.log_scale.data.fill_(log_scale)
        Contrastive().after_step(model)
        assert float(model.log_scale.detach().exp()) == pytest.approx(wanted)


def row(loss, floor=0.0):
    """A step of 64 pairs."""
    return {"step": 1.0, "loss": loss, "floor": floor, "chance": math.log(64), "val_loss": None}


def test_a_loss_at_chance_brings_advice():
    at_chance = [row(4.1), row(4.2)]
    advice = Contrastive().advice(at_chance)
    assert advice.startswith("The loss, 4.150, is that of a model that tells nothing apart (4.159")
    for word in ("learning_rate", "warmup", "batch_size", "pictures and texts belong together"):
        assert word in advice
    assert Contrastive().advice([row(4.2), row(3.9)]) is None  # 4.05 is 97 %
    assert Contrastive().advice([row(5.0)]) is not None  # worse than chance is no better
    assert "nothing to tell apart" in Contrastive().advice([row(4.15, floor=4.15)])
    assert Captioning().advice(at_chance) is None


def test_the_ending_names_floor_and_scale(make_clip):
    model = make_clip()
    told = Contrastive().ending(model, [row(0.3, 0.1), row(0.4, 0.2)])
    assert told == [
        "the training loss ended at 0.350; 4.159 would be chance",
        "the loss cannot go below 0.150 here: equal texts or pictures in a batch",
        "the scale of similarities ended at 14.3",
    ]
    assert Captioning().ending(model, [row(4.2)]) == []
