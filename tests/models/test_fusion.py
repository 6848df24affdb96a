"""Fusions: masks honoured, a missing modality is no input, and each is what its paper writes down."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from chiasm.models.fusion import (
    CrossConfig,
    EarlyConfig,
    LateConfig,
    PerceiverFusionConfig,
    build_fusion,
)
from chiasm.types import Encoded

SIZES = {"width": 16, "depth": 2, "heads": 2}
FUSIONS = {
    **{f"late-{join}": LateConfig(width=16, join=join, rank=24) for join in ("concat", "product", "bilinear")},
    "early": EarlyConfig(**SIZES),
    "cross": CrossConfig(**SIZES),
    "perceiver": PerceiverFusionConfig(**SIZES, latents=5),
    "perceiver-again": PerceiverFusionConfig(**SIZES, latents=5, reads=2),
}
CONFIGS = {f"{name}-{missing}": replace(config, missing=missing)
           for name, config in FUSIONS.items() for missing in ("mask", "token")}  # fmt: skip
WIDTHS = 16, 12


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


@pytest.fixture
def fusion(config):
    return make(config)


def make(config, widths=WIDTHS, gain=3.0):
    """A fusion with weights that are large enough for every part to matter."""
    torch.manual_seed(0)
    fusion = build_fusion(config, *widths)
    for name, parameter in fusion.named_parameters():
        if parameter.ndim >= 2 or name.split(".")[-1] in ("mark", "absent"):
            parameter.data.mul_(gain)
    return fusion.eval()


def encoded(rows, tokens, width, seed, lengths=None):
    """Noise as an encoder's output, with its pooled vector."""
    generator = torch.Generator().manual_seed(seed)
    keep = None if lengths is None else torch.arange(tokens) < torch.tensor(lengths)[:, None]
    bare = Encoded(tokens=torch.randn(rows, tokens, width, generator=generator), keep=keep)
    return replace(bare, pooled=bare.mean())


@pytest.fixture
def picture():
    return encoded(4, 6, WIDTHS[0], 1)


@pytest.fixture
def text():
    return encoded(4, 7, WIDTHS[1], 2, lengths=[7, 4, 3, 5])


def rows_of(side, rows):
    return Encoded(
        tokens=side.tokens[rows],
        keep=None if side.keep is None else side.keep[rows],
        pooled=None if side.pooled is None else side.pooled[rows],
    )


def without(side, rows):
    """The same, with nothing to read in these rows; what stands there is noise."""
    there = torch.ones(len(side.tokens), 1, dtype=torch.bool)
    there[rows] = False
    keep = torch.ones(side.tokens.shape[:2], dtype=torch.bool) if side.keep is None else side.keep
    return replace(side, keep=keep & there)


def close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_shapes(fusion, config, picture, text):
    out = fusion(picture, text)
    extra = 2 * (config.missing == "token")
    tokens = {"LateConfig": 1, "PerceiverFusionConfig": 5}.get(type(config).__name__, 6 + 7 + extra)
    assert out.tokens.shape == (4, tokens, 16) and out.pooled.shape == (4, 16)
    if out.keep is not None:
        assert out.keep[:, :6].all() and torch.equal(out.keep.sum(1), 6 + text.keep.sum(1))


def test_both_modalities_are_read_in_every_row(fusion, picture, text):
    before = fusion(picture, text).pooled
    for other in (
        fusion(rows_of(picture, [1, 2, 3, 0]), text),
        fusion(picture, replace(text, tokens=text.tokens.flip(0), pooled=text.pooled.flip(0))),
    ):
        assert (other.pooled - before).abs().amax(1).min() > 1e-3


def test_what_stands_at_padding_and_how_long_it_is_do_not_matter(fusion, picture, text):
    noise = torch.where(text.keep[..., None], text.tokens, 9.0)
    longer = replace(text, tokens=F.pad(noise, (0, 0, 0, 5), value=-7.0), keep=F.pad(text.keep, (0, 5)))
    close(fusion(picture, longer).pooled, fusion(picture, text).pooled)


