"""Modules of the user's own as towers: by the shape of their output, in a Clip, and in a bundle."""

import pytest
import torch
from torch import nn

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.models.adapted import Adapted, ModuleTextConfig, ModuleVisionConfig, make_module
from chiasm.models.clip import Clip
from chiasm.models.language import TextConfig, TextEncoder, TextRules
from chiasm.text import Tokenizer

PICTURES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_text_without_eot_is_refused():
    tower = Adapted(ModuleTextConfig(factory="", width=8), nn.Embedding(9, 8))
    with pytest.raises(ValueError, match="no EOT"):
        tower(torch.tensor([[1, 5, 5]]))


def test_modules_of_ones_own_by_shape_of_output():
    made = {
        "vector": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6)),
        "tokens": nn.Sequential(nn.Flatten(2), nn.Linear(32 * 32, 6)),
        "grid": nn.Conv2d(3, 6, 8, stride=8),
    }
    mean = {"vector": lambda out: out, "tokens": lambda out: out.mean(1), "grid": lambda out: out.mean((2, 3))}
    for (name, module), tokens in zip(made.items(), (1, 3, 16), strict=True):
        seen = Adapted(ModuleVisionConfig(factory="", width=6, tune=True), module)(PICTURES)
        torch.testing.assert_close(seen.pooled, mean[name](module(PICTURES)))
        assert seen.tokens.shape == (3, tokens, 6)
    with pytest.raises(ValueError, match="width 6, the configuration 7"):
        Adapted(ModuleVisionConfig(factory="", width=7), made["grid"])(PICTURES)
    with pytest.raises(ValueError, match="b d, b n d, or b d rows columns"):
        Adapted(ModuleVisionConfig(factory="", width=7), nn.Flatten(0))(PICTURES)


def test_a_clip_of_parts_pools_own_texts_without_their_pads():
    torch.manual_seed(0)

    class Words(nn.Embedding):
        def forward(self, ids, keep):
            return super().forward(ids)

    rules = TextRules(context=9)
    text = Adapted(ModuleTextConfig(factory="", width=6, rules=rules, vocabulary=9), Words(9, 6))
    vision = Adapted(ModuleVisionConfig(factory="", width=4, size=(32, 32)), nn.Conv2d(3, 4, 8, stride=8))
    clip = Clip.from_parts(vision, text, embed_dim=5)
    assert (clip.config.size, clip.config.vocabulary, clip.config.rules) == ((32, 32), 9, rules)
    short, padded = torch.tensor([[1, 5, 2]]), torch.tensor([[1, 5, 2, 0, 0]])
    assert clip.embed_images(PICTURES).shape == (3, 5)
    torch.testing.assert_close(clip.embed_texts(short), clip.embed_texts(padded))
    ours = TextEncoder(TextConfig(width=16, depth=1, heads=2, vocabulary=9))
    assert Clip.from_parts(vision, ours).text is ours


def test_a_clip_of_parts_is_saved_where_its_modules_can_be_made_again(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red dog"])
    text = TextEncoder(TextConfig(width=16, depth=1, heads=2, vocabulary=tokenizer.vocab_size))
    net = make_module("py_encoders:vector")
    net[0].weight.data.add_(1)  # what the function makes is filled with the bundle's weights
    vision = Adapted(ModuleVisionConfig(factory="py_encoders:vector", width=5, size=(32, 32)), net)
    clip = Clip.from_parts(vision, text, embed_dim=4).eval()
    world = {"tokenizer": tokenizer, "preprocess": PreprocessConfig(size=(32, 32))}
    Bundle(model=clip, **world).save(tmp_path / "bundle")
    again = Bundle.load(tmp_path / "bundle").model
    assert torch.equal(again.embed_images(PICTURES), clip.embed_images(PICTURES))
    nameless = Adapted(ModuleVisionConfig(factory="", width=5, size=(32, 32)), net)
    with pytest.raises(ValueError, match="name its factory"):
        Bundle(model=Clip.from_parts(nameless, text), **world).save(tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


def test_a_function_that_names_a_class_makes_it():
    assert isinstance(make_module("torch.nn:Identity"), nn.Identity)
