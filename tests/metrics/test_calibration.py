"""Calibration tells simulated true and false pairs apart as often as it says, by itself and among many candidates."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from chiasm.config import from_dict, to_dict
from chiasm.errors import UserError
from chiasm.metrics.calibration import Calibration, Reach, pair_cosines

GRID = np.linspace(-1, 1, 401)


def _pairs(true, false, seed=0, width=0.08, true_width=None):
    rng = np.random.default_rng(seed)
    return rng.normal(0.35, true_width or width, true), rng.normal(0.1, width, false)


def _expected_calibration_error(probability, is_true, weight):
    bins = np.minimum((probability * 15).astype(int), 14)
    return np.abs(np.bincount(bins, weight * (probability - is_true), minlength=15)).sum() / weight.sum()


@pytest.mark.parametrize(
    ("true", "true_width", "prior", "most"),
    [(2000, 0.08, 0.5, 0.01), (40, 0.08, 0.5, 0.06), (2000, 0.08, 0.1, 0.01), (2000, 0.11, 0.5, 0.04)],
)
def test_probabilities_are_frequencies(true, true_width, prior, most):
    calibration = Calibration.fit(*_pairs(true, 20 * true, true_width=true_width), prior=prior)
    positives, negatives = _pairs(100_000, 100_000, seed=1, true_width=true_width)
    is_true = np.repeat([1.0, 0.0], 100_000)
    weight = np.repeat([prior, 1 - prior], 100_000)
    probability = calibration.probability(np.concatenate([positives, negatives]))
    assert _expected_calibration_error(probability, is_true, weight) < most


def test_probability_of_equal_gaussians_is_bayes_rule():
    calibration = Calibration.fit(*_pairs(50_000, 50_000), prior=0.3)
    c = np.linspace(0, 0.5, 11)
    odds = 0.3 / 0.7 * stats.norm.pdf(c, 0.35, 0.08) / stats.norm.pdf(c, 0.1, 0.08)
    np.testing.assert_allclose(calibration.probability(c), odds / (1 + odds), atol=0.01)


def test_probability_does_not_depend_on_how_many_false_pairs_were_drawn():
    few, many = (Calibration.fit(*_pairs(5000, n)).probability(GRID) for n in (5000, 200_000))
    np.testing.assert_allclose(few, many, atol=0.03)


@pytest.mark.parametrize("false", [30, 1000, 100_000])
def test_percentiles_are_shares_of_fresh_false_pairs(false):
    calibration = Calibration.fit(*_pairs(50, false))
    fresh = _pairs(2, 50_000, seed=7)[1]
    distance = stats.kstest(calibration.percentile(fresh), "uniform").statistic
    assert distance < 0.01 + 1.2 / np.sqrt(false)


def test_the_table_equals_the_empirical_share():
    cosines = _pairs(2, 20_000)[1]
    for c in (0.0, 0.1, 0.2, 0.3):
        expected = (cosines >= c).mean()
        assert Reach.of(cosines).share(np.array([c]))[0] == pytest.approx(expected, rel=0.02, abs=2e-4)


def test_the_tail_is_extrapolated_on_the_careful_side():
    far = 0.1 + 0.08 * np.array([3.5, 4.0, 4.5])
    shares = np.mean([Reach.of(_pairs(2, 2000, seed)[1]).share(far) for seed in range(20)], axis=0)
    assert (shares > stats.norm.sf([3.5, 4.0, 4.5])).all()
    assert (shares < [1e-3, 4e-4, 2e-4]).all()


@pytest.mark.parametrize(
    ("false", "candidates", "least"),
    [(100_000, 10, 0.04), (100_000, 1000, 0.03), (3000, 1000, 0.003), (300, 12, 0.003)],
)
def test_false_alarms_among_many_are_as_rare_as_asked(false, candidates, least):
    """Little data makes it careful; much makes it exact."""
    fits = [Calibration.fit(*_pairs(200, false, seed)) for seed in range(12)]
    thresholds = np.array([fit.threshold(0.05, candidates=candidates) for fit in fits])
    alarms = 1 - stats.norm.cdf((thresholds - 0.1) / 0.08) ** candidates
    assert least < alarms.mean() < 0.06


def test_surprise_is_how_often_the_best_of_many_false_ones_reaches_it():
    calibration = Calibration.fit(*_pairs(200, 100_000))
    best = np.random.default_rng(4).normal(0.1, 0.08, (2000, 100)).max(axis=1)
    assert stats.kstest(calibration.surprise(best, 100), "uniform").statistic < 0.05


def test_a_clear_match_is_one_and_what_is_good_among_two_is_luck_among_many():
    calibration = Calibration.fit(*_pairs(200, 100_000))
    assert calibration.matches(np.array([0.6]), 10_000).all()
    assert calibration.matches(np.array([0.3]), 2).all()
    assert not calibration.matches(np.array([0.3]), 10_000).any()


@pytest.mark.parametrize("candidates", [1, 50, 10_000])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.6])
def test_threshold_is_where_surprise_equals_the_share(share, candidates):
    calibration = Calibration.fit(*_pairs(100, 30_000))
    at = np.array([calibration.threshold(share, candidates=candidates)])
    assert calibration.surprise(at, candidates)[0] == pytest.approx(share, rel=1e-6)
    assert calibration.matches(at + 1e-3, candidates, false_alarm_share=share).all()
    assert not calibration.matches(at - 1e-3, candidates, false_alarm_share=share).any()


_cosines = hnp.arrays(np.float32, st.integers(2, 40), elements=st.floats(-1, 1, width=16))


@given(_cosines, _cosines, st.sampled_from([0.1, 0.5]), st.sampled_from([1, 7, 100_000]))
def test_everything_is_monotone_and_a_probability_for_any_pairs(positives, negatives, prior, candidates):
    calibration = Calibration.fit(positives, negatives, prior=prior)
    for values, sign in (
        (calibration.probability(GRID), 1),
        (calibration.percentile(GRID), 1),
        (calibration.surprise(GRID, candidates), -1),
        (calibration.true.share(GRID), -1),
    ):
        assert ((values >= 0) & (values <= 1)).all()
        assert (sign * np.diff(values) >= -1e-12).all()


@given(_cosines, _cosines)
def test_it_survives_json(positives, negatives):
    calibration = Calibration.fit(positives, negatives)
    assert from_dict(Calibration, json.loads(json.dumps(to_dict(calibration)))) == calibration


def test_a_collapsed_model_knows_nothing_and_finds_nothing():
    same = np.full(50, 0.9, np.float32)
    calibration = Calibration.fit(same, same, prior=0.2)
    np.testing.assert_allclose(calibration.probability(same), 0.2)
    assert not calibration.matches(same, 10).any()
    assert not calibration.matches(same + np.float32(1e-7), 10).any()


def test_a_model_that_is_wrong_way_round_is_not_believed():
    positives, negatives = _pairs(500, 500)
    calibration = Calibration.fit(negatives, positives)
    assert calibration.slope == 0
    np.testing.assert_allclose(calibration.probability(GRID), 0.5, atol=0.01)


def test_separable_pairs_do_not_make_certainty():
    calibration = Calibration.fit(np.array([0.8, 0.9]), np.array([0.0, 0.1, 0.2]))
    low, middle, high = calibration.probability(np.array([0.1, 0.5, 0.85]))
    assert 0.02 < low < 0.4 < middle < 0.6 < high < 0.9


def test_cosines_may_have_any_shape():
    calibration = Calibration.fit(*_pairs(50, 500))
    table = np.full((2, 3), 0.3, np.float32)
    for values in (calibration.probability(table), calibration.percentile(table), calibration.matches(table, 5)):
        assert values.shape == (2, 3)


ONE, TWO = np.array([0.5]), np.array([0.1, 0.2])


@pytest.mark.parametrize(
    ("positives", "negatives", "prior", "said"),
    [
        (ONE, TWO, 0.5, "1 true pairs"),
        (TWO, ONE[:0], 0.5, "0 false pairs"),
        (TWO, TWO * np.nan, 0.5, "false pairs that are not finite"),
        (TWO, TWO, 1.0, "prior is 1.0"),
    ],
)
def test_bad_pairs_are_named(positives, negatives, prior, said):
    with pytest.raises(ValueError, match=said):
        Calibration.fit(positives, negatives, prior=prior)


def test_bad_questions_are_named():
    calibration = Calibration.fit(TWO, TWO)
    with pytest.raises(ValueError, match="0 candidates"):
        calibration.matches(TWO, 0)
    with pytest.raises(ValueError, match="false_alarm_share is 0"):
        calibration.threshold(0.0)


@pytest.mark.parametrize("change", [{"cosines": [0.2, 0.1]}, {"shares": [0.9, 0.5]}, {"tail": 0.0}, {"shares": [1.0]}])
def test_a_damaged_table_is_refused(change):
    data = {"cosines": [0.1, 0.2], "shares": [1.0, 0.5], "tail": 0.1}
    assert from_dict(Reach, data).share(np.array([0.2]))[0] == pytest.approx(0.5)
    with pytest.raises(UserError):
        from_dict(Reach, data | change)


def test_pairs_are_true_within_groups_and_false_between_them():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    image_groups, text_groups = rng.permutation(np.arange(8).repeat(2)), rng.permutation(np.arange(8).repeat(5))
    images, texts = directions[image_groups], torch.from_numpy(3 * directions[text_groups])
    positives, negatives = pair_cosines(images, texts, image_groups, text_groups, most=2000)
    np.testing.assert_allclose(positives, 1, atol=1e-6)
    assert positives.shape == (40,)
    np.testing.assert_allclose(negatives, 0, atol=1e-6)
    assert 1600 < len(negatives) < 1900


def test_a_text_s_true_pairs_are_drawn_from_all_its_pictures():
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[1, 0]], np.float32).repeat(200, 0)
    other = np.array([[0, 1]], np.float32)
    positives, _ = pair_cosines(
        np.vstack([images, other]), np.vstack([texts, other]), np.array([4, 4, 9]), np.array([4] * 200 + [9])
    )
    assert 70 < positives[:200].sum() < 130


@pytest.mark.parametrize(
    ("image_groups", "text_groups", "said"),
    [
        (np.array(["a", "b"]), np.array(["a", "c"]), "Text 1 has no picture.*c"),
        (np.array([1, 1]), np.array([1, 1]), "one group"),
    ],
)
def test_pairs_that_cannot_be_made_are_named(image_groups, text_groups, said):
    with pytest.raises(ValueError, match=said):
        pair_cosines(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), image_groups, text_groups)
