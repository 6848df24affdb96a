"""What learns in fine-tuning, how fast by depth, that the rest rests, and that a run does as it says."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from chiasm.bundle import Bundle
from chiasm.errors import UserError
from chiasm.models import CaptionerConfig, ClipConfig, FusionClassifierConfig, PictureClassifierConfig, build_model
from chiasm.models.adapted import Adapted, ModuleVisionConfig
from chiasm.models.clip import Clip
from chiasm.models.decoder import DecoderConfig
from chiasm.models.fusion import LateConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import weight_decay_groups
from chiasm.nn.lora import has_lora
from chiasm.train import contrastive, outcome
from chiasm.train.config import TokenizerConfig, TrainConfig
from chiasm.train.engine import Engine, learning_rate
from chiasm.train.finetune import layer_groups, rest_frozen, tower_layers, tune_only
from chiasm.train.run import train

VISION = VitConfig(size=(32, 32), width=16, depth=3, heads=2, pool="cls", norm_first=True, dropout=0.5, patch_pixels=8)
TEXT = TextConfig(width=16, depth=2, heads=2, vocabulary=9, dropout=0.5)
OUTSIDE = {"project_image.weight", "project_text.weight", "log_scale"}


def make(**changes):
    torch.manual_seed(0)
    return build_model(dataclasses.replace(ClipConfig(vision=VISION, text=TEXT, embed_dim=8), **changes))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def layers_by_name(tower):
    names = {id(p): name for name, p in tower.named_parameters()}
    return [{names[id(p)] for p in layer} for layer in tower_layers(tower)]


def test_a_towers_layers_go_from_the_input_up():
    below, *blocks, above = layers_by_name(make().vision)
    assert {name.split(".")[0] for name in below} == {"cls", "embed", "positions", "norm_first"}
    assert [{name.rsplit(".")[1] for name in block} for block in blocks] == [{"0"}, {"1"}, {"2"}]
    assert {name.split(".")[0] for name in above} == {"norm"}
    below, *blocks, above = layers_by_name(make().text)
    assert (below, above) == ({"embed.positions", "embed.tokens.weight"}, {"norm.weight", "norm.bias"})
    assert len(blocks) == 2


@pytest.mark.parametrize(
    "tower",
    [
        lambda: make(vision=ConvConfig(pool="attention")).vision,
        lambda: make(vision=VitConfig(size=(32, 32), width=16, depth=0, heads=2, pool="mean")).vision,
        lambda: build_model(CaptionerConfig(decoder=DecoderConfig(vocabulary=9))).decoder,
        lambda: Adapted(ModuleVisionConfig(factory="", width=3, tune=True), nn.Conv2d(3, 3, 1)),
    ],
)
def test_every_parameter_of_every_tower_is_in_one_layer(tower):
    tower = tower()
    found = [id(p) for layer in tower_layers(tower) for p in layer]
    assert sorted(found) == sorted(id(p) for p in tower.parameters())


def test_what_learns_by_name():
    model = make()
    every = trained(model)
    tune_only(model, "full")
    assert trained(model) == every
    tune_only(model, "projection")
    assert trained(model) == OUTSIDE
    last, model = {"vision.blocks.2.", "vision.norm.", "text.blocks.1.", "text.norm."}, make()
    tune_only(model, "last", blocks=1)
    assert trained(model) - OUTSIDE == {name for name in every if name.startswith(tuple(last))}
    model = make()
    tune_only(model, "last", blocks=9)  # more than there are: the embeddings still rest
    kept = every - trained(model)
    assert kept and all(n.split(".")[1] in ("cls", "embed", "positions", "norm_first") for n in kept)


def test_low_rank_terms_alone_learn_and_start_as_the_identity():
    model, plain = make().eval(), make().eval()
    images, ids = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 2]])
    tune_only(model, "lora", rank=2)
    assert torch.equal(model.embed_images(images), plain.embed_images(images))
    assert torch.equal(model.embed_texts(ids), plain.embed_texts(ids))
    terms = trained(model) - OUTSIDE
    assert len(terms) == 2 * 3 * (3 + 2) and all(n.endswith((".up", ".down")) and "attend_self" in n for n in terms)


def test_a_locked_tower_stays_locked_and_an_open_one_of_any_kind_gets_low_rank_terms():
    def clip(tune):
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        vision = Adapted(ModuleVisionConfig(factory="", width=4, size=(32, 32), tune=tune), net)
        return Clip.from_parts(vision, make().text, embed_dim=8)

    for tune in ("full", "projection", "last", "lora"):
        model = clip(False)
        tune_only(model, tune)
        assert not any(name.startswith("vision") for name in trained(model))
    model = clip(True)
    tune_only(model, "lora", rank=2)
    assert {name for name in trained(model) if name.startswith("vision")} == {
        f"vision.module.1.parametrizations.weight.0.{side}" for side in ("down", "up")
    }


def test_learning_rates_fall_by_depth_and_weight_decay_keeps_its_rule():
    model = make()
    groups = layer_groups(model, 0.1, 0.5)
    found = {id(p): (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    decays = {id(p): g["weight_decay"] for g in weight_decay_groups(model, 0.1) for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(decays)
    for name, parameter in model.named_parameters():
        place = name.split(".")
        depth = {"vision": 3, "text": 2}.get(place[0], 0)
        if name in OUTSIDE or place[1] == "norm":
            factor = 1.0
        elif place[1] == "blocks":
            factor = 0.5 ** (depth - int(place[2]))  # the last block of three: 0.5
        else:
            factor = 0.5 ** (depth + 1)
        assert found[id(parameter)] == (factor, decays[id(parameter)]), name
    assert {g["factor"] for g in layer_groups(model, 0.1, 1.0)} == {1.0}


def test_frozen_parts_rest_and_the_others_do_not():
    model, images = make(), torch.randn(2, 3, 32, 32)
    tune_only(model, "last")
    model.train()
    rest_frozen(model)
    assert [block.training for block in model.vision.blocks] == [False, False, True]
    assert model.vision.blocks[2].drop.training and not model.vision.blocks[0].drop.training
    tune_only(model, "projection")
    model.train()
    rest_frozen(model)
    assert torch.equal(model.embed_images(images), model.embed_images(images))


def test_each_group_keeps_its_factor_in_every_step(clip_settings, tmp_path, monkeypatch):
    seen, update = [], Engine._update_average

    def recording(engine, step):
        seen.append((step, [(g["lr"], g["factor"]) for g in engine.optimizers().param_groups]))
        update(engine, step)

    monkeypatch.setattr(Engine, "_update_average", recording)
    given = clip_settings(layer_decay=0.5)
    train(given, tmp_path / "run")
    assert len(seen) == 3 and {factor for _, factor in seen[0][1]} == {1.0, 0.5, 0.25, 0.125}
    for step, groups in seen:
        rate = learning_rate(step, 3, given.train)
        assert all(found == pytest.approx(rate * factor) for found, factor in groups)


def test_frozen_blocks_rest_in_every_step_also_after_validation(clip_settings, tmp_path, monkeypatch):
    seen, backward = [], Engine._backward

    def recording(engine, batch):
        seen.append([block.training for block in (*engine.model.vision.blocks, *engine.model.text.blocks)])
        return backward(engine, batch)

    monkeypatch.setattr(Engine, "_backward", recording)
    train(clip_settings(tune="last", validate_every_epochs=0.25), tmp_path / "run")
    assert seen == [[False, True, False, True]] * 3


@pytest.mark.parametrize(
    ("model", "how", "told"),
    [
        (lambda: make(), {"tune": "last", "blocks": 0}, "tune_blocks is 0"),
        (lambda: make(), {"tune": "lora", "rank": 99}, "rank is 99"),
        (lambda: build_model(CaptionerConfig(decoder=DecoderConfig(vocabulary=9))), {"tune": "projection"},
         "no parameter of the Captioner would learn"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned(model, how, told):
    with pytest.raises(ValueError, match=told):
        tune_only(model(), **how)


@pytest.mark.parametrize(("name", "value"), [("tune_blocks", 0), ("lora_rank", 0), ("layer_decay", 1.5)])
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        TrainConfig(**{name: value})


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Drawing takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "draw_clip", lambda *_, **__: None)
        patch.setattr(outcome, "curves_figure", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def clip_settings(settings):
    model = ClipConfig(
        vision=VitConfig(size=(32, 32), width=32, depth=2, heads=2, pool="mean", dropout=0.1),
        text=TextConfig(width=32, depth=2, heads=2, dropout=0.1),
        embed_dim=16,
    )
    words = TokenizerConfig(units="bpe", vocab_size=300)

    def make(start=None, **train):
        plain = settings(**{"steps": 3, "validate_every_epochs": 1.0} | train)
        return dataclasses.replace(plain, model=model, tokenizer=words, start=start)

    return make


@pytest.fixture(scope="module")
def original(clip_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "run"
    assert train(clip_settings(), folder).finished
    return folder


def weights(folder):
    return load_file(folder / "bundle" / "model.safetensors")


@pytest.mark.parametrize(
    ("tune", "moved"),
    [("full", {"embed", "0", "1"}), ("projection", set()), ("last", {"1"}), ("lora", {"0", "1"})],
)
def test_a_run_moves_what_it_tunes_and_leaves_a_plain_bundle(tune, moved, clip_settings, original, tmp_path):
    assert train(clip_settings(str(original), tune=tune, lora_rank=2), tmp_path / "run").finished
    before, after = weights(original), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed >= OUTSIDE
    found = {
        name.split(".")[2] if ".blocks." in name else "embed" for name in changed - OUTSIDE if ".norm." not in name
    }
    assert found == moved
    bundle = Bundle.load(tmp_path / "run")
    assert not has_lora(bundle.model) and bundle.tokenizer == Bundle.load(original).tokenizer


def test_a_run_starts_at_the_model_that_it_is_given(clip_settings, original, tmp_path):
    still = clip_settings(str(original), steps=1, learning_rate=1e-12, tune="lora")
    train(still, tmp_path / "run")
    before, after = weights(original), weights(tmp_path / "run")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_a_killed_low_rank_run_ends_as_the_undisturbed_one(clip_settings, original, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    given = clip_settings(str(original), tune="lora", layer_decay=0.5, steps=4)
    train(given, tmp_path / "whole")
    backward = Engine._backward

    def killed(engine, batch):
        if engine.global_step == 2:
            raise Killed
        return backward(engine, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Engine, "_backward", killed)
        train(given, tmp_path / "killed")
    assert train(given, tmp_path / "killed", resume=True).finished
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_start_that_does_not_fit_is_refused(clip_settings, original, tmp_path):
    wide = clip_settings(str(original))
    wide = dataclasses.replace(wide, model=dataclasses.replace(wide.model, embed_dim=24))
    with pytest.raises(UserError, match="of another shape"):
        train(wide, tmp_path / "wide")
    with pytest.raises(UserError, match="nowhere"):
        train(clip_settings(str(tmp_path / "nowhere")), tmp_path / "lost")
    with pytest.raises(UserError, match=r"train\.tune is 'lora': rank is 99"):
        train(clip_settings(str(original), tune="lora", lora_rank=99), tmp_path / "rank")


def test_a_classifier_is_tuned_by_its_towers():
    fusion = FusionClassifierConfig(
        vision=VISION, text=dataclasses.replace(TEXT, causal=False, pool="mean"), fusion=LateConfig(width=16),
        classes=("a", "b"),
    )  # fmt: skip
    model = build_model(dataclasses.replace(fusion, vision=dataclasses.replace(VISION, pool="mean")))
    tune_only(model, "projection")
    assert {name.split(".")[0] for name in trained(model)} == {"head"}
    model = build_model(PictureClassifierConfig(vision=VISION, classes=("a", "b")))
    tune_only(model, "last")
    blocks = {name.split(".")[2] for name in trained(model) if name.startswith("vision.blocks")}
    assert blocks == {"2"} and "head.weight" in trained(model)
    factors = {id(p): group["factor"] for group in layer_groups(model, 0.1, 0.5) for p in group["params"]}
    assert factors[id(model.head.weight)] == 1.0
