"""Arms made equal: counted again on models that are really built, and what cannot be made equal."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chiasm.cli.settings import asked, fused, start_settings
from chiasm.compare.budget import MINUTES, Solved, World, parse_budget, solve
from chiasm.compare.config import Arm, CompareConfig
from chiasm.config import merge
from chiasm.cost import example_batch, model_cost
from chiasm.errors import UserError
from chiasm.models import build_model
from chiasm.objectives import objective_of
from chiasm.train.config import EPOCHS, FEWEST_STEPS

WORLD = World(vocabulary=60, unk=3, classes=("yes", "no"), examples=400, text_tokens=9)
VIT = {"size": [16, 16], "width": 48, "heads": 2, "stem": "patch"}


def arm(fusion, kind="fusion", name=None, **changes):
    """An arm of tiny sizes."""
    settings = start_settings(kind, "tiny", fusion=fusion if kind == "fusion" else None)
    sizes = {"vision": VIT, "decoder": {"width": 48, "heads": 2}, "latents": 4}
    if kind == "fusion":
        width = {"width": 48}
        if fusion != "late":
            width |= {"heads": 2, "depth": 1 if fusion == "cross" else 2}
        if fusion == "perceiver":
            width |= {"latents": 8}
        vision = VIT | ({"depth": 2} if fusion == "late" else {})
        sizes = {"vision": vision, "text": {"width": 48, "heads": 2}, "fusion": width}
    settings = asked(fused(settings, fusion), "answer" if kind == "fusion" else None, None, None)
    settings = merge(settings, {"model": sizes, "train": {"batch_size": 8}})
    return Arm(name=name or fusion, settings=merge(settings, changes))


def comparison(*arms, equal="flops", budget=None):
    return CompareConfig(task="answer", arms=arms, equal=equal, budget=budget)


FUSIONS = "late", "early", "cross", "perceiver"


def sized(solved):
    return solved.arm.settings.completed(WORLD.vocabulary, WORLD.unk, WORLD.classes).model


@pytest.fixture(scope="module", params=[("fusion", "flops"), ("captioner", "params")])
def four(request):
    """The four fusions as they were asked for, and what is made equal and how."""
    kind, equal = request.param
    arms = tuple(arm(fusion, kind) for fusion in FUSIONS)
    return arms, equal, solve(comparison(*arms, equal=equal), WORLD)


@pytest.mark.slow
def test_the_costs_are_those_of_models_that_are_really_built(four):
    _, equal, solved = four
    for one in solved:
        model = build_model(sized(one))
        assert one.parameters == sum(p.numel() for p in model.parameters())
        batch = example_batch(sized(one), 8, WORLD.text_tokens)
        with FlopCounterMode(display=False) as forward:
            objective_of(sized(one)).plain(model, batch)
        counted = model_cost(sized(one), batch_size=8, text_tokens=WORLD.text_tokens, measure=False)
        assert forward.get_total_flops() == counted.forward_flops and counted.step_flops == one.step_flops
        found, target = (a.step_flops if equal == "flops" else a.parameters for a in (one, solved[0]))
        assert one.off == pytest.approx(found / target - 1) and abs(one.off) <= 0.02


def test_the_first_arm_stays_as_it_was_asked_for_and_all_take_as_many_steps(four):
    arms, _, solved = four
    assert [one.arm.name for one in solved] == list(FUSIONS)
    assert solved[0].arm.settings.model == arms[0].settings.model and solved[0].off == 0
    assert any(one.arm.settings.model != before.settings.model for one, before in zip(solved, arms, strict=True))
    for one, before in zip(solved, arms, strict=True):
        train = replace(before.settings.train, steps=max(FEWEST_STEPS, EPOCHS * 400 // 8))
        assert one.arm.settings == replace(before.settings, model=one.arm.settings.model, train=train)
        assert (one.steps, one.samples, one.flops) == (1500, 12000, one.step_flops * 1500)


def test_every_arm_takes_a_training_step(four):
    for one in four[2]:
        torch.manual_seed(0)
        model = build_model(sized(one))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        batch = example_batch(sized(one), 8, WORLD.text_tokens)
        before = objective_of(sized(one)).backward(model, batch, 1, lambda loss: loss.backward())
        optimizer.step()
        after = objective_of(sized(one)).backward(model, batch, 1, lambda loss: None)
        assert after["loss"] < before["loss"]


def test_a_budget_of_parameters_is_for_all_arms():
    solved = solve(comparison(arm("early"), arm("late"), equal="params", budget="120k"), WORLD)
    assert all(abs(one.parameters / 120_000 - 1) <= 0.02 for one in solved)
    assert solved[0].off == pytest.approx(solved[0].parameters / 120_000 - 1)


@pytest.mark.slow
def test_a_budget_of_flops_is_that_of_the_whole_training():
    arms = arm("early"), arm("perceiver")
    step = solve(comparison(*arms), WORLD)[0].step_flops
    solved = solve(comparison(*arms, budget=f"{step * 40.3 / 1e9}GFLOP"), WORLD)
    assert [one.steps for one in solved] == [40, 40] == [one.arm.settings.train.steps for one in solved]
    assert all(abs(one.flops / (40 * step) - 1) <= 0.02 for one in solved)
    with pytest.raises(UserError, match="less than one step"):
        solve(comparison(*arms, budget=f"{step * 0.4 / 1e9}GFLOP"), WORLD)


def test_time_and_samples_leave_sizes_as_they_are():
    arms = arm("early", train={"steps": 7}), arm("late", train={"steps": 7})
    for equal, budget in (("time", None), ("time", "90s"), ("samples", None), ("samples", "1k")):
        for one, before in zip(solve(comparison(*arms, equal=equal, budget=budget), WORLD), arms, strict=True):
            train = one.arm.settings.train
            assert one.arm.settings.model == before.settings.model and one.off == 0
            if equal == "time":
                assert (one.steps, train.steps) == (None, None)
                assert train.minutes == (MINUTES if budget is None else 1.5)
            else:
                steps = 7 if budget is None else 125
                assert (one.steps, train.steps, train.minutes, one.samples) == (steps, steps, None, steps * 8)
    arms = arm("early", train={"minutes": 3.0}), arm("late", train={"minutes": 3.0})
    assert solve(comparison(*arms, equal="time"), WORLD)[1].arm.settings.train.minutes == 3


@pytest.mark.parametrize(
    ("train", "steps"), [({"epochs": 2}, 100), ({"epochs": 0.001}, 1), ({"steps": 9, "epochs": 2}, 9), ({}, 1500)]
)
def test_how_long_is_trained_follows_the_settings_as_in_a_run(train, steps):
    arms = arm("early", train=train), arm("early", name="again", train=train)
    assert [one.steps for one in solve(comparison(*arms, equal="samples"), WORLD)] == [steps, steps]


def test_longer_texts_are_cut_at_the_context_and_none_are_counted_where_none_are_read():
    arms = arm("early"), arm("early", name="again")
    context = arms[0].settings.model.rules.context
    told = [solve(comparison(*arms), replace(WORLD, text_tokens=n))[0].step_flops for n in (5, context, 10 * context)]
    assert told[0] < told[1] == told[2]
    vits = (replace(arms[0], settings=start_settings("vit", "tiny"), name=name) for name in ("a", "b"))
    assert solve(comparison(*vits), replace(WORLD, vocabulary=0, unk=None, text_tokens=0))[1].off == 0


@pytest.mark.parametrize(
    ("changes", "equal", "told"),
    [
        ({"train": {"batch_size": 16}}, "flops", "early and other differ in train.batch_size: 8 and 16"),
        ({"train": {"epochs": 3}}, "samples", "early and other differ in train.epochs: None and 3"),
        ({"tokenizer": {"units": "word"}}, "params", "early and other differ in tokenizer"),
        ({"train": {"tune": "lora"}}, "flops", "other trains in part (train.tune is lora)"),
        ({"start": "runs/x", "model": {"fusion": {"depth": 4}}}, "flops", "other comes no nearer"),
        ({"train": {"tune": "lora"}, "model": {"fusion": {"depth": 4}}}, "params", "other comes no nearer"),
    ],
)
def test_what_cannot_be_equal_is_told(changes, equal, told):
    with pytest.raises(UserError) as caught:
        solve(comparison(arm("early"), arm("early", name="other", **changes), equal=equal), WORLD)
    assert told in caught.value.message and caught.value.hint


def test_fixed_sizes_are_fine_where_they_fit():
    fixed = arm("early", name="trained", start="runs/x", model={"fusion": {"depth": 3}})
    solved = solve(comparison(fixed, arm("early")), WORLD)
    assert solved[0].arm.settings.model == fixed.settings.model and abs(solved[1].off) <= 0.02
    assert solved[1].arm.settings.model != arm("early").settings.model


def test_a_time_does_not_say_how_many_steps():
    arms = arm("early", train={"minutes": 3.0}), arm("late", train={"minutes": 3.0})
    with pytest.raises(UserError, match=r"train\.minutes does not say how many steps make flops equal"):
        solve(comparison(*arms), WORLD)


def test_a_budget_out_of_reach_names_the_nearest_size():
    with pytest.raises(UserError) as caught:
        solve(comparison(arm("early"), arm("late"), equal="params", budget="90M"), WORLD)
    assert "Arm early comes no nearer to 90,000,000 parameters than -9" in caught.value.message
    assert caught.value.message.endswith("3 blocks on one sequence, width 192 (hidden 960)")


@pytest.mark.parametrize(
    ("text", "equal", "value"),
    [("3M", "params", 3e6), ("800k", "params", 8e5), ("1.5 m", "params", 1.5e6), ("2_000_000", "params", 2e6),
     ("2TFLOP", "flops", 2e12), ("500 GFLOPs", "flops", 5e11), ("1.5pflop", "flops", 1.5e15), ("3MFLOP", "flops", 3e6),
     ("10min", "time", 10), ("90s", "time", 1.5), ("1h", "time", 60), ("0.5 h", "time", 30),
     ("50k", "samples", 5e4), ("100,000", "samples", 1e5), ("1e6", "samples", 1e6)],
)  # fmt: skip
def test_budgets_as_people_write_them(text, equal, value):
    assert parse_budget(text, equal) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "equal", "example"),
    [("10min", "flops", "2TFLOP"), ("3M", "flops", "2TFLOP"), ("2TFLOP", "params", "3M"), ("", "time", "10min"),
     ("5", "time", "90s"), ("1.2.3k", "samples", "50k"), ("0", "samples", "50k"), ("-3M", "params", "3M"),
     ("k", "samples", "50k"), ("inf", "params", "3M")],
)  # fmt: skip
def test_budgets_of_another_kind_are_refused(text, equal, example):
    with pytest.raises(UserError) as caught:
        parse_budget(text, equal)
    assert repr(text) in caught.value.message and example in caught.value.hint


def test_what_is_solved_can_be_written_down():
    from chiasm.config import from_dict, to_dict

    solved = solve(comparison(arm("early"), arm("late"), equal="samples"), WORLD)
    assert from_dict(tuple[Solved, ...], to_dict(solved)) == solved
