"""Perceivers: what they owe to their inputs, to padding, to the order of things, and to their parameters."""

from dataclasses import replace

import pytest
import torch

from chiasm.config import from_dict, to_dict
from chiasm.models import (
    ModelConfig,
    PerceiverAutoencoderConfig,
    PerceiverClassifierConfig,
    PerceiverMlmConfig,
    build_model,
)
from chiasm.models.autoencoder import PlaceQueries
from chiasm.models.inputs import ConvInput, Given, Inputs, MelInput, PictureInput, Positions, TextInput, WaveInput
from chiasm.models.language import TextRules
from chiasm.models.perceiver import LatentConfig, PerceiverEncoder, ReadConfig, build_read
from chiasm.nn import fourier_features
from chiasm.types import Batch, Encoded

FEW = Positions(bands=3)
TEXT = TextInput(width=6, rules=TextRules(context=9), vocabulary=20)
PICTURE = PictureInput(size=(8, 8), positions=FEW, patch_pixels=2)
WAVE = WaveInput(rate_hertz=100, seconds=0.5, patch_samples=8, positions=FEW)
MEL = MelInput(rate_hertz=1000, seconds=0.05, mels=5, window_seconds=0.02, hop_seconds=0.01, positions=FEW)
SMALL = LatentConfig(latents=5, width=16, depth=2, heads=2)
INPUTS = {
    "all": Inputs(picture=PICTURE, text=TEXT, sound=WAVE),
    "conv-text": Inputs(picture=ConvInput(size=(8, 8), width=5, positions=FEW), text=TEXT),
    "mel": Inputs(sound=MEL),
    "pixels": Inputs(picture=replace(PICTURE, patch_pixels=1, positions=Positions(learned=True, width=3))),
}


