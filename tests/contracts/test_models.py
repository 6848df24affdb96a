"""What every captioner owes to the rooms around it, whatever its sizes and its fusion."""

from dataclasses import replace

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.generate import GenerateConfig, generate
from chiasm.models import CaptionerConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.objectives import Captioning
from chiasm.text import Tokenizer
from chiasm.types import Batch

VIT = {"size": (16, 24), "patch_pixels": 8, "width": 16, "depth": 1, "heads": 2}
VISIONS = {
    **{f"patch-{pool}": VitConfig(**VIT, pool=pool) for pool in ("none", "cls", "mean", "attention")},
    **{f"stem-{pool}": VitConfig(**VIT, stem="conv", pool=pool) for pool in ("none", "cls", "mean", "attention")},
    **{f"conv-{pool}": ConvConfig(size=(16, 24), widths=(8, 16), pool=pool) for pool in ("none", "mean", "attention")},
}
NARROW = ConvConfig(size=(16, 24), widths=(8,))
FUSIONS = {
    "early": (VISIONS["patch-none"], {"fusion": "early"}),
    "early-pooled": (VISIONS["stem-cls"], {"fusion": "early"}),
    "early-depth-0": (replace(VISIONS["stem-none"], depth=0), {"fusion": "early"}),
    "early-projected": (NARROW, {"fusion": "early"}),
    "late": (VISIONS["conv-none"], {"fusion": "late"}),
    "late-pooled": (VISIONS["patch-attention"], {"fusion": "late"}),
    "perceiver": (VISIONS["patch-none"], {"fusion": "perceiver", "latents": 3}),
    "perceiver-pooled": (VISIONS["conv-mean"], {"fusion": "perceiver", "latents": 3, "latent_blocks": 2}),
    "perceiver-narrow": (NARROW, {"fusion": "perceiver", "latents": 3, "latent_blocks": 0}),
}
CONFIGS = {name: (vision, {}) for name, vision in VISIONS.items()} | FUSIONS
VOCABULARY = 11


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def sizes(request):
    return request.param


@pytest.fixture
def model(sizes, make_captioner):
    vision, changes = sizes
    return make_captioner(vision, vocabulary=VOCABULARY, **changes)


@pytest.fixture
def images(make_images):
    return make_images(4, (16, 24))


@pytest.fixture
def ids():
    rows = torch.randint(3, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    return rows


def build_config(vision, dropout=0.0, **changes):
    decoder = DecoderConfig(
        width=16, depth=2, heads=2, vocabulary=VOCABULARY, rules=TextRules(context=12), dropout=dropout
    )
    return CaptionerConfig(vision=vision, decoder=decoder, **changes)


def seeded(config, seed):
    torch.manual_seed(seed)
    return build_model(config)


def batch_of(images, ids):
    names = torch.arange(len(ids))
    keys = tuple(map(str, names.tolist()))
    return Batch(images=images, ids=ids, keep=ids != 0, image_ids=names, text_ids=names, keys=keys)


def padded(ids, lengths, to):
    """Texts of these lengths (BOS and EOT included), with pads up to `to`."""
    rows = torch.nn.functional.pad(ids, (0, to - ids.shape[1]))
    for row, length in zip(rows, lengths, strict=True):
        row[length - 1] = 2
        row[length:] = 0
    return rows


def test_shapes(model, images, ids):
    hidden = model(images, ids)
    assert hidden.shape == (4, 7, 16)
    assert model.head(hidden).shape == (4, 7, VOCABULARY)
    seen = model.vision(images)
    rows, columns = model.vision.grid((16, 24))
    assert seen.tokens.shape == (4, rows * columns, model.vision.width) and seen.keep is None
    assert (seen.pooled is None) == (model.config.vision.pool == "none")
    read = {"late": 1, "perceiver": 3}.get(model.config.fusion, rows * columns + (seen.pooled is not None))
    assert model.encode(images).tokens.shape[:2] == (4, read)
    if model.looks:
        assert model.attention_maps(images, ids).shape == (4, 7, rows, columns)


@pytest.mark.parametrize("size", [(24, 16), (32, 48), (8, 8)], ids=str)
def test_pictures_of_another_size_than_trained(model, make_images, ids, size):
    pictures = make_images(4, size)
    assert model.head(model(pictures, ids)).isfinite().all()
    if model.looks:
        assert model.attention_maps(pictures, ids).shape[2:] == model.vision.grid(size)


def test_longer_padding_changes_no_real_token(model, images, ids):
    lengths = [7, 4, 3, 5]
    short, long = padded(ids, lengths, 7), padded(ids, lengths, 12)
    first, second = model.head(model(images, short)), model.head(model(images, long))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(first[row, :length], second[row, :length], rtol=1e-4, atol=1e-5)
    losses = [Captioning(label_smoothing=0.1)(model, batch_of(images, rows)) for rows in (short, long)]
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-5, atol=1e-4)


