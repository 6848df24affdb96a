"""CoCa: both abilities, what each half sees, both losses' gradients, and one pass equal to many."""

from dataclasses import replace

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.cost import model_cost
from chiasm.data.transforms import PreprocessConfig
from chiasm.generate import GenerateConfig, generate
from chiasm.models import Coca, CocaConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.objectives import Captioning, Contrastive, ContrastiveCaptioning
from chiasm.text import Tokenizer
from chiasm.train.finetune import tune_only
from chiasm.types import Batch

LENGTHS = [7, 4, 3, 5]
VISIONS = {
    "vit": VitConfig(size=(16, 24), patch_pixels=8, width=16, depth=1, heads=2),
    "conv": ConvConfig(size=(16, 24), widths=(8, 24)),
}


@pytest.fixture(params=VISIONS)
def model(request, make_coca):
    return make_coca(VISIONS[request.param])


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


def same(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_one_pass_gives_what_each_ability_gives_alone(model, images):
    ids = ids_padded()
    pairs = model.pairs(images, ids)
    same(pairs.images, model.embed_images(images))
    same(pairs.texts, model.embed_texts(ids))
    alone = model(images, ids[:, :-1])
    for row, length in enumerate(LENGTHS):
        same(pairs.hidden[row, : length - 1], alone[row, : length - 1])
    for vectors in (pairs.images, pairs.texts):
        assert (vectors.shape, vectors.dtype) == ((4, 20), torch.float32)
        same(vectors.norm(dim=1), torch.ones(4))
        assert (vectors - vectors.roll(1, 0)).abs().amax(1).min() > 1e-3


def test_the_text_s_vector_is_what_the_first_half_makes_of_a_token_behind_all_words(model):
    """Written out: words and the learned token through the blocks one text at a time, no mask but the causal one."""
    for row, length in zip(ids_padded(), LENGTHS, strict=True):
        words = model.decoder.embed(row[None, :length])
        x = torch.cat([words, model.cls[None, None]], 1)
        for block in model.decoder.blocks[:2]:
            x = block(x, causal=True)
        wanted = torch.nn.functional.normalize(model.project_text(model.norm_text(x[:, -1])), dim=-1)
        same(model.embed_texts(row[None]), wanted)


def test_pads_and_what_stands_behind_the_end_leave_no_trace(model, images):
    short, long = ids_padded(), ids_padded(to=12)
    long[:, :7] = short
    loud = torch.where(torch.arange(12) < torch.tensor(LENGTHS)[:, None], long, 5)
    for ids in (long, loud):
        same(model.embed_texts(ids), model.embed_texts(short))
    first, second = (ContrastiveCaptioning()(model, batch_of(images, ids)) for ids in (short, long))
    for name in first:
        same(first[name], second[name])


def test_no_word_sees_a_later_one_nor_the_token_that_reads_them(model, images):
    ids = ids_padded()
    ids[:, 1:] = 3
    ids[:, -1] = 2
    changed = ids.clone()
    changed[:, 4:6] = 7
    before, after = model.pairs(images, ids), model.pairs(images, changed)
    assert torch.equal(before.hidden[:, :4], after.hidden[:, :4])
    assert (before.hidden[:, 4] - after.hidden[:, 4]).abs().max() > 1e-3
    model.cls.data += torch.randn(16)
    again = model.pairs(images, ids)
    assert torch.equal(again.hidden, before.hidden) and not torch.equal(again.texts, before.texts)


def test_the_text_s_vector_knows_no_picture_and_the_picture_s_no_text(model, images):
    ids = ids_padded()
    before, other = model.pairs(images, ids), model.pairs(images.roll(1, 0), ids)
    assert torch.equal(before.texts, other.texts) and torch.equal(before.images.roll(1, 0), other.images)
    assert (before.hidden - other.hidden).abs().amax(-1)[:, :2].min() > 1e-5  # but every word's prediction does


def test_a_text_without_an_end_is_refused(model):
    with pytest.raises(ValueError, match="no EOT"):
        model.embed_texts(torch.tensor([[1, 5, 6]]))


def test_the_loss_is_the_weighted_sum_of_what_both_objectives_say(model, images):
    batch = batch_of(images, ids_padded(), names=(0, 1, 0, 3))
    told = ContrastiveCaptioning(label_smoothing=0.1)(model, batch)
    captioning = Captioning(label_smoothing=0.1)
    words = {name: loss / captioning.count(batch) for name, loss in captioning(model, batch).items()}
    contrastive = Contrastive()(model, batch)
    same(told["contrastive_loss"], contrastive)
    same(told["token_loss"], words["token_loss"])
    same(told["loss"], contrastive + 2 * words["loss"])
    value, pairs = ContrastiveCaptioning().validate(model, batch)
    excess = float(contrastive.detach()) - Contrastive().floor(model, batch)
    assert pairs == 4 and value / 4 == pytest.approx(excess + 2 * float(words["token_loss"].detach()), rel=1e-4)


def test_every_parameter_gets_a_gradient_and_each_loss_reaches_what_it_should(model, images):
    model.double()
    batch = batch_of(images.double(), ids_padded())

    def reached(objective):
        model.zero_grad()
        objective(model, batch)["loss"].backward()
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-8}

    names = {name for name, _ in model.named_parameters()}
    assert reached(ContrastiveCaptioning(label_smoothing=0.1)) == names
    contrast = reached(ContrastiveCaptioning(captioning_weight=0.0))
    caption = reached(ContrastiveCaptioning(contrastive_weight=0.0))
    second_half = {n for n in names if n.startswith(("decoder.blocks.2", "decoder.blocks.3", "decoder.norm"))}
    assert contrast == names - second_half
    of_vectors = ("image_pool", "project_", "norm_image", "norm_text", "cls", "log_scale")
    assert names - caption == {name for name in names if name.startswith(of_vectors)}


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_has_the_whole_batch_s_gradient(model, images, parts):
    batch, objective = batch_of(images, ids_padded()), ContrastiveCaptioning(label_smoothing=0.1)
    model.train()
    whole = objective.backward(model, batch, 1, lambda loss: loss.backward())
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    told = objective.backward(model, batch, parts, lambda loss: loss.backward())
    assert told.keys() == {"loss", *objective.columns}
    assert told == pytest.approx(whole, rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


def test_chance_and_the_clamp_are_the_contrastive_ones(model, images):
    objective, rows = ContrastiveCaptioning(), [{"loss": 9.0, "contrastive_loss": 1.38, "floor": 0.0, "chance": 1.386}]
    assert "tells nothing apart" in objective.advice(rows)
    assert objective.advice([rows[0] | {"contrastive_loss": 0.5}]) is None
    assert objective.ending(model, rows)[0].startswith("the training loss ended at 1.380")
    model.log_scale.data.fill_(9.0)
    objective.after_step(model)
    assert float(model.log_scale.detach().exp()) == pytest.approx(100)


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2]], ids=str)
def test_cached_steps_equal_the_forward_pass(model, images, chunks):
    ids = torch.randint(3, 11, (4, 12), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = model.head(model(images, ids))
        draft = model.start(images)
        logits = torch.cat([model.decoder.step(part, draft) for part in ids.split(chunks, 1)], 1)
    same(logits, wanted)


def test_captions_in_a_batch_and_by_one_beam_are_those_written_alone(model, images):
    greedy = generate(model, images, GenerateConfig())
    assert generate(model, images, GenerateConfig(mode="beam", beams=1)) == greedy
    beams = GenerateConfig(mode="beam", beams=3, captions=2)
    together = generate(model, images, beams)
    for row in range(4):
        one = images[row : row + 1]
        assert [t.ids for t in generate(model, one, GenerateConfig())[0]] == [t.ids for t in greedy[row]]
        assert [t.ids for t in generate(model, one, beams)[0]] == [t.ids for t in together[row]]
    assert len({text.ids for (text,) in greedy}) > 1


def test_attention_maps_are_shares_of_the_grid(model, images):
    maps = model.attention_maps(images, ids_padded())
    assert maps.shape == (4, 7, *model.vision.grid((16, 24))) and model.looks
    same(maps.sum((2, 3)), torch.ones(4, 7))
    assert (maps - maps.roll(1, 0)).abs().max() > 1e-4


def test_evaluation_is_deterministic_and_bf16_stays_near(make_coca, images):
    model = make_coca(replace(VISIONS["vit"], dropout=0.3), dropout=0.3, gain=1.0)
    batch = batch_of(images, ids_padded())
    exact = ContrastiveCaptioning()(model, batch)["loss"]
    assert torch.equal(ContrastiveCaptioning()(model, batch)["loss"], exact)
    with torch.autocast("cpu", torch.bfloat16):
        rough = ContrastiveCaptioning()(model, batch)["loss"]
    assert rough.dtype == torch.float32 and rough.item() == pytest.approx(exact.item(), rel=0.05, abs=0.1)


def test_a_bundle_brings_back_the_model_to_the_bit(make_coca, images, tmp_path):
    tokenizer = Tokenizer.train(["one red dog and two blue cats"])
    model = make_coca(VISIONS["vit"], vocabulary=tokenizer.vocab_size)
    Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 24))).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path).model
    assert loaded.config == model.config and not loaded.training
    assert loaded.decoder.head.weight is loaded.decoder.embed.tokens.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_what_costs_is_counted():
    cost = model_cost(settings(), batch_size=4, text_tokens=12, measure=False)
    assert cost.parameters == sum(p.numel() for p in Coca(settings()).parameters())
    assert cost.step_flops > 2 * cost.forward_flops > 0


