"""What is settled before a comparison begins: the data's facts, precision, steps; and that it is settled once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chiasm import config as configs
from chiasm.compare import plan as plans
from chiasm.compare.config import Arm, CompareConfig, Machinery
from chiasm.compare.plan import drafted, planned, whole_trainings, world_of
from chiasm.config import merge
from chiasm.errors import UserError
from chiasm.train.run import Run

ONE = Machinery(workers=1, threads=1)


def opened(config):
    return config.arms[0].settings.data.open()


def changed(config: CompareConfig, **train) -> CompareConfig:
    """Every arm's training so."""
    return replace(config, arms=tuple(replace(a, settings=merge(a.settings, {"train": train})) for a in config.arms))


def test_the_world_is_what_a_run_would_learn_from_the_data(config_of, tmp_path):
    settings = config_of().arms[0].settings
    run = Run(settings, tmp_path / "run")
    world = world_of(opened(config_of()), settings)
    assert settings.completed(world.vocabulary, world.unk, world.classes).model == run.config.model
    assert world.examples == len(run.source.split("train"))
    lengths = [run.loader.batch(step).ids.shape[1] for step in range(5)]
    assert min(lengths) <= world.text_tokens <= max(lengths)


def test_a_plan_is_made_once_and_then_followed(config_of, tmp_path, monkeypatch):
    config = changed(config_of(), precision="auto")
    made = planned(config, opened(config), tmp_path, ONE)
    assert made.precision in ("fp32", "bf16")
    assert all(arm.arm.settings.train.precision == made.precision for arm in made.arms)
    monkeypatch.setattr(plans, "drafted", lambda *_: pytest.fail("a plan was made again"))
    assert planned(config, opened(config), tmp_path, ONE) == made


def test_another_comparison_other_data_and_a_run_are_refused(config_of, tmp_path):
    config = config_of()
    planned(config, opened(config), tmp_path, ONE)
    with pytest.raises(UserError, match="holds another comparison"):
        planned(replace(config, seeds=(1, 2)), opened(config), tmp_path, ONE)
    with pytest.raises(UserError, match="has changed since"):
        planned(config, replace(opened(config), fingerprint="other"), tmp_path, ONE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a training run"):
        planned(config, opened(config), tmp_path / "run", ONE)


def test_further_seeds_follow_the_same_plan(config_of, tmp_path):
    config = config_of()
    made = planned(config, opened(config), tmp_path, ONE)
    more = replace(config, seeds=(*config.seeds, 7))
    assert planned(more, opened(config), tmp_path, ONE) == made
    assert configs.load(CompareConfig, tmp_path / "compare.json").seeds == more.seeds


def test_where_nothing_says_how_long_a_training_is_all_together_take_the_time_allowed(config_of, monkeypatch):
    config = changed(config_of(tune=4, within_minutes=3.0), steps=None)
    monkeypatch.setattr(plans, "step_seconds", lambda settings, *_: 0.1 if settings.model.fusion == "early" else 0.05)
    arms = drafted(config, opened(config), replace(ONE, workers=2)).arms
    trainings = whole_trainings(config, arms[0])
    assert trainings == 2 * (3 + 4 / 8 + 2 / 4) + 3  # arms of three seeds, tuned; and three shares of the data
    steps = int(3.0 * 60 * 2 / trainings / (plans.REST * 0.1))  # of the slower arm
    assert [arm.steps for arm in arms] == [steps, steps] == [arm.arm.settings.train.steps for arm in arms]
    assert all(arm.samples == 8 * steps and arm.flops == arm.step_flops * steps for arm in arms)


def test_at_equal_time_every_training_gets_its_part_of_the_time_allowed(config_of):
    config = changed(config_of("time", within_minutes=8.0, tune=0, scaling=False), steps=None)
    arms = drafted(config, opened(config), ONE).arms
    assert [arm.arm.settings.train.minutes for arm in arms] == [8 / 6, 8 / 6]
    assert [arm.steps for arm in arms] == [None, None]


def test_what_is_said_of_the_length_is_followed(config_of):
    config = config_of()
    assert [arm.steps for arm in drafted(config, opened(config), ONE).arms] == [6, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": ("cross",)}, "needs two arms"),
        ({"arms": ("cross", "cross")}, "two arms have one name"),
        ({"seeds": ()}, "seeds are"),
        ({"seeds": (1, 1)}, "seeds are"),
        ({"tune": -1}, "tune is -1"),
        ({"within_minutes": 0.0}, "within_minutes 0.0"),
    ],
)
def test_settings_that_compare_nothing_are_refused(config_of, settings, message):
    with pytest.raises(ValueError, match=message):
        config_of(**settings)


def test_arms_of_different_data_and_names_that_are_no_folders_are_refused(config_of):
    first, second = config_of().arms
    other = replace(second, settings=merge(second.settings, {"data": {"path": "emoji"}}))
    with pytest.raises(ValueError, match="differ in their data"):
        CompareConfig(task="caption", arms=(first, other))
    for name in ("", "a/b", "..", "two words"):
        with pytest.raises(ValueError, match="an arm is named"):
            Arm(name=name, settings=first.settings)