def make(config, gain=4.0):
    """A model in evaluation mode whose matrices are enlarged, so that what it reads shows."""
    torch.manual_seed(0)
    model = build_model(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(gain)
    return model.eval()


def classifier(inputs, latents=SMALL):
    return make(PerceiverClassifierConfig(inputs=inputs, latents=latents, classes=("a", "b", "c")))


def batch_of(rows=4, seed=1):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 20, (rows, 7), generator=g)
    lengths = torch.tensor([7, 4, 3, 6])[:rows, None]
    numbers = torch.arange(rows)
    return Batch(
        images=torch.randn(rows, 3, 8, 8, generator=g),
        ids=ids,
        keep=torch.arange(7) < lengths,
        image_ids=numbers,
        text_ids=numbers,
        keys=tuple(map(str, range(rows))),
        sounds=torch.randn(rows, 40, generator=g),
        sound_keep=torch.arange(40) < torch.tensor([40, 23, 8, 31])[:rows, None],
    )


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_logits_and_each_row_on_its_own(inputs):
    model, batch = classifier(inputs), batch_of()
    logits = model.classify(batch)
    assert logits.shape == (4, 3) and model.classes == ("a", "b", "c")
    for i, part in enumerate(batch.split(1)):
        torch.testing.assert_close(model.classify(part)[0], logits[i], rtol=1e-4, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_padding_is_not_read():
    model, batch = classifier(INPUTS["all"]), batch_of()
    loud = replace(
        batch,
        ids=batch.ids.masked_fill(~batch.keep, 5),
        sounds=batch.sounds.masked_fill(~batch.sound_keep, 1e3),
    )
    longer = replace(
        batch,
        ids=torch.nn.functional.pad(batch.ids, (0, 2)),
        keep=torch.nn.functional.pad(batch.keep, (0, 2)),
        sounds=torch.nn.functional.pad(batch.sounds, (0, 10)),
        sound_keep=torch.nn.functional.pad(batch.sound_keep, (0, 10)),
    )
    logits = model.classify(batch)
    for other in (loud, longer):
        torch.testing.assert_close(model.classify(other), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["picture", "text", "sound"])
def test_a_masked_modality_changes_nothing_and_is_as_if_it_were_not_there(name):
    model, batch = classifier(INPUTS["all"]), batch_of()
    values = {
        "picture": Given(batch.images, torch.ones(4, dtype=torch.bool)),
        "text": Given(batch.ids, batch.keep),
        "sound": Given(batch.sounds, batch.sound_keep),
    }
    everything = model(values)
    masked = values | {name: Given(values[name].values, torch.zeros_like(values[name].keep))}
    loud = values | {name: Given(values[name].values.roll(1, 0), torch.zeros_like(values[name].keep))}
    without = {other: value for other, value in values.items() if other != name}
    logits = model(masked)
    assert torch.equal(logits, model(loud))
    torch.testing.assert_close(model(without), logits, rtol=1e-4, atol=1e-4)
    assert (logits - everything).abs().max() > 1e-3
    half = values[name].keep.clone()
    half[0] = False  # of one row only: the others are as before
    some = model(values | {name: Given(values[name].values, half)})
    torch.testing.assert_close(some[1:], everything[1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(some[0], logits[0], rtol=1e-4, atol=1e-4)


def test_with_everything_masked_it_still_answers_and_learns():
    model = classifier(INPUTS["all"]).train()
    nothing = {"text": Given(torch.ones(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.bool))}
    logits = model(nothing)
    torch.testing.assert_close(logits[0], logits[1])
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


LATENTS = {
    "io": SMALL,
    "perceiver-shared": replace(SMALL, stages=3, reads=3),
    "perceiver": replace(SMALL, stages=2, reads=2, shared=False),
    "repeated": replace(SMALL, stages=3, reads=1),
    "widths": replace(SMALL, key_width=8, value_width=24, read=ReadConfig(heads=3, key_width=9, value_width=12)),
    "no-residual": replace(SMALL, read=ReadConfig(residual=False, mlp_ratio=1.0)),
}


@pytest.mark.parametrize("latents", LATENTS.values(), ids=LATENTS)
def test_every_parameter_gets_a_gradient(latents):
    model = classifier(INPUTS["all"], latents).double()
    batch = batch_of()
    batch = replace(batch, images=batch.images.double(), sounds=batch.sounds.double())
    torch.nn.functional.cross_entropy(model.classify(batch), torch.tensor([0, 1, 2, 0])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


def test_stages_share_what_the_paper_shares():
    shared = PerceiverEncoder(replace(SMALL, stages=3, reads=3), 16)
    own = PerceiverEncoder(replace(SMALL, stages=3, reads=3, shared=False), 16)
    assert (len(shared.reads), len(shared.stages)) == (2, 1) and (len(own.reads), len(own.stages)) == (3, 3)


def test_shared_stages_are_unshared_ones_of_equal_weights():
    torch.manual_seed(0)
    shared = PerceiverEncoder(replace(SMALL, stages=3, reads=2), 16)
    own = PerceiverEncoder(replace(SMALL, stages=3, reads=2, shared=False), 16)
    tensors = shared.state_dict()
    copied = {}
    for name in own.state_dict():
        if name.startswith("stages."):
            _, _, rest = name.split(".", 2)
            copied[name] = tensors[f"stages.0.{rest}"]
        else:
            copied[name] = tensors[name]
    own.load_state_dict(copied)
    context = Encoded(tokens=torch.randn(2, 7, 16))
    assert torch.equal(shared(context).tokens, own(context).tokens)


def test_a_second_look_is_at_the_inputs():
    once, twice = (PerceiverEncoder(replace(SMALL, stages=2, reads=reads), 16) for reads in (1, 2))
    twice.load_state_dict(once.state_dict() | {n: t for n, t in twice.state_dict().items() if n.startswith("reads.1")})
    context = Encoded(tokens=torch.randn(2, 7, 16))
    assert (once(context).tokens - twice(context).tokens).abs().max() > 1e-4


def test_dense_queries_carry_their_places():
    torch.manual_seed(0)
    queries = PlaceQueries((3, 4), 16, bands=2)
    assert torch.equal(queries(), queries.project(fourier_features((3, 4), 2)))
    latents = Encoded(tokens=torch.randn(2, 5, 16))
    read = build_read(ReadConfig(residual=False), 16, 16)
    answers = read(queries().expand(2, -1, -1), latents)
    assert answers.shape == (2, 12, 16)
    some = read(queries()[[7, 2]].expand(2, -1, -1), latents)  # each query is answered on its own
    torch.testing.assert_close(some, answers[:, [7, 2]], rtol=1e-4, atol=1e-5)


MLM = PerceiverMlmConfig(inputs=Inputs(text=TEXT), latents=SMALL)


def test_the_text_model_reads_no_padding_and_no_masked_word():
    model, batch = make(MLM), batch_of()
    masked = torch.zeros_like(batch.keep)
    masked[:, 1] = True
    logits = model.head(model(batch.ids, batch.keep, masked))
    assert logits.shape == (4, 7, 20)
    other = batch.ids.clone()
    other[:, 1] = (other[:, 1] + 1) % 20
    other[~batch.keep] = 4
    torch.testing.assert_close(model.head(model(other, batch.keep, masked)), logits, rtol=1e-4, atol=1e-5)
    assert (model.head(model(other, batch.keep)) - logits).abs().max() > 1e-3
    longer = model(torch.nn.functional.pad(batch.ids, (0, 2)), torch.nn.functional.pad(batch.keep, (0, 2)))
    torch.testing.assert_close(longer[:, :7], model(batch.ids, batch.keep), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_the_text_model_gets_a_gradient():
    model, batch = make(MLM).double(), batch_of()
    masked = batch.keep & (torch.arange(7) % 3 == 1)
    hidden = model(torch.cat([batch.ids, batch.ids[:, :2]], 1), torch.ones(4, 9, dtype=torch.bool),
                   torch.cat([masked, masked[:, :2]], 1))  # fmt: skip
    torch.nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), torch.arange(36) % 20).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


def reconstruct(name, hidden=None):
    config = PerceiverAutoencoderConfig(inputs=INPUTS[name], latents=SMALL, query_width=16)
    model, batch = make(config), batch_of()
    values = {"picture": Given(batch.images), "text": Given(batch.ids, batch.keep),
              "sound": Given(batch.sounds, batch.sound_keep)}  # fmt: skip
    return model, values, model(values, hidden)


def test_the_autoencoder_answers_for_every_place_of_every_modality():
    model, values, answers = reconstruct("all")
    assert {name: tuple(a.shape) for name, a in answers.items()} == {
        "picture": (4, 16, 12), "text": (4, 7, 20), "sound": (4, 5, 8)
    }  # fmt: skip
    targets = model.targets("sound", values["sound"])
    assert torch.equal(targets.tokens[0].flatten(), values["sound"].values[0])
    assert targets.keep.sum(1).tolist() == [5, 3, 1, 4]


def test_what_is_hidden_leaves_no_trace_in_the_answers():
    hidden = {"picture": torch.ones(4, 16, dtype=torch.bool), "text": torch.zeros(4, 7, dtype=torch.bool)}
    hidden["text"][:, 2] = True
    model, values, answers = reconstruct("all", hidden)
    ids = values["text"].values.clone()
    ids[:, 2] = 7
    changed = {**values, "picture": Given(values["picture"].values + 3), "text": Given(ids, values["text"].keep)}
    again = model(changed, hidden)
    assert all(torch.equal(answers[name], again[name]) for name in answers)
    seen = model(changed)
    assert all((answers[name] - seen[name]).abs().max() > 1e-3 for name in answers)


def test_every_parameter_of_the_autoencoder_gets_a_gradient():
    config = PerceiverAutoencoderConfig(inputs=INPUTS["all"], latents=SMALL, query_width=16)
    model, batch = make(config).double(), batch_of()
    values = {"picture": Given(batch.images.double()), "text": Given(torch.cat([batch.ids, batch.ids[:, :2]], 1)),
              "sound": Given(torch.nn.functional.pad(batch.sounds.double(), (0, 10)))}  # fmt: skip
    sum(answer.square().sum() for answer in model(values).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, name


@pytest.mark.parametrize(
    "config",
    [
        PerceiverClassifierConfig(inputs=INPUTS["all"], latents=LATENTS["perceiver"], classes=("a", "b")),
        PerceiverMlmConfig(inputs=Inputs(text=TEXT)),
        PerceiverAutoencoderConfig(inputs=INPUTS["mel"]),
    ],
)
def test_configurations_survive_json(config):
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_the_data_complete_a_configuration():
    config = PerceiverClassifierConfig(inputs=INPUTS["all"]).completed(31, 3, ("x", "y"))
    assert (config.vocabulary, config.rules.unk, config.classes, config.size) == (31, 3, ("x", "y"), (8, 8))
    deaf = PerceiverClassifierConfig(inputs=INPUTS["mel"]).completed(0, None, ("x",))
    assert (deaf.vocabulary, deaf.rules, deaf.size) == (0, None, (0, 0))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: LatentConfig(reads=2), "reads is 2, it must be from 1 to 1"),
        (lambda: LatentConfig(latents=0), "at least 1"),
        (lambda: PerceiverMlmConfig(inputs=INPUTS["all"]), "reads text alone, not picture, text, sound"),
        (lambda: PerceiverAutoencoderConfig(inputs=INPUTS["conv-text"]), "ConvInput has neither"),
        (lambda: build_read(ReadConfig(heads=3), 16, 16), "not a multiple of heads 3"),
    ],
)
def test_what_does_not_fit_is_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()
