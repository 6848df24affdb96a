"""Costs that are counted equal costs that are worked out by hand."""

from dataclasses import replace

import pytest
import torch

from chiasm.cost import example_batch, measure_step_seconds, model_cost
from chiasm.models import CaptionerConfig, ClipConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.objectives import Captioning

CONFIG = CaptionerConfig(
    vision=VitConfig(size=(16, 24), patch_pixels=8, width=16, depth=2, heads=2),
    decoder=DecoderConfig(width=16, depth=3, heads=2, vocabulary=50, rules=TextRules(context=12)),
)
B, N, L, D, V = 4, 6, 9, 16, 50


def linear(tokens, outs, ins=D):
    return 2 * tokens * outs * ins


def attention(queries, keys):
    return 2 * 2 * queries * keys * D  # scores, and values weighted by them


def self_and_feed_forward(tokens):
    return linear(tokens, 4 * D) + attention(tokens, tokens) + 2 * linear(tokens, 4 * D)


def test_forward_flops_are_those_of_the_matrix_products():
    patches, cross = linear(N, D, 3 * 8 * 8), linear(L, 2 * D) + linear(N, 2 * D) + attention(L, N)
    wanted = B * (patches + 2 * self_and_feed_forward(N) + 3 * (self_and_feed_forward(L) + cross) + linear(L, V))
    cost = model_cost(CONFIG, batch_size=B, text_tokens=L + 1, measure=False)  # the last token is only a target
    assert cost.forward_flops == wanted


def test_a_step_costs_about_three_forward_passes():
    cost = model_cost(CONFIG, batch_size=B, text_tokens=10, measure=False)
    assert 2.8 < cost.step_flops / cost.forward_flops < 3.6  # attention's backward pass computes its scores again


def test_parameters_and_their_state():
    cost = model_cost(CONFIG, batch_size=B, text_tokens=10, measure=False)
    assert cost.parameters == sum(p.numel() for p in build_model(CONFIG).parameters())
    assert cost.state_bytes == 20 * cost.parameters  # value, gradient, two moments, average
    assert cost.step_seconds == {}


def test_activations_are_the_tensors_that_the_backward_pass_will_need():
    one, two = (model_cost(CONFIG, batch_size=b, text_tokens=10, measure=False).activation_bytes for b in (4, 8))
    assert two == pytest.approx(2 * one, rel=0.02)
    deeper = replace(CONFIG, vision=replace(CONFIG.vision, depth=4))
    more = model_cost(deeper, batch_size=4, text_tokens=10, measure=False).activation_bytes
    assert more > one + 2 * 4 * B * N * D * 8  # at least eight activations of a block's width, fp32, two blocks


def test_nothing_is_drawn_or_allocated_where_nothing_is_measured():
    huge = replace(CONFIG, vision=VitConfig(size=(224, 224), patch_pixels=16, width=4096, depth=12, heads=32))
    assert model_cost(huge, batch_size=256, text_tokens=10, measure=False).parameters > 2 * 10**9


def test_measuring_gives_seconds_for_each_precision_and_leaves_the_weights():
    cost = model_cost(CONFIG, batch_size=B, text_tokens=10)
    assert set(cost.step_seconds) == {"fp32", "bf16"} and all(0 < s < 10 for s in cost.step_seconds.values())
    model = build_model(CONFIG)
    before = [p.clone() for p in model.parameters()]
    measure_step_seconds(model, Captioning(), example_batch(CONFIG, B, 10), "fp32", accumulate=2)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))


def test_the_example_batch_has_the_shapes_of_training():
    batch = example_batch(CONFIG, B, 10)
    assert batch.images.shape == (B, 3, 16, 24) and batch.ids.shape == (B, 10) and len(batch) == B
    assert int(batch.ids.max()) < V


CLIP = ClipConfig(
    vision=VitConfig(size=(16, 24), patch_pixels=8, width=16, depth=2, heads=2, pool="mean"),
    text=TextConfig(width=16, depth=3, heads=2, vocabulary=50, rules=TextRules(context=12)),
    embed_dim=20,
)


def test_forward_flops_of_a_dual_encoder_are_those_of_two_towers_and_their_meeting():
    picture = linear(N, D, 3 * 8 * 8) + 2 * self_and_feed_forward(N) + linear(1, 20)
    text = 3 * self_and_feed_forward(L) + linear(1, 20)
    cost = model_cost(CLIP, batch_size=B, text_tokens=L, measure=False)
    assert cost.forward_flops == B * (picture + text) + linear(B, B, 20)
    assert 2.8 < cost.step_flops / cost.forward_flops < 3.6
    assert cost.parameters == sum(p.numel() for p in build_model(CLIP).parameters())


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_a_dual_encoder_s_steps_are_measured_for_each_precision(similarity):
    cost = model_cost(replace(CLIP, similarity=similarity), batch_size=B, text_tokens=L)
    assert set(cost.step_seconds) == {"fp32", "bf16"} and all(0 < s < 10 for s in cost.step_seconds.values())
