"""Published CLIP checkpoints, in Hugging Face's and OpenCLIP's layouts, against transformers' own CLIP."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.data.transforms import PreprocessConfig, normalize, read_pixels
from chiasm.models import Clip, ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.pretrained import load_pretrained, save_pretrained
from chiasm.pretrained.preprocess import read_processor
from chiasm.text import Tokenizer
from published_files import TEXTS, photo, write_clip, write_clip_tokenizer, write_openclip, write_processor


def outputs(clip, images, ids):
    """Features of both sides, and the logits of every pair."""
    with torch.no_grad():
        seen, read = clip.embed_images(images), clip.embed_texts(ids)
        return seen, read, clip.log_scale.exp() * seen @ read.T


def wanted(model, images, encoded):
    with torch.no_grad():
        told = model(**encoded, pixel_values=images)
    return told.image_embeds, told.text_embeds, told.logits_per_image


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def noise(pictures, size, seed=0):
    return torch.randn(pictures, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("act", "patch", "size", "shards"),
    [("quick_gelu", 8, 16, False), ("gelu", 4, 12, True), ("gelu_pytorch_tanh", 7, 21, False)],
)
def test_features_and_logits_are_those_of_transformers(tmp_path, act, patch, size, shards):
    model, theirs = write_clip(tmp_path, act=act, patch=patch, size=size, shards=shards)
    assert (tmp_path / "model.safetensors").exists() != shards
    clip, tokenizer, _ = load_pretrained(tmp_path)
    encoded = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt")
    ids, images = tokenizer.encode(TEXTS, context=24, truncate=True), noise(3, size)
    assert torch.equal(ids, encoded["input_ids"])
    expected = wanted(model, images, encoded)
    assert_same(outputs(clip, images, ids), expected)
    assert expected[0].std(0).mean() > 0.05 and expected[1].std(0).mean() > 0.05  # texts and pictures do matter


def test_old_files_that_give_eot_as_2_mean_the_highest_id(tmp_path):
    model, theirs = write_clip(tmp_path)
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 2
    model.save_pretrained(tmp_path)
    clip, tokenizer, _ = load_pretrained(tmp_path)
    encoded = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt")
    images = noise(2, 16)
    assert_same(
        outputs(clip, images, tokenizer.encode(TEXTS, context=24, truncate=True)), wanted(model, images, encoded)
    )


def test_another_resolution_is_interpolated_as_transformers_does(tmp_path):
    model, theirs = write_clip(tmp_path)
    clip = load_pretrained(tmp_path)[0]
    encoded, images = theirs(["a dog"], return_tensors="pt"), noise(2, 40)
    with torch.no_grad():
        told = model(**encoded, pixel_values=images, interpolate_pos_encoding=True)
        torch.testing.assert_close(clip.embed_images(images), told.image_embeds, rtol=0, atol=1e-5)


def test_tokens_are_those_of_transformers(tmp_path):
    theirs = write_clip_tokenizer(tmp_path)
    ours = Tokenizer.adopt(tmp_path)
    texts = [*TEXTS, "  RED\t\nDoG  ", "it's we'll", "naïve ĐOG Ⅷ ½", "x" * 30, "dog.cat,dog!?", "\u00a0cat\u3000dog"]
    for text in texts:
        assert ours.encode([text], context=99)[0].tolist() == theirs(text)["input_ids"], text
    assert (ours.bos, ours.eot, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.decode(ours.encode(["A photo of the red DOG"], context=99)[0]) == "a photo of the red dog"


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_openclip_files_of_the_same_weights(tmp_path, quick_gelu):
    model, theirs = write_clip(tmp_path / "hf", act="quick_gelu" if quick_gelu else "gelu")
    for layer in (*model.text_model.encoder.layers, *model.vision_model.encoder.layers):
        layer.layer_norm1.eps = layer.layer_norm2.eps = 1e-5
    for norm in (
        model.text_model.final_layer_norm, model.vision_model.pre_layrnorm, model.vision_model.post_layernorm,
    ):  # fmt: skip
        norm.eps = 1e-5
    folder = tmp_path / "openclip"
    folder.mkdir()
    theirs.save_pretrained(folder)
    write_openclip(folder, model, quick_gelu=quick_gelu)
    clip, tokenizer, preprocess = load_pretrained(folder)
    encoded, images = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt"), noise(3, 16)
    ids = tokenizer.encode(TEXTS, context=24, truncate=True)
    assert_same(outputs(clip, images, ids), wanted(model, images, encoded))
    assert (preprocess.resize, preprocess.mean, preprocess.std) == ("crop", (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def lively(tokenizer, **changes):
    """A model of ours at random that the layout can express."""
    torch.manual_seed(0)
    text = TextConfig(
        width=16, depth=2, heads=2, vocabulary=tokenizer.vocab_size, rules=TextRules(context=24, unk=tokenizer.unk)
    )
    vision = VitConfig(
        size=(16, 16), patch_pixels=8, width=24, depth=2, heads=2, pool="cls", norm_first=True, activation="gelu_tanh"
    )
    clip = Clip(replace(ClipConfig(vision=vision, text=text, embed_dim=12), **changes)).eval()
    for parameter in clip.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return clip


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_ours_gives_the_same_features_in_transformers_and_comes_back(tmp_path, kind):
    from transformers import AutoTokenizer, CLIPModel

    tokenizer = Tokenizer.train(["a photo of a red dog", "the cat"], kind=kind, vocab_size=300)
    clip, preprocess = lively(tokenizer), PreprocessConfig(size=(16, 16), resize="crop")
    save_pretrained(clip, tokenizer, preprocess, tmp_path)
    texts = ["a red dog", "the cat", "", "a photo of a red cat dog", "the last dog of a photo"]
    images = noise(3, 16)
    expected = outputs(clip, images, tokenizer.encode(texts, context=24))

    model, theirs = CLIPModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert_same(wanted(model.eval(), images, theirs(texts, padding=True, return_tensors="pt").to("cpu")), expected)
    again, same, prepared = load_pretrained(tmp_path)
    assert_same(outputs(again, images, same.encode(texts, context=24)), expected)
    assert prepared == replace(preprocess, fast_decode=False)
    assert [same.decode(row) for row in same.encode(texts, context=24)] == [
        tokenizer.decode(row) for row in tokenizer.encode(texts, context=24)
    ]


def test_theirs_comes_back_as_it_was(tmp_path):
    from transformers import CLIPModel

    model, theirs = write_clip(tmp_path / "theirs")
    save_pretrained(*load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    images = noise(2, 16)
    encoded = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt")
    again = CLIPModel.from_pretrained(tmp_path / "ours").eval()
    assert_same(wanted(again, images, encoded), wanted(model, images, encoded))
    assert again.config.text_config.eos_token_id == model.config.text_config.eos_token_id


@pytest.mark.parametrize("size", [(481, 641), (1237, 333), (97, 130), (640, 641)])
def test_a_photo_is_prepared_as_by_transformers(tmp_path, size):
    theirs = write_processor(
        tmp_path, "CLIPImageProcessorPil", size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}
    )
    ours = read_processor(theirs.to_dict(), (224, 224))
    picture, file = photo(*size), io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    for given, same in [(picture, np.asarray(picture)), (Image.open(file), file.getvalue())]:
        expected = theirs(images=given, return_tensors="pt")["pixel_values"]
        got = normalize(read_pixels(same, ours)[None], ours)
        shades = (got - expected).abs() * torch.tensor(ours.std)[:, None, None]
        assert shades.max() <= 1 / 255


def test_a_processor_of_ours_prepares_pictures_in_transformers(tmp_path):
    from transformers import CLIPImageProcessorPil

    tokenizer = Tokenizer.train(["a red dog"])
    for resize in ("crop", "squash"):
        preprocess = PreprocessConfig(
            size=(16, 16), resize=resize, interpolation="bilinear", mean=(0.1, 0.2, 0.3), fast_decode=False
        )
        save_pretrained(lively(tokenizer), tokenizer, preprocess, tmp_path)
        theirs, picture = CLIPImageProcessorPil.from_pretrained(tmp_path), photo(61, 90)
        expected = theirs(images=picture, return_tensors="pt")["pixel_values"]
        got = normalize(read_pixels(np.asarray(picture), preprocess)[None], preprocess)
        torch.testing.assert_close(got, expected, rtol=0, atol=1 / 255)
