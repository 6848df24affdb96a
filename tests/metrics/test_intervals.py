import numpy as np
import pytest
from scipy import stats

from chiasm.metrics.intervals import bootstrap_interval, mean_interval, percentile_interval, resampled_sums


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(500, 150))
    inside = [low <= 1 <= high for low, high in (mean_interval(s, resamples=400) for s in samples)]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_level_is_how_much_it_covers():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(400, 100))
    inside = [low <= 0 <= high for low, high in (mean_interval(s, resamples=400, level=0.5) for s in samples)]
    assert 0.42 <= np.mean(inside) <= 0.58


def test_mean_agrees_with_scipy():
    values = np.random.default_rng(2).gamma(2, size=80)
    ours = mean_interval(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02 * values.std())


def test_ratio_of_sums_agrees_with_scipy():
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 20, size=60).astype(float)
    losses = tokens * rng.gamma(2, size=60)
    ours = bootstrap_interval(np.column_stack([losses, tokens]), lambda sums: sums[:, 0] / sums[:, 1], resamples=20_000)
    theirs = stats.bootstrap(
        (losses, tokens),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_resampling_draws_n_items_and_keeps_their_statistics_together(monkeypatch):
    values = np.arange(1.0, 8)
    sums = resampled_sums(np.column_stack([np.ones(7), values, 2 * values]), resamples=50)
    assert (sums[:, 0] == 7).all()
    assert np.array_equal(sums[:, 2], 2 * sums[:, 1])
    assert len(set(sums[:, 1])) > 10
    monkeypatch.setattr("chiasm.metrics.intervals.DRAWS_AT_ONCE", 20)  # in parts: the same draws
    assert np.array_equal(resampled_sums(values[:, None], resamples=50)[:, 0], sums[:, 1])


def test_same_seed_same_interval():
    values = np.random.default_rng(4).normal(size=30)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_one_item_or_equal_items_have_no_width():
    assert mean_interval(np.array([3.0])) == (3, 3)
    assert mean_interval(np.full(9, 0.5)) == (0.5, 0.5)


def test_nothing_to_resample_and_impossible_levels_are_errors():
    with pytest.raises(ValueError, match="no items"):
        mean_interval(np.array([]))
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            percentile_interval(np.ones(3), level=level)
