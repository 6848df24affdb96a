"""Classification: unlabelled examples out of it, any cut of a batch, smoothing, chance, advice."""

import math

import pytest
import torch

from chiasm.models import Classifier, FusionClassifierConfig, build_model
from chiasm.models.fusion import EarlyConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.objectives import Classification, objective_of
from chiasm.types import Batch

CLASSES = ("a", "b", "c")
LABELS = [2, -1, 0, 2, 1]


@pytest.fixture
def model():
    sizes = {"width": 16, "depth": 1, "heads": 2}
    text = TextConfig(**sizes, causal=False, pool="mean", vocabulary=11, rules=TextRules(context=12))
    vision = VitConfig(size=(16, 16), **sizes)
    torch.manual_seed(0)
    config = FusionClassifierConfig(vision=vision, text=text, fusion=EarlyConfig(**sizes), classes=CLASSES)
    model = build_model(config).eval().double()
    model.head.weight.data.mul_(40)
    return model


@pytest.fixture
def batch(make_images):
    ids = torch.randint(3, 11, (5, 7), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 1, 2
    names = torch.arange(5)
    return Batch(images=make_images(5).double(), ids=ids, keep=ids != 0, image_ids=names, text_ids=names,
                 keys=tuple("abcde"), labels=torch.tensor(LABELS))  # fmt: skip


class Fixed(Classifier, torch.nn.Module):
    """Gives these logits, which are its parameter, whatever it is shown."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    @property
    def classes(self):
        return tuple(map(str, range(self.logits.shape[1])))

    def classify(self, batch):
        return self.logits[batch.image_ids]


def labelled(labels):
    """A batch of so many examples of nothing."""
    rows = len(labels)
    ids, names = torch.zeros(rows, 0, dtype=torch.long), torch.arange(rows)
    return Batch(images=torch.zeros(rows, 3, 0, 0), ids=ids, keep=ids != 0, image_ids=names, text_ids=names,
                 keys=tuple(map(str, range(rows))), labels=torch.tensor(labels))  # fmt: skip


def backward(model, objective, batch, parts):
    """What `backward` reports, and the gradients that it leaves."""
    model.zero_grad()
    told = objective.backward(model, batch, parts, lambda loss: loss.backward())
    return told, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_it_equals_a_loop_over_labelled_examples(model, batch, smoothing):
    losses = Classification(label_smoothing=smoothing)(model, batch)
    log_probs, smoothed, plain, right = model.classify(batch).log_softmax(-1), 0.0, 0.0, 0
    for row, label in enumerate(LABELS):
        if label >= 0:
            plain -= log_probs[row, label]
            smoothed -= (1 - smoothing) * log_probs[row, label] + smoothing * log_probs[row].mean()
            right += int(log_probs[row].argmax()) == label
    assert list(losses) == ["loss", "class_loss", "right"]  # the first is minimised
    torch.testing.assert_close(losses["loss"].double(), smoothed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["class_loss"].double(), plain, rtol=1e-5, atol=1e-5)
    assert int(losses["right"]) == right


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_give_the_whole_batch_s_loss_and_gradient(model, batch, parts):
    objective = Classification(label_smoothing=0.1)
    whole, wanted = backward(model, objective, batch, 1)
    told, got = backward(model, objective, batch, parts)
    assert told == pytest.approx(whole, rel=1e-5)
    assert tuple(told) == ("loss", *Classification.columns)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-7)
    losses = objective(model, batch)
    assert whole["loss"] == pytest.approx(float(losses["loss"].detach()) / 4, rel=1e-5)
    assert whole["accuracy"] == pytest.approx(int(losses["right"]) / 4)


def test_examples_without_a_label_leave_no_trace(model, batch):
    told, gradients = backward(model, Classification(), batch, 1)
    images = batch.images.clone()
    images[1] = 9.0
    other, others = backward(model, Classification(), Batch(**vars(batch) | {"images": images}), 1)
    assert told == other and all(torch.equal(gradients[name], others[name]) for name in gradients)


def test_a_batch_of_unlabelled_examples_teaches_nothing(model, batch):
    told, gradients = backward(model, Classification(), Batch(**vars(batch) | {"labels": torch.full((5,), -1)}), 2)
    assert set(told.values()) == {0.0} and not any(g.any() for g in gradients.values())
    assert Classification().validate(model, Batch(**vars(batch) | {"labels": torch.full((5,), -1)})) == (0.0, 0)


def test_a_batch_without_labels_is_an_error(model, batch):
    bare = Batch(**vars(batch) | {"labels": None})
    for ask in (lambda: Classification()(model, bare), lambda: backward(model, Classification(), bare, 1)):
        with pytest.raises(ValueError, match="no labels"):
            ask()


def test_validation_sums_the_plain_loss_over_labelled_examples(model, batch):
    objective = Classification(label_smoothing=0.3)
    total, count = objective.validate(model, batch)
    assert (total, count) == (pytest.approx(float(objective(model, batch)["class_loss"].detach())), 4)


@pytest.mark.parametrize("classes", [3, 500])
def test_a_model_that_answers_all_alike_is_at_chance_however_many_classes(classes):
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(1)).expand(64, -1).clone()
    labels = torch.randint(classes, (64,), generator=torch.Generator().manual_seed(2)).tolist()
    told, _ = backward(Fixed(logits), Classification(), labelled(labels), 3)
    assert told["class_loss"] == pytest.approx(told["chance"], rel=1e-5)
    assert Classification().advice([told]) is not None


def test_a_model_that_is_always_right_has_the_entropy_of_the_labels_as_chance():
    labels = [0, 0, 0, 1]
    told, _ = backward(Fixed(30 * torch.eye(2)[labels]), Classification(), labelled(labels), 2)
    assert told["accuracy"] == 1 and told["class_loss"] < 1e-6
    assert told["chance"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-4)
    assert Classification().advice([told]) is None


def test_logits_are_compared_in_fp32():
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.25]], dtype=torch.bfloat16)
    losses = Classification()(Fixed(logits), labelled([1, 0]))
    assert losses["loss"].dtype == torch.float32 and losses["loss"].item() == pytest.approx(120.25)


def test_the_plain_loss_has_no_choices_that_depend_on_values(model, batch):
    first = Batch(**vars(batch) | {"labels": torch.zeros(5, dtype=torch.long)})
    torch.testing.assert_close(Classification().plain(model, batch), Classification()(model, first)["loss"])


def row(loss, chance=2.0, accuracy=0.5):
    return {"step": 1.0, "loss": loss + 1, "class_loss": loss, "chance": chance, "accuracy": accuracy, "val_loss": None}


def test_a_loss_at_chance_brings_advice():
    advice = Classification().advice([row(1.95), row(1.99)])
    assert advice.startswith("The loss, 1.970, is that of a model that answers every example alike (2.000)")
    for word in ("learning_rate", "warmup", "labels belong"):
        assert word in advice
    assert Classification().advice([row(1.95), row(1.9)]) is None


def test_the_ending_is_told():
    told = Classification().ending(None, [row(0.25, accuracy=0.875), row(0.35, accuracy=0.925)])
    assert told == [
        "the training loss ended at 0.300; 2.000 would be chance; 90.0 % of the last training examples were answered "
        "right"
    ]


def test_it_is_what_classifiers_are_trained_for(model):
    assert isinstance(objective_of(model.config), Classification)