def test_the_order_and_company_of_a_batch_change_nothing(fusion, picture, text):
    pooled, order = fusion(picture, text).pooled, [2, 0, 3, 1]
    close(fusion(rows_of(picture, order), rows_of(text, order)).pooled, pooled[order])
    for row in range(4):
        close(fusion(rows_of(picture, [row]), rows_of(text, [row])).pooled[0], pooled[row])


@pytest.mark.parametrize("side", ["picture", "text"])
def test_a_row_without_a_modality_reads_nothing_of_it_and_changes_no_other_row(fusion, picture, text, side):
    sides = {"picture": picture, "text": text}
    full = fusion(**sides).pooled
    gone = fusion(**sides | {side: without(sides[side], [1, 3])}).pooled
    close(gone[[0, 2]], full[[0, 2]])
    assert (gone - full)[[1, 3]].abs().amax(1).min() > 1e-3
    noise = replace(sides[side], tokens=7 * sides[side].tokens.flip(0), pooled=7 * sides[side].pooled.flip(0))
    close(fusion(**sides | {side: without(noise, [1, 3])}).pooled[[1, 3]], gone[[1, 3]])


@pytest.mark.parametrize("side", ["picture", "text"])
def test_none_is_a_modality_that_is_masked_in_every_row(fusion, picture, text, side):
    sides = {"picture": picture, "text": text}
    masked = fusion(**sides | {side: without(sides[side], [0, 1, 2, 3])}).pooled
    close(fusion(**sides | {side: None}).pooled, masked)
    assert masked.isfinite().all() and masked.std(0).min() > 1e-4  # the other modality still speaks


def test_both_missing(fusion, picture, text):
    with pytest.raises(ValueError, match="both are missing"):
        fusion(None, None)
    rows = [0, 1, 2, 3]
    nothing = fusion(without(picture, rows), without(text, rows)).pooled
    assert nothing.isfinite().all()
    close(nothing, nothing[:1].expand_as(nothing))


def test_every_parameter_gets_a_finite_gradient_from_rows_with_and_without(fusion, picture, text):
    fusion.double()
    picture, text = (
        Encoded(tokens=side.tokens.double().requires_grad_(), keep=side.keep, pooled=side.pooled.double())
        for side in (without(picture, [0]), without(text, [1]))
    )
    weights = torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (fusion(replace(picture, pooled=None), replace(text, pooled=None)).pooled @ weights).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name
    for side, row in ((picture, 0), (text, 1)):
        grad = side.tokens.grad
        assert grad.isfinite().all() and grad[row].abs().max() == 0 and grad[2].abs().max() > 1e-8


def test_early_is_a_loop_over_rows_of_the_real_tokens_of_both(picture, text):
    fusion = make(EarlyConfig(**SIZES))
    out = fusion(picture, text)
    for row, length in enumerate([7, 4, 3, 5]):
        x = torch.cat([picture.tokens[row] + fusion.picture.mark,
                       fusion.text.project(text.tokens[row, :length]) + fusion.text.mark])[None]  # fmt: skip
        for block in fusion.blocks:
            x = block(x)
        x = fusion.norm(x)
        close(out.pooled[row], x.mean(1)[0])
        close(out.tokens[row, : 6 + length], x[0])


def test_cross_treats_both_sides_alike(picture):
    fusion, other = make(CrossConfig(**SIZES), (16, 16)), encoded(4, 7, 16, 2, lengths=[7, 4, 3, 5])
    swapped = make(CrossConfig(**SIZES), (16, 16))
    exchange = {"picture": "text", "text": "picture"}
    state = {}
    for name, tensor in fusion.state_dict().items():
        parts = [exchange.get(part, part) for part in name.split(".")]
        state[".".join(parts).replace("norm_picture", "norm_?").replace("norm_text", "norm_picture")
              .replace("norm_?", "norm_text")] = tensor  # fmt: skip
    state["join.weight"] = fusion.join.weight.roll(16, 1)
    swapped.load_state_dict(state)
    close(swapped(other, picture).pooled, fusion(picture, other).pooled)


