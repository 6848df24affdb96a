"""What every dual encoder owes to the rooms around it: each pooling of pictures and texts, both losses."""

from dataclasses import replace

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.objectives import Contrastive
from chiasm.text import Tokenizer
from chiasm.types import Batch

VIT = {"size": (16, 24), "patch_pixels": 8, "width": 16, "depth": 1, "heads": 2}
VISIONS = {
    **{f"patch-{pool}": VitConfig(**VIT, pool=pool) for pool in ("cls", "mean", "attention", "map")},
    "stem-mean": VitConfig(**VIT, stem="conv", pool="mean"),
    **{f"conv-{pool}": ConvConfig(size=(16, 24), widths=(8, 16), pool=pool) for pool in ("mean", "attention")},
}
TEXTS = {
    "eot-causal": {"pool": "eot", "causal": True},
    "eot-both": {"pool": "eot", "causal": False},
    "mean-causal": {"pool": "mean", "causal": True},
    "mean-both": {"pool": "mean", "causal": False},
    "last-both": {"pool": "last", "causal": False},
}
MODELS = {
    **{f"{name}-{similarity}": (vision, TEXTS["eot-causal"], similarity)
       for name, vision in VISIONS.items() for similarity in ("softmax", "sigmoid")},
    **{f"{name}-softmax": (VISIONS["patch-mean"], text, "softmax") for name, text in TEXTS.items()},
}  # fmt: skip
LENGTHS = [7, 4, 3, 5]


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def settings(request):
    vision, text, similarity = request.param
    return {"vision": vision, "text": text, "similarity": similarity}


@pytest.fixture
def model(settings, make_clip):
    return make_clip(**settings)


@pytest.fixture
def images(make_images):
    return make_images(4, (16, 24))


def ids_padded(to=7, pad=0):
    rows = torch.randint(3, 11, (4, to), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    for row, length in zip(rows, LENGTHS, strict=True):
        row[length - 1] = 2
        row[length:] = pad
    return rows


def batch_of(images, ids, names=(0, 1, 2, 3)):
    rows = torch.arange(4)
    return Batch(
        images=images, ids=ids, keep=ids != 0, image_ids=rows, text_ids=torch.tensor(names), keys=tuple("abcd")
    )


def sides(model, images, ids):
    with torch.no_grad():
        return model.embed_images(images), model.embed_texts(ids)


def test_shapes(model, images):
    for vectors in sides(model, images, ids_padded()):
        assert (vectors.shape, vectors.dtype) == ((4, 20), torch.float32)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


def test_pictures_and_texts_matter(model, images):
    for vectors in sides(model, images, ids_padded()):
        assert (vectors - vectors.roll(1, 0)).abs().amax(1).min() > 1e-3


def test_padding_changes_no_vector(model):
    generator = torch.Generator().manual_seed(3)
    short, long = ids_padded(), torch.nn.functional.pad(ids_padded(), (0, 5))
    loud = torch.where(
        torch.arange(12) < torch.tensor(LENGTHS)[:, None], long, torch.randint(0, 11, (4, 12), generator=generator)
    )
    with torch.no_grad():
        wanted = model.embed_texts(short)
        for ids in (long, loud):
            torch.testing.assert_close(model.embed_texts(ids), wanted, rtol=1e-4, atol=1e-5)


def test_the_order_and_company_of_a_batch_change_nothing(model, images):
    model.train()
    order = torch.tensor([2, 0, 3, 1])
    whole, turned = sides(model, images, ids_padded()), sides(model, images[order], ids_padded()[order])
    for vectors, others in zip(whole, turned, strict=True):
        torch.testing.assert_close(others, vectors[order], rtol=1e-4, atol=1e-5)
    for row in range(4):
        one = slice(row, row + 1)
        for vectors, alone in zip(whole, sides(model, images[one], ids_padded()[one]), strict=True):
            torch.testing.assert_close(alone, vectors[one], rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(model, images):
    model.double()  # so that the rounding noise of an inert parameter is far below any gradient
    pick = model.embed_images, model.embed_texts
    vectors = [pooled(model, images.double(), side) for side, _ in enumerate(pick)]
    cosines = vectors[0] @ vectors[1].T
    logits = model.log_scale.exp() * cosines + (0 if model.bias is None else model.bias)
    (logits.log_softmax(1).diagonal().sum() + logits.sigmoid().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


def pooled(model, images, side):
    """Unit vectors without the step to fp32, in which small gradients would drown."""
    encoded = (model.vision(images), model.text(ids_padded()))[side].pooled
    return torch.nn.functional.normalize((model.project_image, model.project_text)[side](encoded), dim=1)


def test_the_loss_reaches_every_parameter_too(model, images):
    model.train()
    Contrastive()(model, batch_of(images, ids_padded())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_evaluation_is_deterministic_and_training_repeats_with_its_seed(settings, make_clip, images):
    vision = settings["vision"]
    drops = replace(vision, dropout=0.3) if isinstance(vision, VitConfig) else vision
    model = make_clip(**settings | {"vision": drops, "text": settings["text"] | {"dropout": 0.3}}).train()
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(sides(model, images, ids_padded())[1])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    model.eval()
    for first, again in zip(*(sides(model, images, ids_padded()) for _ in range(2)), strict=True):
        assert torch.equal(first, again)


def test_bf16_autocast_stays_near_in_value_and_finite_in_gradient(settings, make_clip, images):
    model = make_clip(**settings, gain=1.0)
    batch = batch_of(images, ids_padded())
    exact = Contrastive()(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = Contrastive()(model, batch)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.1, abs=0.1)
    rough.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_bundle_brings_back_the_model_to_the_bit(settings, make_clip, images, tmp_path):
    tokenizer = Tokenizer.train(["one red dog and two blue cats"])
    model = make_clip(**settings, vocabulary=tokenizer.vocab_size)
    Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 24))).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path).model
    assert loaded.config == model.config and not loaded.training
    for (name, p), q in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(p, q) and p.stride() == q.stride(), name
    ids = tokenizer.encode(["one red dog", "two blue cats and one dog"], context=12)
    for first, second in zip(sides(model, images, ids), sides(loaded, images, ids), strict=True):
        assert torch.equal(first, second)
