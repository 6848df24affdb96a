"""A decoder in int8 writes nearly what it wrote, by every path: step by step, in beams, and for the loss of a text."""

from types import SimpleNamespace

import pytest
import torch

from chiasm.errors import UserError
from chiasm.generate import GenerateConfig, generate
from chiasm.nn import LEAST_WEIGHTS, Int8Linear, quantize_int8
from chiasm.predict import Predictor

LIMIT = 200  # so that of these tiny layers many count as large


@pytest.fixture
def both(make_captioner):
    plain, rounded = make_captioner(), make_captioner()
    assert quantize_int8(rounded.decoder, LIMIT) >= 8
    return plain, rounded


@torch.inference_mode()
def test_logits_are_near_and_a_step_is_the_whole_text(both, make_images):
    _, rounded = both
    images, ids = make_images(3), torch.tensor([[1, 4, 5, 6], [1, 7, 3, 8], [1, 9, 9, 4]])
    whole = [model.decoder.head(model.decoder(ids, **model._read(images))) for model in both]
    assert (whole[0] - whole[1]).norm() < 0.05 * whole[0].norm()
    draft = rounded.start(images)
    for place in range(ids.shape[1]):
        logits = rounded.step(ids[:, place], draft)
        torch.testing.assert_close(logits, whole[1][:, place], rtol=0.05, atol=0.05 * float(whole[1].std()))


@pytest.mark.parametrize("settings", [{}, {"mode": "beam"}, {"mode": "sample"}])
def test_it_writes(both, make_images, settings):
    _, rounded = both
    written = generate(rounded, make_images(2), GenerateConfig(**settings))
    assert all(text.ids for several in written for text in several)


def test_joined_and_single_projections_agree(make_captioner, make_images):
    one, two = make_captioner(), make_captioner()
    block = two.decoder.blocks[0].attend_self
    block.key_value = Int8Linear(block.key_value)  # queries stay plain
    images = make_images(2)
    ids = torch.tensor([1, 1])
    with torch.inference_mode():
        logits = [model.step(ids, model.start(images)) for model in (one, two)]
    assert 0 < (logits[0] - logits[1]).norm() < 0.05 * logits[0].norm()


def test_who_has_no_decoder_or_a_small_one_is_told(make_clip, make_captioner):
    with pytest.raises(UserError, match="A Clip has no decoder"):
        Predictor.write_in_int8(SimpleNamespace(model=make_clip(), device=torch.device("cpu")))
    with pytest.raises(UserError, match=f"No layer of the decoder has {LEAST_WEIGHTS:,} weights"):
        Predictor.write_in_int8(SimpleNamespace(model=make_captioner(), device=torch.device("cpu")))