def test_the_order_and_company_of_a_batch_change_nothing(model, images, ids):
    model.train()
    logits, order = model.head(model(images, ids)), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.head(model(images[order], ids[order])), logits[order], rtol=1e-4, atol=1e-5)
    for row in range(4):
        alone = model.head(model(images[row : row + 1], ids[row : row + 1]))
        torch.testing.assert_close(alone[0], logits[row], rtol=1e-4, atol=1e-5)


def test_no_token_sees_a_later_one(model, images, ids):
    changed = ids.clone()
    changed[:, 4:] = (ids[:, 4:] - 2) % 8 + 3
    before, after = model(images, ids), model(images, changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


def test_every_picture_matters_at_every_token(model, images, ids):
    before, after = model(images, ids), model(images.roll(1, 0), ids)
    assert (before - after).abs().amax(-1).min() > 1e-5


def test_every_parameter_gets_a_gradient(model, images, ids):
    model.double()  # so that the rounding noise of an inert parameter is far below any gradient
    losses = Captioning(label_smoothing=0.1)(model, batch_of(images.double(), padded(ids, [7, 4, 3, 5], 7)))
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


def test_equal_seeds_give_equal_weights_and_other_seeds_others(sizes):
    vision, changes = sizes
    first, again, other = (seeded(build_config(vision, **changes), seed) for seed in (0, 0, 1))
    for (name, p), q, r in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        random = p.ndim >= 2 and "positions.table" not in name  # the rest starts the same for all
        assert not random or not torch.equal(p, r), name


def test_evaluation_is_deterministic_and_training_repeats_with_its_seed(sizes, images, ids):
    vision, changes = sizes
    drops = replace(vision, dropout=0.3) if isinstance(vision, VitConfig) else vision
    model = seeded(build_config(drops, dropout=0.3, **changes), 0)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(model(images, ids))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    model.eval()
    assert torch.equal(model(images, ids), model(images, ids))


def test_bf16_autocast_stays_near_in_value_and_finite_in_gradient(model, images, ids):
    objective, batch = Captioning(), batch_of(images, ids)
    exact = objective(model, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(model, batch)["loss"]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    rough.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_bundle_brings_back_the_model_to_the_bit(sizes, make_captioner, images, tmp_path):
    vision, changes = sizes
    tokenizer = Tokenizer.train(["one red dog and two blue cats"])
    model = make_captioner(vision, vocabulary=tokenizer.vocab_size, **changes)
    preprocess = PreprocessConfig(size=(16, 24), mean=(0.1, 0.2, 0.3), trim=True)
    Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, card="# A card").save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path)
    assert (loaded.preprocess, loaded.card, loaded.model.config) == (preprocess, "# A card", model.config)
    assert not loaded.model.training
    for (name, p), q in zip(model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        assert torch.equal(p, q) and p.stride() == q.stride(), name
    assert loaded.model.decoder.head.weight is loaded.model.decoder.embed.tokens.weight
    config = GenerateConfig(mode="beam")
    assert generate(loaded.model, images, config) == generate(model, images, config)
    assert loaded.tokenizer.decode([4, 5, 6]) == tokenizer.decode([4, 5, 6])
