import re

import numpy as np
import pytest

from chiasm.metrics.scaling import fit_scaling, verdict

EXAMPLES = np.array([1000, 2000, 4000, 8000])


def losses(rng, floor, reach, exponent, *, noise, seeds, examples=EXAMPLES):
    means = floor + reach * (examples / 8000.0) ** -exponent
    return np.abs(means[:, None] + noise * (floor + reach) * rng.normal(size=(len(examples), seeds)))


LAWS = [(0.2, 0.2, 0.5), (0.0, 0.4, 0.3), (0.4, 0.05, 1.0), (0.4, 0.0, 1.0), (0.35, 0.02, 2.0), (1.0, 1.0, 0.2)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_intervals_cover_a_known_law(noise, seeds):
    rng, repeats = np.random.default_rng(1), 40
    inside = np.zeros((len(LAWS), 3))
    for row, (floor, reach, exponent) in zip(inside, LAWS, strict=True):
        truths = floor + reach * 2**-exponent, reach * (1 - 2**-exponent), exponent
        for _ in range(repeats):
            fit = fit_scaling(EXAMPLES, losses(rng, floor, reach, exponent, noise=noise, seeds=seeds))
            for i, (truth, found) in enumerate(zip(truths, (fit.doubled, fit.saved, fit.exponent), strict=True)):
                row[i] += found.low <= truth <= found.high and found.low <= found.value <= found.high
    assert (inside.mean(0) / repeats >= 0.92).all()
    assert (inside / repeats >= 0.84).all(), inside  # 40 each: three standard errors below 0.95


@pytest.mark.parametrize("examples", [EXAMPLES[1:], np.array([300, 1000, 2500, 4000, 8000, 12000])])
def test_other_numbers_of_points_cover_too(examples):
    rng, inside = np.random.default_rng(2), 0
    for _ in range(150):
        fit = fit_scaling(examples, losses(rng, 0.2, 0.2, 0.5, noise=0.02, seeds=2, examples=examples))
        truth = 0.2 + 0.2 * (2 * examples[-1] / 8000) ** -0.5
        inside += fit.doubled.low <= truth <= fit.doubled.high
    assert inside / 150 >= 0.9


def test_an_exact_law_is_found():
    order = np.array([2, 0, 3, 1])
    exact = losses(np.random.default_rng(3), 0.3, 0.2, 0.45, noise=0, seeds=2)
    fit = fit_scaling(EXAMPLES[order], exact[order])
    assert fit.examples == (1000, 2000, 4000, 8000)
    assert (fit.floor, fit.reach, fit.exponent.value) == pytest.approx((0.3, 0.2, 0.45), rel=0.01)
    assert fit.doubled.value == pytest.approx(0.3 + 0.2 * 2**-0.45, rel=1e-4)
    assert fit.saved.value == pytest.approx(0.5 - fit.doubled.value, rel=1e-3)
    assert fit.loss(EXAMPLES.astype(float)) == pytest.approx(exact[:, 0], rel=1e-4)
    assert [loss.value for loss in fit.losses] == pytest.approx(exact[:, 0].tolist())


def test_profile_is_that_of_a_brute_force_search():
    from scipy.special import stdtrit

    y = losses(np.random.default_rng(4), 0.2, 0.2, 0.5, noise=0.02, seeds=3)
    fit = fit_scaling(EXAMPLES, y)
    exponent, floor, reach = np.meshgrid(
        np.geomspace(0.01, 4, 150), np.linspace(0, 0.42, 150), np.linspace(0, 0.45, 150), indexing="ij"
    )
    law = floor + reach * (EXAMPLES / 8000.0)[:, None, None, None] ** -exponent
    error = ((law - y.mean(1)[:, None, None, None]) ** 2).sum(0)
    freedom = 4 * 2 + 1
    noise = max((y.var(1).sum() + error.min()) / freedom, error.min())
    kept = error <= error.min() + noise * stdtrit(freedom, 0.975) ** 2
    doubled, saved = floor + reach * 2**-exponent, reach * (1 - 2**-exponent)
    for found, brute in ((fit.doubled, doubled[kept]), (fit.saved, saved[kept]), (fit.exponent, exponent[kept])):
        assert (found.low, found.high) == pytest.approx((brute.min(), brute.max()), rel=0.06, abs=0.006)


def test_more_data_helps_hardly_helps_or_cannot_be_told():
    rng = np.random.default_rng(5)
    helps = verdict(fit_scaling(EXAMPLES, losses(rng, 0.1, 0.31, 0.5, noise=0.003, seeds=3)))
    assert helps.startswith("Twice the data would lower the validation loss from 0.4") and " about 0.3" in helps
    flat = verdict(fit_scaling(EXAMPLES, losses(rng, 0.4, 0.0, 1.0, noise=0.005, seeds=3)))
    told = r"twice as much would lower the validation loss, 0\.(399|4) now, by about 0\.00\d \(0\.000 to 0\.0\d\d\)\."
    assert re.fullmatch(f"More data would hardly help: {told}", flat)
    noisy = verdict(fit_scaling(EXAMPLES, losses(rng, 0.4, 0.1, 0.5, noise=0.3, seeds=1)))
    assert noisy.startswith("It cannot be told from these points")


@pytest.mark.parametrize("seeds", [1, 3])
def test_rising_losses_promise_nothing(seeds):
    rising = np.array([0.3, 0.35, 0.42, 0.5])[:, None] + np.zeros((4, seeds))
    fit = fit_scaling(EXAMPLES, rising)
    assert (fit.reach, fit.saved.value, fit.saved.low) == (0, 0, 0)
    assert fit.doubled.value == pytest.approx(rising.mean())
    assert fit.exponent.low < 0.02 and fit.exponent.high > 3.9
    assert not verdict(fit).startswith("Twice")


def test_with_one_seed_three_points_are_not_sure():
    bend = np.array([0.6, 0.45, 0.4])[:, None]
    one, three = fit_scaling(EXAMPLES[1:], bend), fit_scaling(EXAMPLES[1:], bend + np.array([-0.005, 0, 0.005]))
    assert one.doubled.high - one.doubled.low > 3 * (three.doubled.high - three.doubled.low) > 0
    assert verdict(one).startswith("It cannot be told")


def test_what_cannot_be_fitted_is_an_error():
    good = np.full((4, 2), 0.5)
    for examples in (EXAMPLES[:2], np.array([10, 20, 20])):
        with pytest.raises(ValueError, match="three different"):
            fit_scaling(examples, good[: len(examples)])
    with pytest.raises(ValueError, match="at 0 examples"):
        fit_scaling(EXAMPLES - 1000, good)
    with pytest.raises(ValueError, match="no seeds"):
        fit_scaling(EXAMPLES, good[:, :0])
    for wrong in (-0.1, np.nan, np.inf):
        bad = good.copy()
        bad[2, 1] = wrong
        with pytest.raises(ValueError, match="point 2, seed 1"):
            fit_scaling(EXAMPLES, bad)


def test_seeds_that_agree_on_what_no_law_fits_are_not_sure():
    examples, bent = np.array([1000, 2000, 4000, 8000]), np.array([1.0, 0.9, 0.4, 0.35])
    losses = bent[:, None] + np.array([-1e-3, 0.0, 1e-3])
    fit = fit_scaling(examples, losses)
    misfit = np.abs(fit.loss(examples.astype(float)) - bent).max()
    assert misfit > 0.05  # fifty times what the seeds differ by
    assert fit.doubled.high - fit.doubled.low > 2 * misfit
