"""Published ViT checkpoints against transformers' own ViT, there and back."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chiasm.data.transforms import normalize, read_pixels
from chiasm.models import PictureClassifier
from chiasm.pretrained import load_pretrained, load_vit, save_pretrained
from chiasm.pretrained.preprocess import read_vit_processor
from chiasm.types import Batch
from published_files import photo, write_processor, write_vit


def noise(pictures, size, seed=0):
    return torch.randn(pictures, 3, *size, generator=torch.Generator().manual_seed(seed))


def batch_of(images):
    rows, empty = torch.arange(len(images)), torch.zeros(len(images), 0, dtype=torch.long)
    keys = tuple(map(str, rows.tolist()))
    return Batch(images=images, ids=empty, keep=empty.bool(), image_ids=rows, text_ids=rows, keys=keys)


@pytest.mark.parametrize(
    ("act", "patch", "size"), [("gelu", 8, 16), ("gelu_pytorch_tanh", 7, 21), ("quick_gelu", 4, 12)]
)
def test_logits_and_classes_are_those_of_transformers(tmp_path, act, patch, size):
    model = write_vit(tmp_path, act=act, patch=patch, size=size)
    ours, tokenizer, preprocess = load_pretrained(tmp_path)
    assert isinstance(ours, PictureClassifier) and tokenizer is None
    assert ours.classes == tuple(f"kind {i}" for i in range(5))
    assert (preprocess.resize, preprocess.interpolation, preprocess.mean) == ("squash", "bilinear", (0.5, 0.5, 0.5))
    images = noise(3, (size, size))
    with torch.no_grad():
        wanted, got = model(images).logits, ours.classify(batch_of(images))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert wanted.std(0).mean() > 0.05  # pictures do matter


@pytest.mark.parametrize("head", [True, False])
def test_features_are_those_of_transformers_at_other_resolutions_too(tmp_path, head):
    model = write_vit(tmp_path, head=head)
    inner = model.vit if head else model
    ours, _ = load_vit(tmp_path)
    for size in ((16, 16), (40, 24)):
        images = noise(2, size)
        with torch.no_grad():
            wanted = inner(images, interpolate_pos_encoding=True).last_hidden_state
            seen = ours(images)
        torch.testing.assert_close(seen.pooled, wanted[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(seen.tokens, wanted[:, 1:], rtol=0, atol=1e-5)


def test_theirs_comes_back_as_it_was(tmp_path):
    from transformers import AutoImageProcessor, ViTForImageClassification

    model = write_vit(tmp_path / "theirs")
    classifier, _, preprocess = load_pretrained(tmp_path / "theirs")
    save_pretrained(classifier, None, preprocess, tmp_path / "ours")
    again, images = ViTForImageClassification.from_pretrained(tmp_path / "ours").eval(), noise(2, (16, 16))
    with torch.no_grad():
        torch.testing.assert_close(again(images).logits, model(images).logits, rtol=0, atol=1e-5)
    assert again.config.id2label == model.config.id2label
    given, made = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert {n: t.shape for n, t in given.items()} == {n: t.shape for n, t in made.items()}
    picture = photo(61, 90)
    expected = AutoImageProcessor.from_pretrained(tmp_path / "ours")(images=picture, return_tensors="pt")
    got = normalize(read_pixels(np.asarray(picture), preprocess)[None], preprocess)
    torch.testing.assert_close(got, expected["pixel_values"], rtol=0, atol=2.5 / 255)


def test_a_picture_that_is_not_square_comes_back_too(tmp_path):
    write_vit(tmp_path / "theirs", size=(16, 24))
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 24}}))
    classifier, _, preprocess = load_pretrained(tmp_path / "theirs")
    save_pretrained(classifier, None, preprocess, tmp_path / "ours")
    again = load_pretrained(tmp_path / "ours")
    images = batch_of(noise(2, (16, 24)))
    with torch.no_grad():
        torch.testing.assert_close(again[0].classify(images), classifier.classify(images))
    assert again[2] == preprocess


@pytest.mark.parametrize("size", [(481, 641), (97, 130)])
def test_a_photo_is_prepared_as_by_transformers(tmp_path, size):
    theirs = write_processor(tmp_path, "ViTImageProcessorPil")
    ours = read_vit_processor(theirs.to_dict(), (224, 224))
    picture = photo(*size)
    expected = theirs(images=picture, return_tensors="pt")["pixel_values"]
    shades = (normalize(read_pixels(np.asarray(picture), ours)[None], ours) - expected).abs() * 0.5
    assert shades.max() <= 1 / 255
    assert read_vit_processor({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, (224, 224)) == ours
