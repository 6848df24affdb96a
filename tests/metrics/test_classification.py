"""Scores by class against naive twins, chance for equal scores, and the probe against an independent solver."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from chiasm.metrics.classification import (
    STRENGTHS,
    calibration_error,
    classification_scores,
    fit_logistic,
    linear_probe,
)

NAMES = [f"class {i}" for i in range(8)]


def _drawn(n=400, seed=0, skill=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.choice(8, size=n, p=np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 36)
    scores = rng.normal(size=(n, 8))
    scores[np.arange(n), labels] += skill
    return scores.astype(np.float32), labels


def test_scores_equal_naive_counts():
    scores, labels = _drawn(seed=1)
    found = classification_scores(scores, labels, NAMES)
    order = np.argsort(-scores, axis=1)
    right = order[:, 0] == labels
    assert found.scores["top_1"].value == pytest.approx(right.mean())
    among_five = [label in row[:5] for label, row in zip(labels, order, strict=True)]
    assert found.scores["top_5"].value == pytest.approx(np.mean(among_five))
    by_class = {name: right[labels == i].mean() for i, name in enumerate(NAMES)}
    assert {name: score.value for name, score in found.per_class.items()} == pytest.approx(by_class)
    assert found.scores["mean_per_class"].value == pytest.approx(np.mean(list(by_class.values())))
    confusion = np.zeros((8, 8))
    for label, given_class in zip(labels, order[:, 0], strict=True):
        confusion[label, given_class] += 1
    np.testing.assert_allclose(found.confusion, confusion)


def test_every_score_has_an_interval_around_it():
    found = classification_scores(*_drawn(), NAMES)
    for score in (*found.scores.values(), *found.per_class.values()):
        assert score.low < score.value < score.high


def test_interval_of_the_mean_per_class_covers_it_as_often_as_it_says():
    samples = [classification_scores(*_drawn(150, seed), NAMES, resamples=200) for seed in range(150)]
    truth = classification_scores(*_drawn(200_000, 999), NAMES, resamples=1).scores["top_1"].value
    inside = [s.scores["mean_per_class"].low <= truth <= s.scores["mean_per_class"].high for s in samples]
    assert np.mean(inside) >= 0.9


@given(st.integers(1, 12), st.floats(-100, 100, width=32))
def test_equal_scores_are_chance(classes, value):
    labels = np.arange(3 * classes) % classes
    names = [str(i) for i in range(classes)]
    scores = np.full((3 * classes, classes), value, np.float32)
    found = classification_scores(scores, labels, names, resamples=2)
    assert found.scores["top_1"].value == pytest.approx(1 / classes)
    np.testing.assert_allclose(found.confusion, 3 / classes)
    assert ("top_5" in found.scores) == (classes > 5)
    if classes > 5:
        assert found.scores["top_5"].value == pytest.approx(5 / classes)


def test_rounding_does_not_break_ties():
    rounding = np.random.default_rng(0).uniform(-1, 1, (500, 4)).astype(np.float32) * 3e-6
    labels = np.zeros(500, int)
    found = classification_scores(20 + rounding, labels, NAMES[:4])
    assert found.scores["top_1"].value == pytest.approx(0.25)


def test_a_class_without_items_has_no_score_and_no_say():
    found = classification_scores(np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), NAMES[:3])
    assert set(found.per_class) == {NAMES[0], NAMES[1]}
    assert found.scores["mean_per_class"].value == 1.0
    assert found.confusion[2].sum() == 0


@pytest.mark.parametrize(
    ("scores", "labels", "names", "said"),
    [
        (np.zeros((2, 3)), np.array([0]), NAMES[:3], "do not fit 1 labels"),
        (np.zeros((2, 3)), np.array([0, 1]), NAMES[:2], "do not fit"),
        (np.zeros((2, 3)), np.array([0, 3]), NAMES[:3], "from 0 to 3"),
        (np.zeros((2, 3)), np.array([0, -1]), NAMES[:3], "from -1 to 0"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]), NAMES[:2], "item 1 are not finite"),
        (np.zeros((0, 2)), np.array([], int), NAMES[:2], "no items"),
        (np.zeros((1, 2)), np.array([0]), ["a", "a"], "Two classes"),
    ],
)
def test_bad_scores_are_named(scores, labels, names, said):
    with pytest.raises(ValueError, match=said):
        classification_scores(scores, labels, names)


def _clouds(n=240, classes=3, width=5, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = 2 * np.random.default_rng(99).normal(size=(classes, width))
    return centres[labels] + spread * rng.normal(size=(n, width)), labels


def test_fit_equals_an_independent_solver():
    x, labels = _clouds()

    def naive(flat):
        weights, bias = flat[:15].reshape(3, 5), flat[15:]
        total = 0.0
        for row, label in zip(x, labels, strict=True):
            logits = weights @ row + bias
            total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
        return total / len(x) + 0.5 * 0.1 * (weights**2).sum()

    found = fit_logistic(x, labels, 3, 0.1)
    theirs = minimize(naive, np.zeros(18), method="BFGS", options={"gtol": 1e-4}).x
    np.testing.assert_allclose(found[:-1].T.ravel(), theirs[:15], atol=1e-3)
    np.testing.assert_allclose(found[-1] - found[-1].mean(), theirs[15:] - theirs[15:].mean(), atol=1e-3)


def test_two_classes_stand_in_their_closed_form():
    """One feature of +-1, labels right in 3 of 4: without a penalty the odds are 3, logits' difference ln 3."""
    x = np.array([[1.0]] * 4 + [[-1.0]] * 4)
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    weights = fit_logistic(x, labels, 2, 1e-12)
    assert weights[0, 1] - weights[0, 0] == pytest.approx(np.log(3), abs=1e-4)


