"""Published SigLIP checkpoints against transformers' own SigLIP."""

import numpy as np
import pytest
import torch

from chiasm.data.transforms import normalize, read_pixels
from chiasm.pretrained import load_pretrained
from chiasm.pretrained.preprocess import read_processor
from published_files import photo, write_processor, write_siglip

TEXTS = ["a photo of the red dog", "cat", "The CAT of zebra", "", "a a a a a a a a a"]


@pytest.mark.parametrize(
    ("act", "patch", "size", "mlp"), [("gelu_pytorch_tanh", 8, 16, 56), ("gelu", 4, 12, 89), ("quick_gelu", 7, 21, 48)]
)
def test_features_and_logits_are_those_of_transformers(tmp_path, act, patch, size, mlp):
    model = write_siglip(tmp_path, act=act, patch=patch, size=size, vision_mlp=mlp)
    clip, tokenizer, _ = load_pretrained(tmp_path)
    ids = tokenizer.encode(TEXTS, context=10)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    filled = torch.full((len(TEXTS), 10), tokenizer.pad)  # as transformers' `padding="max_length"`
    filled[:, : ids.shape[1]] = ids
    with torch.no_grad():
        told = model(input_ids=filled, pixel_values=images)
        seen, read = clip.embed_images(images), clip.embed_texts(ids)
        logits = clip.log_scale.exp() * seen @ read.T + clip.bias
        alone = torch.cat([clip.embed_texts(tokenizer.encode([text], context=10)) for text in TEXTS])
    for ours, theirs in [
        (seen, told.image_embeds), (read, told.text_embeds), (logits, told.logits_per_image), (alone, told.text_embeds),
    ]:  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert told.image_embeds.std(0).mean() > 0.02 and told.text_embeds.std(0).mean() > 0.02


def test_what_stands_right_of_the_end_is_pad_whatever_it_is(tmp_path):
    write_siglip(tmp_path)
    clip, tokenizer, _ = load_pretrained(tmp_path)
    ids = tokenizer.encode(["a red dog", "cat"], context=10)
    loud = ids.clone()
    loud[1, 2:] = 5
    assert torch.equal(clip.embed_texts(ids), clip.embed_texts(loud))


@pytest.mark.parametrize("size", [(481, 641), (97, 130)])
def test_a_photo_is_prepared_as_by_transformers(tmp_path, size):
    theirs = write_processor(tmp_path, "SiglipImageProcessorPil")
    ours = read_processor(theirs.to_dict(), (224, 224))
    picture = photo(*size)
    expected = theirs(images=picture, return_tensors="pt")["pixel_values"]
    shades = (normalize(read_pixels(np.asarray(picture), ours)[None], ours) - expected).abs() * 0.5
    assert shades.max() <= 1 / 255