def test_what_learns_can_be_chosen(make_coca):
    model = make_coca(VISIONS["vit"])
    tune_only(model, "projection")
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"caption_pool", "norm_latents", "image_pool", "norm_image", "norm_text", "cls", "log_scale",
                        "project_image", "project_text"}  # fmt: skip


def test_counting_on_the_meta_device_runs_every_weight(images):
    with torch.device("meta"):
        model = Coca(settings())
        ContrastiveCaptioning().plain(model, batch_of(images, ids_padded()).to("meta")).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["log_scale"]


def settings(**decoder):
    sizes = {"width": 16, "depth": 4, "heads": 2, "unimodal_depth": 2, "vocabulary": 11} | decoder
    return CocaConfig(
        vision=VISIONS["vit"], latents=5, embed_dim=20, decoder=DecoderConfig(rules=TextRules(context=12), **sizes)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: replace(settings(), vision=replace(VISIONS["vit"], pool="cls")), "vision.pool must be none"),
        (lambda: replace(settings(), latents=0), "latents is 0"),
        (lambda: settings(unimodal_depth=0), "neither half can be empty"),
        (lambda: settings(unimodal_depth=4), "neither half can be empty"),
        (lambda: settings(unimodal_depth=5), "of 4 blocks, 5 cannot read words alone"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, told):
    with pytest.raises(ValueError, match=told):
        change()
