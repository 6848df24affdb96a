"""What Perceivers are trained for: gaps of texts, and what is hidden of any modality."""

from dataclasses import replace

import pytest
import torch

from chiasm.models import PerceiverAutoencoderConfig, PerceiverMlmConfig, build_model
from chiasm.models.inputs import Given, Inputs, PictureInput, TextInput, WaveInput
from chiasm.models.language import TextRules
from chiasm.models.perceiver import LatentConfig
from chiasm.objectives import MaskedText, Reconstruction
from chiasm.objectives.masked import keyed_generator
from chiasm.types import Batch

TEXT = TextInput(width=8, rules=TextRules(context=9), vocabulary=20)
SMALL = LatentConfig(latents=4, width=16, depth=1, heads=2)
INPUTS = Inputs(
    picture=PictureInput(size=(8, 8), patch_pixels=4), text=TEXT,
    sound=WaveInput(rate_hertz=100, seconds=0.5, patch_samples=8),
)  # fmt: skip


def make(config):
    torch.manual_seed(0)
    return build_model(config).eval()


@pytest.fixture
def masked_model():
    return make(PerceiverMlmConfig(inputs=Inputs(text=TEXT), latents=SMALL))


@pytest.fixture
def autoencoder():
    return make(PerceiverAutoencoderConfig(inputs=INPUTS, latents=SMALL, query_width=16))


def batch_of(rows=6):
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 20, (rows, 7), generator=g)
    lengths = torch.tensor([7, 4, 3, 6, 7, 5])[:rows]
    ids[:, 0] = 1
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1], row[length:] = 2, 0
    numbers = torch.arange(rows)
    return Batch(
        images=torch.randn(rows, 3, 8, 8, generator=g), ids=ids, keep=torch.arange(7) < lengths[:, None],
        image_ids=numbers, text_ids=numbers, keys=tuple("abcdef"[:rows]),
        sounds=torch.randn(rows, 40, generator=g),
        sound_keep=torch.arange(40) < torch.tensor([40, 23, 8, 31, 40, 16])[:rows, None],
    )  # fmt: skip


def test_gaps_are_words_and_every_text_has_one(masked_model):
    batch = batch_of()
    for seed in range(20):
        gaps = MaskedText(share=0.3).gaps(masked_model, batch, torch.Generator().manual_seed(seed))
        assert gaps.any(1).all()
        assert not (gaps & ((batch.ids < 3) | ~batch.keep)).any()


def test_about_the_share_is_masked(masked_model):
    batch = replace(batch_of(), ids=torch.full((6, 7), 5), keep=torch.ones(6, 7, dtype=torch.bool))
    counts = [MaskedText(share=0.3).gaps(masked_model, batch).float().mean() for _ in range(200)]
    assert 0.28 < torch.stack(counts).mean() < 0.36  # a little more, as every text has a gap


def test_the_loss_is_that_of_the_gaps_alone(masked_model):
    batch = batch_of()
    gaps = MaskedText().gaps(masked_model, batch, keyed_generator(batch))
    losses = MaskedText()(masked_model, batch, gaps)
    logits = masked_model.head(masked_model(batch.ids, batch.keep, gaps))
    expected = sum(torch.nn.functional.cross_entropy(logits[i, j], batch.ids[i, j]) for i, j in gaps.nonzero().tolist())
    torch.testing.assert_close(losses["loss"], expected)


def gradients(objective, model, batch, parts):
    model.zero_grad()
    torch.manual_seed(3)
    told = objective.backward(model, batch, parts, lambda loss: loss.backward())
    return told, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["masked_model", "autoencoder"])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(name, request):
    model = request.getfixturevalue(name)
    objective = MaskedText() if name == "masked_model" else Reconstruction()
    whole, expected = gradients(objective, model, batch_of(), 1)
    parted, found = gradients(objective, model, batch_of(), 3)
    assert whole == pytest.approx(parted, rel=1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["masked_model", "autoencoder"])
def test_validation_is_the_same_whenever_it_is_asked(name, request):
    model = request.getfixturevalue(name)
    objective = MaskedText() if name == "masked_model" else Reconstruction()
    first = objective.validate(model, batch_of())
    torch.rand(5)
    assert objective.validate(model, batch_of()) == first and first[1] > 0


def test_hidden_places_are_real_ones_and_whole_modalities_now_and_then(autoencoder):
    batch = batch_of()
    torch.manual_seed(0)
    real = Reconstruction(share=1.0, whole=0.0).hidden(autoencoder, batch)
    assert torch.equal(real["text"], batch.keep) and real["picture"].all()
    assert real["sound"].sum(1).tolist() == [5, 3, 1, 4, 5, 2]
    whole = Reconstruction(share=0.0, whole=1.0).hidden(autoencoder, batch)
    hidden = torch.stack([torch.stack([(hide == real[name]).all(1), ~hide.any(1)]) for name, hide in whole.items()])
    assert (hidden[:, 0].sum(0) == 1).all() and (hidden[:, 1].sum(0) == 2).all()


def test_the_error_is_of_hidden_values_alone(autoencoder):
    batch, objective = batch_of(), Reconstruction()
    hidden = objective.hidden(autoencoder, batch, keyed_generator(batch))
    errors = objective(autoencoder, batch, hidden)
    values = {
        "picture": Given(batch.images), "text": Given(batch.ids, batch.keep),
        "sound": Given(batch.sounds, batch.sound_keep),
    }  # fmt: skip
    answers = autoencoder(values, hidden)
    pixels = autoencoder.targets("picture", values["picture"]).tokens
    expected = sum(
        (answers["picture"][i, j] - pixels[i, j]).square().mean() for i, j in hidden["picture"].nonzero().tolist()
    )
    torch.testing.assert_close(errors["picture"], expected)
    logits = answers["text"].log_softmax(-1)
    expected = -sum(logits[i, j, batch.ids[i, j]] for i, j in hidden["text"].nonzero().tolist())
    torch.testing.assert_close(errors["text"], expected)


def test_counting_needs_no_values(masked_model, autoencoder):
    for objective, model in ((MaskedText(), masked_model), (Reconstruction(), autoencoder)):
        assert objective.plain(model, batch_of()).requires_grad
