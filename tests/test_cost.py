"""Counted costs equal those worked out by hand; memory and steps are those of a real training step."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from chiasm.cli.settings import start_settings
from chiasm.cost import (
    Trainee,
    example_batch,
    free_bytes,
    growth,
    largest_batch,
    measure_step_seconds,
    model_cost,
    pictures_per_sequence,
    predicted_step_seconds,
    step_bytes,
    training_objective,
    worthwhile_precisions,
)
from chiasm.errors import UserError
from chiasm.models import CaptionerConfig, ClipConfig, build_model
from chiasm.models.captioner import with_fusion
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.objectives import Captioning, objective_of

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
    assert cost.state_bytes == 16 * cost.parameters  # value, two moments, average
    assert cost.step_seconds == {}


def test_what_is_frozen_has_no_state_but_itself():
    config = start_settings("flamingo", "tiny").completed(50).model
    locked = replace(config, frozen=("vision", "decoder"))
    model = build_model(locked)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cost = model_cost(locked, batch_size=1, text_tokens=8, measure=False)
    assert cost.state_bytes == 4 * cost.parameters + 12 * learning < 16 * cost.parameters
    assert cost.step_flops < model_cost(config, batch_size=1, text_tokens=8, measure=False).step_flops


def test_nothing_is_drawn_or_allocated_where_nothing_is_measured():
    huge = replace(CONFIG, vision=VitConfig(size=(224, 224), patch_pixels=16, width=4096, depth=12, heads=32))
    assert model_cost(huge, batch_size=256, text_tokens=10, measure=False).parameters > 2 * 10**9
    assert step_bytes(huge, batch_size=256, text_tokens=10).peak > 2**37


def test_measuring_gives_seconds_for_each_precision_and_leaves_the_weights():
    cost = model_cost(CONFIG, batch_size=B, text_tokens=10)
    assert set(cost.step_seconds) == {"fp32", "bf16"} and all(0 < s < 10 for s in cost.step_seconds.values())
    model = build_model(CONFIG)
    before = [p.clone() for p in model.parameters()]
    measure_step_seconds(model, Captioning(), example_batch(CONFIG, B, 10), "fp32", accumulate=2)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))


def test_slow_steps_are_measured_once_and_quick_ones_thrice(monkeypatch):
    class Counted(Captioning):
        passes = 0

        def backward(self, *args):
            self.passes += 1
            return super().backward(*args)

    model, batch = build_model(CONFIG), example_batch(CONFIG, B, 10)
    for budget, passes in ((1e9, 4), (0.0, 2)):
        monkeypatch.setattr("chiasm.cost.seconds.MEASURING_SECONDS", budget)
        measure_step_seconds(model, counted := Counted(), batch, "fp32", 1)
        assert counted.passes == passes


def test_bf16_is_worth_measuring_where_products_are_faster_in_it(monkeypatch):
    for bf16, worth in ((0.5, ("fp32", "bf16")), (2.0, ("fp32",))):
        seconds = {torch.bfloat16: bf16, torch.float32: 1.0}
        monkeypatch.setattr("chiasm.cost.seconds._product_seconds", seconds.__getitem__)
        assert worthwhile_precisions() == worth
    monkeypatch.undo()
    assert worthwhile_precisions()[0] == "fp32"


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


def test_a_sigmoid_dual_encoder_s_steps_are_measured_for_each_precision():
    config = replace(CLIP, similarity="sigmoid")
    seconds = predicted_step_seconds(config, B, L, budget_seconds=0.1)
    assert list(seconds) == ["fp32", "bf16"] and all(0 < s < 10 for s in seconds.values())


KINDS = [
    ("captioner", {"fusion": "cross"}),
    ("captioner", {"fusion": "early"}),
    ("captioner", {"fusion": "late"}),
    ("captioner", {"fusion": "perceiver"}),
    ("clip", {}),
    ("coca", {}),
    *(("fusion", {"fusion": name}) for name in ("late", "early", "cross", "perceiver")),
    ("vit", {}),
    ("lm", {}),
    ("flamingo", {}),
    ("perceiver", {"inputs": "picture,text,sound"}),
    ("perceiver", {"task": "reconstruct", "inputs": "picture,text"}),
    ("perceiver", {"task": "mask"}),
]


def sizes_of(kind):
    """Every kind of model at its smallest preset, with a vocabulary and classes."""
    name, chosen = kind
    settings = start_settings(name, "tiny", **chosen)
    if name == "captioner":
        settings = replace(settings, model=with_fusion(settings.model, chosen["fusion"]))
    return settings.completed(40, classes=("a", "b", "c")).model


kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join([kind[0], *kind[1].values()]))


@kinds
def test_flops_are_those_of_torch_s_own_counter(kind):
    config = sizes_of(kind)
    found = model_cost(config, batch_size=3, text_tokens=7, measure=False)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        loss = objective_of(config).plain(build_model(config), example_batch(config, 3, 7))
        forward = counter.get_total_flops()
        loss.backward()
    assert (found.forward_flops, found.step_flops) == (forward, counter.get_total_flops())


class Alive(TorchDispatchMode):
    """The most bytes that the tensors of a real computation held at a time, the given ones left out."""

    def __init__(self, known):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.died, storage.nbytes())
        return out

    def died(self, size):
        self.now -= size


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*((kind, "fp32") for kind in KINDS), *((kind, "bf16") for kind in KINDS[3:6])],
    ids=lambda value: value if isinstance(value, str) else " ".join([value[0], *value[1].values()]),
)
def test_memory_is_that_of_the_tensors_of_a_real_step(kind, precision):
    config = sizes_of(kind)
    found = step_bytes(config, batch_size=3, text_tokens=7, precision=precision)
    model, batch = build_model(config), example_batch(config, 3, 7)
    alive = Alive([*model.parameters(), *model.buffers()])
    with alive, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        training_objective(config).backward(model, batch, 1, lambda loss: loss.backward())
    given = (batch.images, batch.ids, batch.media, batch.sounds)
    wanted = alive.most + sum(tensor.nbytes for tensor in given if tensor is not None)
    assert found.tensors == pytest.approx(wanted, rel=0.02)  # which tokens a mask hides is drawn anew
    assert found.state == 16 * sum(p.numel() for p in model.parameters())
    assert found.peak > found.state + found.tensors


def test_muon_s_moments_and_update_are_those_of_a_real_step():
    config = sizes_of(("fusion", {"fusion": "early"}))
    found, with_adamw = (step_bytes(config, batch_size=1, text_tokens=3, optimizer=o) for o in ("muon", "adamw"))
    trainee, batch = Trainee(config, optimizer="muon"), example_batch(config, 1, 3)
    trainee.step(batch, "fp32")  # makes the moments
    kept = [value for state in trainee.optimizer.state.values() for value in state.values()]
    moments = [value for value in kept if value.ndim]  # the others count steps
    known = [*trainee.model.parameters(), *trainee.model.buffers(), *trainee.average, *moments]
    assert found.state == sum(tensor.nbytes for tensor in known) < 0.9 * with_adamw.state
    with Alive([*known, *kept]) as alive:
        trainee.step(batch, "fp32")
    assert 1.3 * with_adamw.tensors < found.tensors == pytest.approx(alive.most, rel=0.1)


@pytest.mark.slow
def test_a_batch_in_parts_takes_less_memory():
    config = sizes_of(("clip", {}))
    whole, parts = (step_bytes(config, batch_size=32, text_tokens=8, accumulate=n).tensors for n in (1, 8))
    assert parts < 0.5 * whole


@pytest.mark.slow
def test_the_largest_batch_fits_and_a_slightly_larger_one_does_not():
    room = 300 * 2**20
    for precision in ("fp32", "bf16"):
        found = largest_batch(CONFIG, text_tokens=10, memory_bytes=room, precision=precision)
        fits, does_not = (
            step_bytes(CONFIG, batch_size=rows, text_tokens=10, precision=precision).peak
            for rows in (found, round(1.03 * found))
        )
        assert fits <= 0.9 * room < does_not


@pytest.mark.slow
def test_no_batch_fits_where_the_weights_do_not():
    assert largest_batch(CONFIG, text_tokens=10, memory_bytes=2**20) == 0
    small = step_bytes(CONFIG, batch_size=3, text_tokens=10).peak
    assert 3 <= largest_batch(CONFIG, text_tokens=10, memory_bytes=round(small / 0.9) + 1) < 16


def test_a_machine_s_free_memory_is_no_more_than_it_has():
    import os

    assert 2**20 < free_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("kind", [("captioner", {"fusion": "cross"}), ("coca", {})], ids=lambda kind: kind[0])
def test_a_measured_step_changes_the_weights_as_a_step_of_training_does(kind, name):
    from chiasm.train.config import TrainConfig
    from chiasm.train.engine import Engine

    config, steps = sizes_of(kind), 1
    torch.manual_seed(0)
    trainee = Trainee(config, optimizer=name)
    torch.manual_seed(0)
    settings = TrainConfig(warmup=0.0, steps=steps, optimizer=name)
    engine = Engine(build_model(config), training_objective(config), settings, steps)
    batch = example_batch(config, 3, 7)
    trainee.step(batch, "fp32")
    optimizer = engine.configure_optimizers()
    engine.objective.backward(engine.model, batch, 1, lambda loss: loss.backward())
    torch.nn.utils.clip_grad_norm_(engine.trained, engine.config.clip_norm)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(trainee.model.parameters(), engine.model.parameters(), strict=True))
    assert not any(p.grad is not None for p in trainee.trained)
    moved = [not torch.equal(a, p) for a, p in zip(trainee.average, trainee.trained, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


class Clock(Trainee):
    """Steps that take a second each and a tenth for each row; twice that in fp32."""

    def __init__(self):
        self.rows = []

    def seconds(self, batch, precision, accumulate):
        self.rows.append(len(batch))
        return (2 if precision == "fp32" else 1) * (1.0 + 0.1 * len(batch))


def test_batches_that_take_too_long_are_foretold_from_two_smaller_ones():
    from chiasm.cost.seconds import _Calibration

    clock = Clock()
    for precision, budget, wanted in (("bf16", 30.0, 101.0), ("fp32", 30.0, 202.0), ("bf16", 2000.0, 101.0)):
        clock.rows.clear()
        found = _Calibration(clock, CONFIG, 10, precision, 1).of(1000, budget)
        assert found == pytest.approx(wanted)
        assert max(clock.rows) == 1000 if budget > 500 else max(clock.rows) < 1000
        assert sum(clock.seconds(range(rows), precision, 1) for rows in list(clock.rows)) < 1.5 * budget


def test_a_model_that_does_not_fit_is_not_measured():
    huge = replace(CONFIG, vision=VitConfig(size=(224, 224), patch_pixels=16, width=16_384, depth=40, heads=32))
    with pytest.raises(UserError, match=r"GiB; .* are free"):
        predicted_step_seconds(huge, 4, 10)


def test_a_flamingo_s_row_is_a_sequence_of_several_pictures():
    config = sizes_of(("flamingo", {}))
    assert pictures_per_sequence(config, 12) == 5 and pictures_per_sequence(config, 40) == 1
    batch = example_batch(config, 2, 12)
    assert batch.media.shape[:2] == (2, 5) and batch.ids.shape == (2, 61)
    assert (batch.ids == config.mark).sum(1).tolist() == [5, 5]
    assert torch.equal(batch.keep, batch.ids != config.mark)
    assert (batch.ids == config.rules.eot).sum(1).tolist() == [5, 5]


@pytest.mark.slow
def test_how_costs_grow_is_what_a_model_of_each_size_costs():
    fused = {name: sizes_of(("captioner", {"fusion": name})) for name in ("late", "early", "cross", "perceiver")}
    found = growth(fused, text_tokens=10)
    assert found.pixels == (16, 32, 64, 128, 256) and found.tokens[-1] == 1024
    larger = replace(fused["early"], vision=replace(fused["early"].vision, size=(64, 64)))
    assert found.by_pixels["early"][2] == model_cost(larger, batch_size=1, text_tokens=10, measure=False).step_flops
    same = model_cost(fused["cross"], batch_size=1, text_tokens=16, measure=False).step_flops
    assert found.by_tokens["cross"][1] == same
    steep = {name: flops[-1] / flops[-2] for name, flops in found.by_pixels.items()}
    assert steep["early"] > 6 and steep["perceiver"] < 5  # quadratic in the patches, and nearly linear
