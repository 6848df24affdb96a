"""Scores of finished jobs as tables: which arms and seeds count, what slices there are, what is compared by."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.compare.outcome import METRICS, compared, differences_of, job_name, metric_of, slices_of, tables
from chiasm.compare.worker import Outcome
from chiasm.errors import UserError
from chiasm.evaluate.common import Items
from chiasm.types import Example

ITEMS = 60


def items_of(arm, seed, *, kinds=None, good=0.5):
    rng = np.random.default_rng([ord(arm[0]), seed])
    return Items(
        keys=tuple(f"p{i // 2}#{i % 2}" for i in range(ITEMS)),
        groups=tuple(f"p{i // 2}" for i in range(ITEMS)),
        kinds=tuple(kinds[i % len(kinds)] if kinds else "" for i in range(ITEMS)),
        values={"exact_match": (rng.random(ITEMS) < good).astype(float)},
    )


def outcomes_of(config, broken=()):
    return {
        job_name(arm.name, seed): Outcome(
            name=job_name(arm.name, seed), failed="it broke" if (arm.name, seed) in broken else None
        )
        for arm in config.arms
        for seed in config.seeds
    }


def lookup(**how):
    def items(job, split):
        _, arm, seed = job.split("/")
        return items_of(arm, int(seed.removeprefix("seed-")), **how)

    return items


def table_of(config, broken=(), **how):
    return tables(config, ["test"], outcomes_of(config, broken), lookup(**how), METRICS["exact_match"])["test"]


def test_a_table_holds_the_scores_of_every_arm_seed_and_item(config_of):
    table = table_of(config_of())
    assert (table.arms, table.seeds, table.scores.shape) == (("cross", "early"), (0, 1, 2), (2, 3, ITEMS))
    assert table.scores[1, 2].tolist() == items_of("early", 2).values["exact_match"].tolist()


def test_a_seed_that_broke_for_one_arm_is_left_out_for_all_and_a_broken_arm_is_left_out(config_of):
    config = config_of(arms=("cross", "early", "late"))
    table = table_of(config, {("late", 0), ("late", 1), ("late", 2), ("early", 1)})
    assert (table.arms, table.seeds) == (("cross", "early"), (0, 2))
    assert table.scores[0, 1].tolist() == items_of("cross", 2).values["exact_match"].tolist()


@pytest.mark.parametrize(
    "broken",
    [{("early", 0), ("early", 1), ("early", 2)}, {("early", 0), ("early", 1), ("cross", 2)}],
    ids=["one arm left", "no common seed"],
)
def test_fewer_than_two_arms_with_a_common_seed_are_refused_with_the_reason(config_of, broken):
    with pytest.raises(UserError, match="it broke"):
        table_of(config_of(), broken)


def test_differences_are_those_to_the_best_arm(config_of):
    table = table_of(config_of())
    found = compared(table, METRICS["exact_match"])
    means = table.scores.mean((1, 2))
    (difference,) = differences_of({"test": found}, {"test": table})
    assert difference.arm == table.arms[means.argmin()] and difference.split == "test"
    assert difference.difference.value == pytest.approx(means.min() - means.max())


def examples_of(words):
    return {
        f"p{i // 2}#{i % 2}": Example(image=None, texts=(" ".join(["w"] * words(i)),), key="") for i in range(ITEMS)
    }


def test_slices_are_the_kinds_of_questions(config_of):
    table = table_of(config_of(), kinds=("count", "colour"))
    slices = slices_of(table, METRICS["exact_match"], {})
    for place, arm in enumerate(table.arms):
        assert slices[arm]["count"].value == pytest.approx(table.scores[place, :, ::2].mean())
        assert slices[arm]["colour"].value == pytest.approx(table.scores[place, :, 1::2].mean())


def test_without_kinds_slices_are_lengths_that_hold_every_item_once(config_of):
    table = table_of(config_of())

    def words(i):
        return 2 + i % 7

    slices = slices_of(table, METRICS["exact_match"], examples_of(words))["cross"]
    assert list(slices) == ["2 to 4 words", "5 to 6 words", "7 to 8 words"]
    short = [i for i in range(ITEMS) if words(i) <= 4]
    assert slices["2 to 4 words"].value == pytest.approx(table.scores[0][:, short].mean())


def test_texts_of_one_length_and_slices_of_few_things_tell_nothing(config_of):
    table = table_of(config_of())
    assert slices_of(table, METRICS["exact_match"], examples_of(lambda i: 3))["cross"] == {}
    rare = table_of(config_of(), kinds=("common", *["common"] * 28, "rare"))
    assert list(slices_of(rare, METRICS["exact_match"], {})["cross"]) == ["common"]


@pytest.mark.parametrize(
    ("task", "data", "named", "wanted"),
    [
        ("answer", "x", None, "accuracy"),
        ("caption", "shapes", None, "exact_match"),
        ("caption", "photos", None, "cider_d"),
        ("caption", "photos", "token_loss", "token_loss"),
        ("retrieve", "x", None, "image_to_text_mrr"),
    ],
)
def test_the_usual_metric_of_a_task(task, data, named, wanted):
    assert metric_of(task, data, named).name == wanted


def test_a_metric_that_a_task_has_not_is_refused():
    with pytest.raises(UserError, match="match is not scored by cider_d"):
        metric_of("match", "x", "cider_d")
    assert not METRICS["token_loss"].higher_is_better
