"""Successive halving: which rates are tried for how long, and that the best by validation loss is chosen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from chiasm.compare.budget import Solved
from chiasm.compare.tuning import learning_rates, tune
from chiasm.compare.worker import Outcome


@pytest.fixture
def solved(config_of):
    def make(*names):
        arms = config_of(arms=("cross", "early")).arms
        return [
            Solved(
                arm=replace(arms[place], name=name),
                parameters=1,
                step_flops=2.0,
                flops=128.0,
                steps=64,
                samples=512,
                off=0.0,
            )
            for place, name in enumerate(names)
        ]

    return make


def runner(loss_of, seen):
    """Runs nothing: the outcome of a job is what `loss_of` says of its arm, rate and steps (None: it broke)."""

    def run(jobs):
        outcomes = {}
        for job in jobs:
            train = job.settings.train
            arm = job.name.split("/")[1]
            seen.append((arm, train.learning_rate, train.steps, train.seed, job.score, job.flops))
            loss = loss_of(arm, train.learning_rate, train.steps)
            outcomes[job.name] = Outcome(
                name=job.name, failed="broke" if loss is None else None, steps=train.steps, samples=0, seconds=0.0,
                val_loss=loss, scores={},
            )  # fmt: skip
        return outcomes

    return run


def away_from(best):
    return lambda arm, rate, steps: abs(math.log(rate / best[arm])) + 1 / steps


def test_rates_double_around_the_arms_own():
    assert learning_rates(1e-3, 3) == [0.5e-3, 1e-3, 2e-3]
    assert learning_rates(1e-3, 4) == [0.25e-3, 0.5e-3, 1e-3, 2e-3]
    assert learning_rates(1e-3, 1) == learning_rates(1e-3, 0) == [1e-3]


def test_each_arm_gets_its_best_rate_and_as_many_steps_as_the_others(solved):
    seen = []
    best = {"a": 2e-3, "b": 0.25e-3}
    found = tune(solved("a", "b"), 4, 7, runner(away_from(best), seen))
    assert {arm: rate for arm, (rate, _) in found.items()} == pytest.approx(best)
    for arm in ("a", "b"):
        mine = [one for one in seen if one[0] == arm]
        assert sorted(steps for _, _, steps, *_ in mine) == [8, 8, 8, 8, 16, 16]
        assert all(seed == 7 and not score for *_, seed, score, _ in mine)
        assert [flops for *_, flops in mine] == [16.0] * 4 + [32.0] * 2
        later = {rate for _, rate, steps, *_ in mine if steps == 16}
        first = sorted({rate for _, rate, *_ in mine}, key=lambda rate: abs(math.log(rate / best[arm])))
        assert later == set(first[:2])


def test_of_rates_that_are_as_good_as_the_best_the_nearest_to_the_arms_own_is_taken(solved):
    """On a plateau no rate is better; half a per cent for the highest is no reason to leave the usual one."""
    (arm,) = solved("a")
    own = arm.arm.settings.train.learning_rate

    def chosen(gain):
        found = tune([arm], 4, 0, runner(lambda _, rate, steps: 1.0 - gain * math.log2(rate / own), []))
        return found["a"][0]

    assert chosen(0.005) == own
    assert chosen(0.05) == 2 * own


def test_what_was_tried_is_told(solved):
    (rate, tried), _ = tune(solved("a", "b"), 2, 0, runner(away_from({"a": 1e-3, "b": 1e-3}), [])).values()
    assert rate == 1e-3
    assert [(t.learning_rate, t.steps, t.val_loss) for t in tried] == [
        (0.5e-3, 8, pytest.approx(math.log(2) + 1 / 8)),
        (1e-3, 8, pytest.approx(1 / 8)),
    ]


def test_broken_trials_lose_and_an_arm_whose_trials_all_broke_keeps_its_rate(solved):
    def losses(arm, rate, steps):
        return None if arm == "b" or rate > 0.6e-3 else 1.0

    seen = []
    found = tune(solved("a", "b"), 4, 0, runner(losses, seen))
    assert found["a"][0] == 0.5e-3  # of equals the nearest to its own
    assert found["b"][0] == 1e-3 and [t.val_loss for t in found["b"][1]] == [None] * 4
    assert sum(arm == "b" for arm, *_ in seen) == 4


def test_without_trials_nothing_runs(solved):
    seen = []
    assert tune(solved("a", "b"), 0, 0, runner(away_from({}), seen)) == {"a": (1e-3, ()), "b": (1e-3, ())}
    assert seen == []
