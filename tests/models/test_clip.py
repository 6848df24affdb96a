"""The dual encoder: unit vectors, its projections, where scale and bias start, and what does not decay."""

from dataclasses import replace

import pytest
import torch

from chiasm.models.clip import Clip, ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import weight_decay_groups

CONFIG = ClipConfig(
    vision=VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, pool="cls"),
    text=TextConfig(width=24, depth=1, heads=2, vocabulary=11, rules=TextRules(context=9)),
    embed_dim=20,
)
IDS = torch.tensor([[1, 3, 4, 2, 0], [1, 5, 2, 0, 0], [1, 6, 7, 8, 2]])


def make(**changes):
    torch.manual_seed(0)
    return Clip(replace(CONFIG, **changes)).eval()


@pytest.mark.parametrize("bf16", [False, True])
def test_vectors_have_unit_length_in_fp32(make_images, bf16):
    model = make()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        sides = model.embed_images(make_images(3)), model.embed_texts(IDS)
    for vectors in sides:
        assert (vectors.dtype, vectors.shape) == (torch.float32, (3, 20))
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)


def test_vectors_are_the_pooled_ones_projected(make_images):
    model = make()
    pooled = model.vision(make_images(3)).pooled, model.text(IDS).pooled
    got = model.embed_images(make_images(3)), model.embed_texts(IDS)
    for side, vectors, weight in zip(pooled, got, (model.project_image.weight, model.project_text.weight), strict=True):
        projected = side @ weight.T
        torch.testing.assert_close(vectors, projected / projected.square().sum(1, keepdim=True).sqrt())
    assert model.project_image.bias is None and model.project_text.bias is None


def test_where_only_the_text_is_projected_it_is_with_a_bias(make_images):
    model = make(projection="text", embed_dim=16)
    with torch.no_grad():
        model.project_text.bias.normal_()
    pooled = model.vision(make_images(3)).pooled
    torch.testing.assert_close(model.embed_images(make_images(3)), pooled / pooled.norm(dim=1, keepdim=True))
    projected = model.text(IDS).pooled @ model.project_text.weight.T + model.project_text.bias
    torch.testing.assert_close(model.embed_texts(IDS), projected / projected.norm(dim=1, keepdim=True))
    with pytest.raises(ValueError, match="16 values need a projection to 20"):
        make(projection="text")


def test_scale_and_bias_start_as_the_similarity_wants():
    softmax, sigmoid = make(), make(similarity="sigmoid")
    assert float(softmax.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    assert float(sigmoid.log_scale.detach().exp()) == pytest.approx(10)
    assert softmax.bias is None and isinstance(sigmoid.bias, torch.nn.Parameter)
    assert {"log_scale", "bias"} <= dict(sigmoid.named_parameters()).keys()


def test_scale_bias_positions_and_class_token_do_not_decay():
    model = make(similarity="sigmoid")
    decaying, still = weight_decay_groups(model, 0.1)
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    at_rest = {names[id(p)] for p in still["params"]}
    assert {"log_scale", "bias", "vision.cls", "vision.positions.table", "text.embed.positions"} <= at_rest
    assert {name for name, p in model.named_parameters() if p.ndim <= 1} <= at_rest
    assert {"project_image.weight", "project_text.weight"} <= {names[id(p)] for p in decaying["params"]}


@pytest.mark.parametrize("vision", [VitConfig(pool="none"), ConvConfig(pool="none")], ids=["vit", "conv"])
def test_a_picture_encoder_without_pooling_is_refused(vision):
    with pytest.raises(ValueError, match=r"vision\.pool must be cls, mean, attention or map, not none"):
        ClipConfig(vision=vision)


def test_what_the_tokenizer_knows_completes_the_config():
    done = CONFIG.completed(50, unk=3)
    assert (done.vocabulary, done.rules.unk) == (50, 3)
    assert (done.size, done.rules.context, done.vision) == ((16, 16), 9, CONFIG.vision)


def test_a_clip_of_parts_is_made_of_these_very_encoders():
    whole = make()
    parts = Clip.from_parts(whole.vision, whole.text, embed_dim=20)
    assert parts.vision is whole.vision and parts.text is whole.text
    assert parts.config == whole.config