def test_cross_reads_the_other_modality_as_it_was_before_the_layer(picture, text):
    fusion = make(replace(CrossConfig(**SIZES), depth=1))
    (layer,) = fusion.layers
    seen, told = picture.tokens + fusion.picture.mark, fusion.text.project(text.tokens) + fusion.text.mark
    of_text, of_picture = layer.norm_text(told), layer.norm_picture(seen)
    seen = layer.picture(seen, context=layer.picture.project(of_text), context_keep=text.keep)
    told = layer.text(told, keep=text.keep, context=layer.text.project(of_picture))
    wanted = fusion.join(torch.cat([fusion.norm_picture(seen).mean(1),
                                    Encoded(tokens=fusion.norm_text(told), keep=text.keep).mean()], -1))  # fmt: skip
    close(fusion(picture, text).pooled, wanted)


def test_the_perceiver_s_tokens_are_as_many_however_long_the_inputs(picture):
    fusion = make(FUSIONS["perceiver"])
    for tokens in (1, 40):
        assert fusion(picture, encoded(4, tokens, WIDTHS[1], 2)).tokens.shape == (4, 5, 16)


def test_the_perceiver_reads_as_often_as_is_said_but_no_oftener_than_it_has_blocks(picture):
    for depth, reads in ((3, 2), (2, 9), (0, 1)):
        fusion = make(replace(FUSIONS["perceiver"], depth=depth, reads=reads))
        looks, blocks = fusion.reader.reads, [block for stage in fusion.reader.stages for block in stage]
        assert len(looks) == max(1, min(depth, reads)) and len(blocks) == depth
        context = Encoded(tokens=picture.tokens + fusion.picture.mark)
        latents = fusion.reader.latents.expand(4, -1, -1)
        for i in range(max(1, depth)):
            latents = looks[i](latents, context) if i < len(looks) else latents
            latents = blocks[i](latents) if depth else latents
        close(fusion(picture, None).pooled, fusion.norm(latents).mean(1))
    with pytest.raises(ValueError, match="reads is 0"):
        PerceiverFusionConfig(reads=0)


@pytest.mark.parametrize("join", ["concat", "product", "bilinear"])
def test_late_joins_two_vectors_and_sees_nothing_else(picture, text, join):
    fusion = make(LateConfig(width=16, join=join, rank=24))
    p, t = fusion.picture.project(picture.pooled), fusion.text.project(text.pooled)
    joined = {"concat": torch.cat([p, t], 1), "product": p * t, "bilinear": p * t}[join]
    x = fusion.join(joined)
    close(fusion(picture, text).pooled, fusion.norm(x + fusion.mlp(fusion.norm_mlp(x))))
    other = replace(picture, tokens=picture.tokens.flip(1) * 3)
    close(fusion(other, text).pooled, fusion(picture, text).pooled)
    if join == "bilinear":  # a form of both: linear in neither's sign alone, and bounded by tanh
        assert p.abs().max() <= 1 and p.shape == (4, 24)


def test_a_missing_vector_is_the_neutral_element_of_its_join(picture):
    concat, product = (make(LateConfig(width=16, join=join), (16, 16)) for join in ("concat", "product"))
    assert torch.equal(product.join(picture.pooled), product.join(picture.pooled * product.text(None, 4)))
    assert not concat.text(None, 4).any()


@pytest.mark.parametrize("keep", [None, [[True, True, False], [False, False, False]]])
def test_the_mean_of_real_tokens(keep):
    tokens = torch.tensor([[[1.0], [3.0], [8.0]], [[5.0], [5.0], [5.0]]])
    side = Encoded(tokens=tokens, keep=None if keep is None else torch.tensor(keep))
    assert side.mean().tolist() == ([[4.0], [5.0]] if keep is None else [[2.0], [0.0]])


def test_a_bf16_step_is_finite_and_near(fusion, picture, text):
    exact = fusion(picture, text).pooled
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(without(picture, [0]), text).pooled
    torch.testing.assert_close(rough[1:].float(), exact[1:], rtol=0.1, atol=0.15)
    rough.float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())
