"""A whole comparison, really trained: what it finds follows from its trainings, and nothing is done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chiasm import config as configs
from chiasm.cli.arms import arms_from
from chiasm.compare import results
from chiasm.compare.config import CompareConfig, Machinery
from chiasm.compare.controls import SHARES
from chiasm.compare.experiment import _notes, compare
from chiasm.compare.jobs import items_of
from chiasm.compare.tuning import ALIKE
from chiasm.compare.worker import Outcome, outcome_in
from chiasm.errors import UserError
from chiasm.report.comparison import write_comparison

MACHINERY = Machinery(workers=2, threads=1)
SIZES = (
    "model.vision.width=16", "model.vision.heads=2", "model.text.width=16", "model.text.heads=2",
    "model.fusion.width=16", "train.steps=8", "train.batch_size=16", "train.precision=fp32",
    "train.validate_every_epochs=1", "train.augment=none", "tokenizer.units=word",
)  # fmt: skip
DATA = {"path": "shapes", "shapes": {"difficulty": "lesson", "samples": 80}}


def matching(*specs, extra=(), **settings):
    arms = arms_from("match", specs, preset="tiny", data=DATA, set=(*SIZES, *extra))
    known = {"seeds": (0, 1), "tune": 2, "equal": "samples"}
    return CompareConfig(task="match", arms=arms, **known | settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def done(cache, tmp_path_factory):
    """A comparison with everything in it."""
    folder = tmp_path_factory.mktemp("comparison") / "one"
    config = matching("late", "early")
    return config, folder, compare(config, folder, command="chiasm compare …", machinery=MACHINERY)


@pytest.mark.slow
def test_scores_are_the_means_over_seeds_and_items(done):
    config, folder, found = done
    assert [arm.name for arm in found.arms] == ["late", "early"] and found.metric.name == "accuracy"
    for arm in found.arms:
        own = [
            items_of(folder, f"arms/{arm.name}/seed-{seed}", found.split).values["accuracy"] for seed in config.seeds
        ]
        assert arm.scores[found.split].value == pytest.approx(np.mean(own))
        assert [seed.scores[found.split] for seed in arm.seeds] == pytest.approx([one.mean() for one in own])
        assert arm.scores[found.split].low <= np.mean(own) <= arm.scores[found.split].high
    values = {arm.name: arm.scores[found.split].value for arm in found.arms}
    (difference,) = [one for one in found.differences if one.split == found.split]
    assert difference.difference.value == pytest.approx(min(values.values()) - max(values.values()))


@pytest.mark.slow
def test_costs_are_those_of_the_trained_models(done):
    _, folder, found = done
    for arm in found.arms:
        run = folder / "arms" / arm.name / "seed-0" / "run"
        assert f"{arm.costs.parameters:,} parameters" in (run / "card.md").read_text()
        assert (arm.costs.steps, arm.costs.samples) == (8, 128)
        assert arm.costs.flops == 8 * arm.costs.step_flops
        assert (
            arm.costs.seconds == pytest.approx(np.mean([seed.seconds for seed in arm.seeds])) and arm.costs.seconds > 0
        )
        assert [point.step for point in arm.seeds[0].course][-1] == 8


@pytest.mark.slow
def test_every_arm_was_tuned_and_trained_with_its_best_rate(done):
    _, folder, found = done
    for arm in found.arms:
        assert [trial.steps for trial in arm.tried] == [1, 1]
        best = min(trial.val_loss for trial in arm.tried)
        assert arm.learning_rate in [trial.learning_rate for trial in arm.tried if trial.val_loss <= ALIKE * best]
        assert arm.learning_rate == arm.settings["train"]["learning_rate"]
        used = configs.read_json(folder / "arms" / arm.name / "seed-1" / "run" / "config.json")["train"]
        assert (used["learning_rate"], used["seed"]) == (arm.learning_rate, 1)


@pytest.mark.slow
def test_floors_and_scaling_are_trained_on_what_they_say(done):
    _, folder, found = done
    assert [floor.name for floor in found.floors] == ["chance", "text alone", "picture alone", "shuffled pictures"]
    best = max(found.arms, key=lambda arm: arm.scores[found.split].value).name
    for inputs, floor in zip(("text", "picture"), found.floors[1:3], strict=True):
        settings = configs.read_json(folder / "floors" / f"{best}-{inputs}" / "run" / "config.json")
        assert settings["model"]["inputs"] == inputs
        own = items_of(folder, f"floors/{best}-{inputs}", found.split).values["accuracy"]
        assert floor.scores[found.split].value == pytest.approx(own.mean())
    own = items_of(folder, f"arms/{best}/seed-0", found.split).values
    assert found.floors[3].scores[found.split].value == pytest.approx(own["accuracy_shuffled"].mean())
    (scaling,) = found.scaling
    assert scaling.arm == best and scaling.fractions == (*SHARES, 1.0)
    losses = [outcome_in(folder / "scaling" / f"{best}-{share:g}").val_loss for share in SHARES]
    losses.append(outcome_in(folder / "arms" / best / "seed-0").val_loss)
    assert [loss.value for loss in scaling.losses] == pytest.approx(losses)


@pytest.mark.slow
def test_the_results_are_written_and_become_a_page(done):
    _, folder, found = done
    assert results.load(folder) == found
    assert write_comparison(folder).read_text().count(found.verdict[0]) >= 1
    assert found.command == "chiasm compare …" and found.data.splits["train"] > 0 and found.minutes > 0


@pytest.mark.slow
def test_what_is_finished_is_not_repeated(done):
    config, folder, found = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("outcome.json")}
    assert len(before) == 4 + 4 + 2 + 3  # trials, arms, floors, shares
    again = compare(config, folder, command="chiasm compare …", machinery=MACHINERY)
    assert again == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("outcome.json")} == before


@pytest.mark.slow
def test_an_arm_that_breaks_is_reported_and_the_others_are_compared(cache, tmp_path):
    wild = "wild=early,train.learning_rate=1e30"
    config = matching("late", "early", wild, seeds=(0,), tune=0, scaling=False, floors=False)
    found = compare(config, tmp_path, command="", machinery=MACHINERY)
    wild = found.arms[2]
    assert wild.scores == {} and all("loss" in str(seed.failed) for seed in wild.seeds)
    assert set(found.arms[0].scores) == set(found.arms[1].scores) != set()
    assert "Without a result: wild." in found.verdict
    assert {difference.arm for difference in found.differences} <= {"late", "early"}


def test_data_without_a_test_split_are_refused_before_anything_is_trained(cache, tmp_path):
    config = matching("late", "early")
    (tmp_path / "train").mkdir()
    rows = [{"file_name": f"{i}.png", "text": f"a {i}"} for i in range(2)]
    for i, row in enumerate(rows):
        Image.new("RGB", (8, 8), (i * 90, 0, 0)).save(tmp_path / "train" / row["file_name"])
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arms = tuple(
        replace(arm, settings=configs.merge(arm.settings, {"data": {"path": str(tmp_path / "train")}}))
        for arm in config.arms
    )
    with pytest.raises(UserError, match=r"no test split|too few"):
        compare(replace(config, arms=arms), tmp_path / "out", command="", machinery=MACHINERY)
    assert not (tmp_path / "out").exists()


def test_what_broke_beside_the_arms_is_told():
    outcomes = {name: Outcome(name=name, failed="no memory") for name in ("arms/a/seed-0", "scaling/a-0.5")}
    assert _notes({}, outcomes) == ("scaling/a-0.5 broke: no memory",)  # arms have a place of their own
