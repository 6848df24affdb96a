"""Published captioners of a ViT and a GPT-2 against transformers' `VisionEncoderDecoderModel`."""

import pytest
import torch

from chiasm.generate import GenerateConfig, generate
from chiasm.models import Captioner
from chiasm.pretrained import load_pretrained
from published_files import write_vit_gpt2


def noise(pictures, seed=0):
    return torch.randn(pictures, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[(16, 0.7), (24, 3.0)], ids=["widths differ", "widths equal"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    width, ending = request.param
    model, _ = write_vit_gpt2(folder, width=width, ending=ending)
    ours, tokenizer, _ = load_pretrained(folder)
    assert isinstance(ours, Captioner)
    return model, ours, tokenizer


def test_logits_are_those_of_transformers(both):
    model, ours, tokenizer = both
    ids = torch.randint(0, tokenizer.vocab_size, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(pixel_values=noise(3), decoder_input_ids=ids).logits
        torch.testing.assert_close(ours.head(ours(noise(3), ids)), wanted, rtol=0, atol=1e-4)
    assert wanted.std(0).mean() > 0.05


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("length_penalty", [1.0, 0.3])
def test_captions_are_those_of_transformers(both, beams, length_penalty):
    model, ours, tokenizer = both
    assert ours.rules.bos == ours.rules.eot == tokenizer.eot
    search = {"num_beams": beams, "early_stopping": "never", "length_penalty": length_penalty} if beams > 1 else {}
    images = 2 * noise(32)
    wanted = model.generate(
        pixel_values=images, do_sample=False, max_new_tokens=22, pad_token_id=tokenizer.eot, **search
    )
    mode = "beam" if beams > 1 else "greedy"
    config = GenerateConfig(mode=mode, beams=beams, length_penalty=length_penalty, min_tokens=0)
    ended = []
    for (text, *_), row in zip(generate(ours, images, config), wanted.tolist(), strict=True):
        end = row.index(tokenizer.eot, 1) if tokenizer.eot in row[1:] else None
        # Of texts that reach the longest length unfinished, theirs may win against finished ones, ours never.
        if end is not None or beams == 1:
            assert list(text.ids) == row[1:end]
        ended += [] if end is None else [text.ids]
    assert len(ended) >= 6 and len(set(map(len, ended))) >= 4
