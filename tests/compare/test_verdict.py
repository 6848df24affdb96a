"""The verdict says what the numbers say: every sentence is checked against tables made for it."""

from __future__ import annotations

from dataclasses import replace

from chiasm.compare.results import ArmResult, Costs, Difference, Floor, Interval, Metric
from chiasm.compare.verdict import not_equal, verdict

ACCURACY = Metric(name="accuracy", explained="")
LOSS = Metric(name="token_loss", explained="", higher_is_better=False)


def interval(value, half=0.01):
    return Interval(value=value, low=value - half, high=value + half)


def arm(name, score, *, seconds=100.0, slices=None, **costs):
    known = {"parameters": 1000, "step_flops": 1.0, "flops": 1e9, "steps": 10, "samples": 640, "seconds": seconds}
    return ArmResult(
        name=name,
        about="",
        settings={},
        learning_rate=1e-3,
        tried=(),
        costs=Costs(**known | costs),
        seeds=(),
        scores={} if score is None else {"test": interval(score)},
        slices={"test": {kind: interval(value) for kind, value in (slices or {}).items()}},
        probability_best={},
    )


def difference(name, value, different):
    return Difference(
        arm=name,
        split="test",
        difference=interval(value),
        p=0.5,
        p_holm=0.01 if different else 0.5,
        different=different,
    )


def test_a_clear_winner_is_named_and_the_losers_with_where_they_lose_most():
    arms = [
        arm("late", 0.7, slices={"relation": 0.5, "count": 0.9}),
        arm("cross", 0.95, slices={"relation": 0.94, "count": 0.96}),
    ]
    first, second = verdict(ACCURACY, "test", arms, [difference("late", -0.25, True)])
    assert first == "cross is best on test, with accuracy 0.950 (0.940 to 0.960)."
    assert second == "late loses 0.250, most on relation (0.440)."


def test_an_arm_within_noise_is_told_by_what_it_costs():
    arms = [
        arm("early", 0.94, seconds=180.0),
        arm("cross", 0.95),
        arm("late", 0.7),
        arm("perceiver", 0.93, seconds=50.0),
    ]
    found = [difference("early", -0.01, False), difference("late", -0.25, True), difference("perceiver", -0.02, False)]
    first, second = verdict(ACCURACY, "test", arms, found)
    assert first == (
        "cross is ahead on test, with accuracy 0.950 (0.940 to 0.960), but early and perceiver cannot be told from it."
    )
    assert second == (
        "Of the others, early is within noise (−0.010, −0.020 to +0.000) and 1.8 × slower; "
        "perceiver is behind (−0.020, −0.030 to −0.010), though not beyond doubt (p = 0.5 among all pairs), "
        "and 2.0 × faster; late loses 0.250."
    )


def test_nothing_is_claimed_where_all_is_noise():
    first, second = verdict(ACCURACY, "test", [arm("a", 0.9), arm("b", 0.91)], [difference("a", -0.01, False)])
    assert first.startswith("No difference on test is beyond noise: b is ahead")
    assert second == "a is within noise (−0.010, −0.020 to +0.000) and about as fast."


def test_nobody_is_ahead_of_an_equal():
    first, _ = verdict(ACCURACY, "test", [arm("a", 0.9), arm("b", 0.9)], [difference("b", 0.0, False)])
    assert first == "No difference on test is beyond noise: all are equal, with accuracy 0.900 (0.890 to 0.910)."


def test_of_losses_the_lowest_is_best():
    first, second = verdict(LOSS, "test", [arm("a", 2.0), arm("b", 1.5)], [difference("a", 0.5, True)])
    assert first.startswith("b is best on test, with token loss 1.500")
    assert second == "a loses 0.500."


def test_a_slice_is_named_only_where_more_is_lost_than_on_the_whole():
    slices = {"relation": 0.7, "count": 0.7}
    arms = [arm("late", 0.7, slices=slices), arm("cross", 0.95, slices={"relation": 0.95, "count": 0.95})]
    assert verdict(ACCURACY, "test", arms, [difference("late", -0.25, True)])[1] == "late loses 0.250."


def test_arms_without_a_result_and_the_highest_floor_are_told():
    floors = [
        Floor(name=name, explained="", scores={"test": interval(s)})
        for name, s in (("chance", 0.3), ("text alone", 0.4))
    ]
    arms = [arm("a", 0.9), arm("b", 0.8), arm("c", None)]
    told = verdict(ACCURACY, "test", arms, [difference("b", -0.1, True)], floors)
    assert told[2:] == ("Without a result: c.", "For comparison, text alone: 0.400.")


def test_what_was_not_equal_is_named_beyond_a_tenth(config_of):
    arms = [arm("a", 0.9, seconds=100.0, parameters=1000), arm("b", 0.9, seconds=150.0, parameters=1050)]
    assert not_equal(config_of("flops"), arms) == "Seconds of a training (100 to 150)."
    assert not_equal(config_of("time"), arms) == "No other cost by more than a tenth."
    costs = replace(arms[1].costs, flops=3e12)
    assert "FLOPs of a training (1.0 GFLOP to 3.0 TFLOP)" in not_equal(
        config_of("params"), [arms[0], replace(arms[1], costs=costs)]
    )
