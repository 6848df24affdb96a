"""What every classifier owes to the rooms around it, whatever its encoders, its fusion and its inputs."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.cost import model_cost
from chiasm.data.transforms import PreprocessConfig
from chiasm.models import FusionClassifierConfig, PictureClassifierConfig, build_model
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.objectives import Classification
from chiasm.text import Tokenizer
from chiasm.types import Batch

CLASSES = ("blue", "green", "red")
VOCABULARY = 11
SIZE = (16, 24)
SIZES = {"width": 16, "depth": 1, "heads": 2}
VIT = VitConfig(size=SIZE, patch_pixels=8, **SIZES)
FLAT_VIT = replace(VIT, depth=0, stem="conv")
TEXT = TextConfig(**SIZES, causal=False, pool="mean", vocabulary=VOCABULARY, rules=TextRules(context=12))
FLAT_TEXT = replace(TEXT, depth=0)
PARTS = {
    "late": (replace(VIT, pool="mean"), TEXT, LateConfig(width=16)),
    "late-own": (replace(VIT, pool="attention"), replace(TEXT, pool="eot"), LateConfig(width=24, join="bilinear")),
    "early": (FLAT_VIT, FLAT_TEXT, EarlyConfig(**SIZES)),
    "early-patches": (replace(VIT, depth=0), FLAT_TEXT, EarlyConfig(**SIZES)),
    "early-conv": (ConvConfig(size=SIZE, widths=(8, 16)), FLAT_TEXT, EarlyConfig(**SIZES | {"width": 24})),
    "cross": (VIT, TEXT, CrossConfig(**SIZES)),
    "perceiver": (FLAT_VIT, FLAT_TEXT, PerceiverFusionConfig(**SIZES, latents=4)),
}  # fmt: skip
FUSED = {
    name: FusionClassifierConfig(vision=vision, text=text, fusion=fusion, classes=CLASSES)
    for name, (vision, text, fusion) in PARTS.items()
}
ALONE = {
    f"{name}-of-{inputs}": replace(FUSED[name], inputs=inputs)
    for name in ("late", "early", "cross", "perceiver")
    for inputs in ("picture", "text")
}
PICTURES = {
    f"vit-{pool}": PictureClassifierConfig(vision=replace(VIT, pool=pool), classes=CLASSES)
    for pool in ("cls", "mean", "attention", "map")
} | {"conv": PictureClassifierConfig(vision=ConvConfig(size=SIZE, widths=(8, 16), pool="mean"), classes=CLASSES)}
CONFIGS = FUSED | ALONE | PICTURES


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


@pytest.fixture(params=FUSED.values(), ids=FUSED)
def fused(request):
    return request.param


@pytest.fixture
def batch(make_images):
    ids = torch.randint(3, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 1
    for row, length in zip(ids, [7, 4, 3, 5], strict=True):
        row[length - 1] = 2
        row[length:] = 0
    names = torch.arange(4)
    return Batch(images=make_images(4, SIZE), ids=ids, keep=ids != 0, image_ids=names, text_ids=names,
                 keys=tuple("abcd"), labels=torch.tensor([2, 0, 1, 1]))  # fmt: skip


def make(config, seed=0, gain=3.0):
    """A model in evaluation mode whose matrices are large enough for every input to matter."""
    torch.manual_seed(seed)
    model = build_model(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "vision.embed" not in name and "stages" not in name:
            parameter.data.mul_(gain)
    return model.eval()


def changed(batch, **values):
    return Batch(**vars(batch) | values)


def rows_of(batch, rows):
    kept = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return changed(batch, **kept, keys=tuple(batch.keys[row] for row in rows))


def close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_it_gives_a_logit_to_every_class(config, batch):
    model = make(config)
    assert model.classes == CLASSES and model.classify(batch).shape == (4, 3)


def test_it_reads_what_its_inputs_say_and_nothing_else(config, batch):
    model = make(config)
    reads_pictures, reads_texts = config.size != (0, 0), config.rules is not None
    before = model.classify(batch)
    other_pictures = model.classify(changed(batch, images=batch.images.roll(1, 0)))
    other_texts = model.classify(changed(batch, ids=batch.ids.flip(0), keep=batch.keep.flip(0)))
    for other, reads in ((other_pictures, reads_pictures), (other_texts, reads_texts)):
        assert (other - before).abs().amax(1).min() > 1e-4 if reads else torch.equal(other, before)
    images = batch.images if reads_pictures else batch.images[:, :, :0, :0]
    columns = slice(None) if reads_texts else slice(0)
    bare = changed(batch, images=images, ids=batch.ids[:, columns], keep=batch.keep[:, columns], labels=None)
    assert torch.equal(model.classify(bare), before)  # what it does not read need not be there, nor the answer


def test_longer_padding_and_what_stands_there_change_nothing(fused, batch):
    model = make(fused)
    long = changed(batch, ids=F.pad(batch.ids, (0, 5), value=9), keep=F.pad(batch.keep, (0, 5)))
    close(model.classify(long), model.classify(batch))


def test_the_order_and_company_of_a_batch_change_nothing(config, batch):
    model = make(config).train()
    logits, order = model.classify(batch), [2, 0, 3, 1]
    close(model.classify(rows_of(batch, order)), logits[order])
    for row in range(4):
        close(model.classify(rows_of(batch, [row]))[0], logits[row])


def test_every_parameter_that_its_inputs_reach_gets_a_gradient(config, batch):
    model = make(config).double().train()
    batch = changed(batch, images=batch.images.double())
    losses = Classification(label_smoothing=0.1)(model, batch)
    losses["loss"].backward()
    alone = getattr(config, "inputs", "both") != "both"
    for name, parameter in model.named_parameters():
        if alone and name.startswith("fusion."):
            continue  # those that would read the other modality have nothing to learn
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


def test_a_missing_modality_is_read_by_nobody(fused, batch):
    model = make(fused)
    no_pictures = changed(batch, images=batch.images[:, :, :0, :0])
    no_texts = changed(batch, ids=batch.ids[:, :0], keep=batch.keep[:, :0])
    full = model.classify(batch)
    for bare in (no_pictures, no_texts):
        logits = model.classify(bare)
        assert logits.isfinite().all() and (logits - full).abs().amax(1).min() > 1e-4
        close(model.classify(rows_of(bare, [3, 1])), logits[[3, 1]])
    with pytest.raises(ValueError, match="both are missing"):
        model.classify(changed(no_texts, images=no_pictures.images))


@pytest.mark.parametrize("missing", ["mask", "token"])
def test_withheld_modalities_teach_it_to_do_without(batch, missing):
    """Every learned stand-in gets a gradient; evaluation withholds nothing; seeds repeat the draw."""
    fusion = replace(FUSED["early"].fusion, missing=missing)
    model = make(replace(FUSED["early"], fusion=fusion, withhold=0.8))
    plain = make(replace(FUSED["early"], fusion=fusion))
    many = rows_of(batch, [0, 1, 2, 3] * 16)
    assert torch.equal(model.classify(many), plain.classify(many))
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(model.train().classify(many))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    touched = (draws[0] - plain.classify(many)).abs().amax(1) > 1e-4
    assert 0.6 < touched.float().mean() < 0.95
    no_picture = plain.classify(changed(many, images=many.images[:, :, :0, :0]))
    no_text = plain.classify(changed(many, ids=many.ids[:, :0], keep=many.keep[:, :0]))
    alike = torch.stack([(draws[0] - other).abs().amax(1) < 1e-4 for other in (no_picture, no_text)])
    assert torch.equal(alike.any(0), touched) and (alike.sum(1) > 12).all() and not alike.all(0).any()
    if missing == "token":
        draws[0].sum().backward()
        assert all(side.absent.grad.abs().max() > 0 for side in (model.fusion.picture, model.fusion.text))


def test_equal_seeds_give_equal_weights_and_other_seeds_others(config, batch):
    first, again, other = (make(config, seed) for seed in (0, 0, 1))
    for (name, p), q in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert torch.equal(first.classify(batch), again.classify(batch))
    assert not torch.equal(first.classify(batch), other.classify(batch))


def test_bf16_autocast_stays_near_in_value_and_finite_in_gradient(config, batch):
    model, objective = make(config, gain=1.0), Classification()
    exact = objective(model, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(model, batch)["loss"]
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(exact.item(), rel=0.05)
    rough.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_it_is_counted_without_being_computed(config):
    cost = model_cost(config, batch_size=2, text_tokens=8, measure=False)
    assert cost.forward_flops > 0 and cost.parameters == sum(p.numel() for p in build_model(config).parameters())


def test_a_bundle_brings_back_the_model_to_the_bit(config, batch, tmp_path):
    tokenizer = Tokenizer.train(["one red dog and two blue"]) if config.rules else None
    vocabulary, unk = (tokenizer.vocab_size, tokenizer.unk) if tokenizer else (0, None)
    model = make(config.completed(vocabulary, unk, CLASSES))
    preprocess = PreprocessConfig(size=config.size, mean=(0.1, 0.2, 0.3))
    Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, card="# A card").save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path)
    assert (loaded.preprocess, loaded.model.config, loaded.model.classes) == (preprocess, model.config, CLASSES)
    assert (loaded.tokenizer is None) == (tokenizer is None) and not loaded.model.training
    for (name, p), q in zip(model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        assert torch.equal(p, q) and p.stride() == q.stride(), name
    small = changed(batch, ids=batch.ids.clamp(max=max(3, vocabulary - 1)))
    assert torch.equal(loaded.model.classify(small), model.classify(small))


def test_configurations_survive_json(config, tmp_path):
    configs.save(config, tmp_path / "config.json")
    assert configs.load(type(config), tmp_path / "config.json") == config


def test_what_the_data_know_completes_it():
    bare = replace(FUSED["early"], classes=())
    with pytest.raises(ValueError, match="needs classes"):
        build_model(bare)
    whole = bare.completed(20, 3, ("a", "b"))
    assert (whole.vocabulary, whole.rules.unk, whole.classes) == (20, 3, ("a", "b"))
    of_pictures = replace(bare, inputs="picture").completed(0, None, ("a", "b"))
    assert (of_pictures.vocabulary, of_pictures.rules, of_pictures.size) == (0, None, SIZE)
    assert replace(bare, inputs="text").size == (0, 0)


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"withhold is a share.*not 1\.5"):
        replace(FUSED["early"], withhold=1.5)
    with pytest.raises(ValueError, match="of the text alone has no modality"):
        replace(FUSED["early"], withhold=0.5, inputs="text")
    with pytest.raises(ValueError, match=r"not what vision\.pool cls makes: set it to none"):
        replace(FUSED["early"], vision=replace(VIT, pool="cls"))
    with pytest.raises(ValueError, match=r"vision\.pool must be cls, mean, attention or map, not none"):
        PictureClassifierConfig(vision=VIT)