def test_fit_starts_anywhere_and_ends_in_one_place():
    x, labels = _clouds()
    start = np.random.default_rng(1).normal(size=(6, 3))
    start[-1] -= start[-1].mean()
    np.testing.assert_allclose(fit_logistic(x, labels, 3, 0.01, start), fit_logistic(x, labels, 3, 0.01), atol=1e-3)


def test_probe_reads_separable_features_whatever_their_scale_and_names():
    x, labels = _clouds(spread=0.5)
    test_x, test_labels = _clouds(seed=5, spread=0.5)
    names = np.array(["dog", "cat", "owl"])
    probe = linear_probe(1000 * x + 5e4, names[labels], 1000 * test_x + 5e4)
    assert (probe.predictions == names[test_labels]).mean() > 0.98
    assert probe.classes.tolist() == ["cat", "dog", "owl"]
    assert (probe.classes[probe.logits.argmax(1)] == probe.predictions).all()
    again = linear_probe(1000 * x + 5e4, names[labels], 1000 * test_x + 5e4)
    assert (again.logits == probe.logits).all()


def test_calibration_error_is_the_mean_gap_of_equally_wide_bins():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(200), (rng.random(200) < 0.4).astype(float)
    groups = np.arange(200) // 4
    error = calibration_error(confidence, right, groups, bins=5)
    wanted = 0.0
    for low in np.arange(5) / 5:
        inside = (confidence >= low) & (confidence < low + 0.2)
        wanted += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert error.value == pytest.approx(wanted) and error.low <= error.value <= error.high


def test_who_says_how_often_he_is_right_has_no_calibration_error_and_who_is_certain_has_his_errors():
    groups = np.arange(1000)
    right = (groups % 4 != 0).astype(float)
    assert calibration_error(np.full(1000, 0.75), right, groups).value == pytest.approx(0)
    assert calibration_error(np.ones(1000), right, groups).value == pytest.approx(0.25)
    few, many = (calibration_error(np.ones(1000), right, groups // size) for size in (100, 1))
    assert few.high - few.low < many.high - many.low  # groups of a hundred have 75 right ones each


def test_probe_chooses_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    rng = np.random.default_rng(0)
    noise = linear_probe(rng.normal(size=(60, 40)), np.arange(60) % 2, rng.normal(size=(5, 40)))
    assert noise.strength == max(STRENGTHS)
    x, labels = _clouds(spread=0.2)
    assert linear_probe(x, labels, x).strength <= 1e-4


def test_probe_with_one_strength_holds_nothing_out():
    probe = linear_probe(np.array([[0.0], [1.0]]), np.array([0, 1]), np.array([[0.1], [0.9]]), strengths=(1e-3,))
    assert probe.predictions.tolist() == [0, 1]


def test_constant_features_give_the_most_frequent_class():
    probe = linear_probe(np.ones((6, 3), np.float32), np.array([0, 0, 1, 1, 1, 1]), np.ones((2, 3), np.float32))
    assert probe.predictions.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("x", "y", "strengths", "said"),
    [
        (np.zeros((3, 2)), np.array([0, 1]), STRENGTHS, "2 labels do not fit 3 rows"),
        (np.zeros((2, 2)), np.array([1, 1]), STRENGTHS, "two classes"),
        (np.full((2, 2), np.inf), np.array([0, 1]), STRENGTHS, "not finite"),
        (np.zeros((2, 2)), np.array([0, 1]), (), "strengths are"),
        (np.zeros((2, 2)), np.array([0, 1]), (0.0,), "strengths are"),
        (np.zeros((2, 2)), np.array([0, 1]), STRENGTHS, "No class has two items"),
    ],
)
def test_bad_features_are_named(x, y, strengths, said):
    with pytest.raises(ValueError, match=said):
        linear_probe(x, y, np.zeros((1, 2)), strengths=strengths)
