from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from chiasm.metrics.comparing import compare_arms, holm

SEEDS = (3, 5, 10)
FEW = {"draws": 10}  # the probability of being best is not looked at


def normal(rng, arms, seeds, *, groups=100, seed=0.0, item=0.0, interaction=0.0, size=1):
    """Scores of mean 0: each noise has its standard deviation; half of the seeds' and items' is common to all arms."""
    y = seed * (rng.normal(size=(arms, seeds, 1)) + rng.normal(size=(1, seeds, 1))) / np.sqrt(2)
    y = y + item * (rng.normal(size=(arms, 1, groups)) + rng.normal(size=(1, 1, groups))) / np.sqrt(2)
    y = np.repeat(y + interaction * rng.normal(size=(arms, seeds, groups)), size, axis=2)
    return y + (size > 1) * rng.normal(size=y.shape)


def binary(rng, arms, seeds, *, right, groups=300, seed=0.0, item=1.0, size=1):
    """Right or wrong, `right` of them right on average; items of a group are about equally hard."""
    hard = normal(rng, arms, seeds, groups=groups, seed=seed, item=item)
    limit = ndtri(right) * np.sqrt(1 + seed**2 + item**2)
    return (np.repeat(hard, size, axis=2) + rng.normal(size=(arms, seeds, groups * size)) < limit).astype(float)


WORLDS = {
    "no seed noise": (normal, {"item": 1.0, "interaction": 1.0}),
    "items alone": (normal, {"item": 1.0}),
    "seeds alone": (normal, {"seed": 1.0, "groups": 10}),
    "interaction alone": (normal, {"interaction": 1.0}),
    "seeds like items": (normal, {"seed": 0.1, "item": 1.0, "interaction": 1.0, "groups": 60}),
    "mostly seeds": (normal, {"seed": 0.3, "item": 1.0, "interaction": 1.0, "groups": 60}),
    "groups of three": (normal, {"seed": 0.05, "item": 1.0, "interaction": 0.5, "groups": 40, "size": 3}),
    "almost all right": (binary, {"right": 0.97, "seed": 0.1}),
    "right in groups": (binary, {"right": 0.9, "groups": 80, "size": 3, "item": 2.0}),
}


def numbers(make, settings):
    return np.repeat(np.arange(settings.get("groups", 300 if make is binary else 100)), settings.get("size", 1))


def coverage(world, seeds, repeats=100):
    """How often intervals of two arms' means cover the truth, and that of their difference."""
    make, settings = WORLDS[world]
    rng, groups = np.random.default_rng(seeds), numbers(make, settings)
    truth = settings.get("right", 0.0)
    means, differences = np.zeros(repeats), np.zeros(repeats)
    for i in range(repeats):
        found = compare_arms(make(rng, 2, seeds, **settings), groups, **FEW)
        means[i] = np.mean([mean.low <= truth <= mean.high for mean in found.means])
        [one] = found.differences
        differences[i] = one.difference.low <= 0 <= one.difference.high
        assert one.different == (one.p < 0.05) == (not differences[i])  # two arms: all say one thing
    return means.mean(), differences.mean()


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    found = np.array([[coverage(world, seeds) for seeds in SEEDS] for world in WORLDS])  # worlds, seeds, what
    by_world, by_seeds = found.mean(1), found.mean(0)
    assert (by_world >= 0.92).all() and (by_world <= 0.98).all(), dict(zip(WORLDS, by_world.round(3), strict=True))
    assert (by_seeds >= 0.94).all() and (by_seeds <= 0.98).all(), dict(zip(SEEDS, by_seeds.round(3), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("world", "seeds", "arms"), [("mostly seeds", 3, 3), ("almost all right", 2, 4)])
def test_equal_arms_are_rarely_called_different(world, seeds, arms):
    make, settings = WORLDS[world]
    rng, repeats = np.random.default_rng(9), 200
    groups = numbers(make, settings)
    found = (compare_arms(make(rng, arms, seeds, **settings), groups, **FEW) for _ in range(repeats))
    claims = sum(any(difference.different for difference in one.differences) for one in found)
    assert claims / repeats <= 0.05


def test_a_large_difference_is_found_and_a_small_one_seldom():
    rng, repeats, groups = np.random.default_rng(10), 40, np.arange(100)
    found = {1.0: 0, 0.02: 0}
    for gap in found:
        for _ in range(repeats):
            scores = normal(rng, 3, 3, seed=0.05, item=1.0, interaction=0.5)
            scores[1] += gap
            one = compare_arms(scores, groups, **FEW)
            found[gap] += one.best == 1 and all(difference.different for difference in one.differences)
    assert found[1.0] >= 30
    assert found[0.02] <= 2


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_without_noise_of_items_it_is_the_paired_t_test(seeds):
    rng = np.random.default_rng(11)
    by_seed = rng.normal(size=(2, seeds)) + np.array([[0.0], [1.5]])
    found = compare_arms(np.repeat(by_seed[..., None], 6, axis=2), np.arange(6))
    first = by_seed[1 - found.best]
    theirs = stats.ttest_rel(first, by_seed[found.best])
    low, high = theirs.confidence_interval()
    [ours] = found.differences
    assert ours.p == ours.p_holm == pytest.approx(theirs.pvalue, rel=1e-5)
    assert (ours.difference.low, ours.difference.high) == pytest.approx((low, high), rel=1e-6)
    for values, mean in zip(by_seed, found.means, strict=True):
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        assert (mean.value, mean.low, mean.high) == pytest.approx((values.mean(), low, high), rel=1e-6)


def test_with_one_seed_it_is_the_paired_t_test_over_groups_and_says_so():
    rng = np.random.default_rng(12)
    by_group = rng.normal(size=(2, 1, 40)) + np.array([0.3, 0.0])[:, None, None]
    found = compare_arms(np.repeat(by_group, 3, axis=2), np.repeat(np.arange(40), 3))
    theirs = stats.ttest_rel(by_group[1, 0], by_group[0, 0])
    [ours] = found.differences
    assert (found.best, ours.arm, found.seed_noise) == (0, 1, False)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.difference.low, ours.difference.high) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-6)
    assert compare_arms(np.repeat(by_group, 2, axis=1), np.arange(40), **FEW).seed_noise


def test_noise_of_items_and_of_seeds_add_up_as_in_a_two_way_layout():
    rng, seeds, items = np.random.default_rng(13), 4, 30
    y = normal(rng, 1, seeds, groups=items, seed=0.1, item=1.0, interaction=2.0)[0]
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    between_seeds = sum(items * (y[s].mean() - y.mean()) ** 2 for s in range(seeds)) / (seeds - 1)
    between_items = sum(seeds * (y[:, i].mean() - y.mean()) ** 2 for i in range(items)) / (items - 1)
    interaction = sum(rest[s, i] ** 2 for s in range(seeds) for i in range(items)) / ((seeds - 1) * (items - 1))
    seed_error = np.sqrt(between_seeds / (seeds * items))
    item_error = np.sqrt((between_items - interaction) / (seeds * items))
    draws = 2_000_000
    errors = seed_error * rng.standard_t(seeds - 1, draws) + item_error * rng.standard_t(items - 1, draws)
    mean = compare_arms(y[None], np.arange(items)).means[0]
    assert (mean.high - mean.low) / 2 == pytest.approx(np.quantile(np.abs(errors), 0.95), rel=0.01)


def test_items_of_one_group_count_once_for_the_noise_and_each_for_the_mean():
    rng = np.random.default_rng(14)
    single = rng.normal(size=(2, 3, 50))
    groups = rng.permutation(np.repeat(np.arange(50), 4))
    once, fourfold = compare_arms(single, np.arange(50)), compare_arms(single[..., groups], groups)
    for ours, theirs in zip(once.means, fourfold.means, strict=True):
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))
    assert once.differences[0].p == pytest.approx(fourfold.differences[0].p)
    uneven = np.sort(rng.integers(0, 12, size=50))
    assert compare_arms(single, uneven).means[0].value == pytest.approx(single[0].mean())


def test_unequal_groups_cover_too():
    rng, repeats = np.random.default_rng(15), 200
    groups = np.repeat(np.arange(60), np.where(np.arange(60) % 6 == 0, 15, 1))
    inside = 0
    for _ in range(repeats):
        scores = normal(rng, 1, 3, seed=0.2, item=1.0, groups=60)[..., groups]
        mean = compare_arms(scores, groups, **FEW).means[0]
        inside += mean.low <= 0 <= mean.high
    assert 0.92 <= inside / repeats <= 0.98


def test_differences_are_corrected_for_all_pairs_of_arms():
    scores = normal(np.random.default_rng(16), 4, 5, seed=0.2, item=1.0) + np.arange(4)[:, None, None] * 0.3
    groups = np.arange(100)
    pairs = list(combinations(range(4), 2))
    p = [compare_arms(scores[[*pair]], groups, **FEW).differences[0].p for pair in pairs]
    by_pair = dict(zip(pairs, holm(np.array(p)), strict=True))
    found = compare_arms(scores, groups)
    assert [difference.arm for difference in found.differences] == [0, 1, 2] and found.best == 3
    for difference in found.differences:
        assert difference.p == pytest.approx(p[pairs.index((difference.arm, 3))])
        assert difference.p_holm == pytest.approx(by_pair[difference.arm, 3])
        assert difference.different == (difference.p_holm < 0.05)
    assert len({difference.different for difference in found.differences}) == 2


def test_lower_can_be_better():
    scores = normal(np.random.default_rng(17), 3, 3, seed=0.1, item=1.0)
    high = compare_arms(scores, np.arange(100))
    low = compare_arms(-scores, np.arange(100), higher_is_better=False)
    assert high.best == low.best == int(scores.mean((1, 2)).argmax())
    assert high.probability_best == pytest.approx(low.probability_best, abs=0.03)
    for ours, theirs in zip(high.differences, low.differences, strict=True):
        assert ours.difference.value == -theirs.difference.value < 0
        assert (ours.difference.low, ours.difference.high) == (-theirs.difference.high, -theirs.difference.low)


@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
def test_of_two_arms_the_better_one_is_best_as_probably_as_its_p_says(seeds):
    scores = normal(np.random.default_rng(18), 2, seeds, seed=0.1, item=1.0, interaction=0.3)
    found = compare_arms(scores, np.arange(100), draws=200_000)
    assert found.probability_best[found.best] == pytest.approx(1 - found.differences[0].p / 2, abs=0.01)
    assert sum(found.probability_best) == pytest.approx(1)


def test_equal_arms_are_best_equally_often_and_do_not_differ():
    one = normal(np.random.default_rng(19), 1, 3, seed=0.1, item=1.0)
    found = compare_arms(np.concatenate([one, one - 9, one]), np.arange(100))
    assert found.best == 0
    assert found.probability_best == pytest.approx((0.5, 0, 0.5), abs=1e-3)
    twin = found.differences[1]
    assert (twin.arm, twin.p, twin.different, twin.difference.value) == (2, 1, False, 0)


def test_seeds_that_agree_by_luck_do_not_make_it_certain():
    rng = np.random.default_rng(20)
    one, other = (rng.permuted(np.tile(np.arange(100) < right, (3, 1)), axis=1) for right in (80, 83))
    [difference] = compare_arms(np.stack([one, other]).astype(float), np.arange(100)).differences
    assert difference.difference.high - difference.difference.low > 0.04
    assert difference.p > 0.05


def test_means_lie_within_bounds_and_lean_towards_the_middle():
    scores = np.ones((1, 3, 200))
    for seed, wrong in enumerate((1, 4, 2)):
        scores[0, seed, 10 * seed : 10 * seed + wrong] = 0
    free, bound = (compare_arms(scores, np.arange(200), bounds=b).means[0] for b in ((-np.inf, np.inf), (0.0, 1.0)))
    assert free.high > 1 and bound.high == 1 and free.low == bound.low
    assert bound.value - bound.low > free.high - free.value


def test_holm_by_hand_and_as_a_closed_test():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(21)
    for _ in range(20):
        p = rng.uniform(size=5) ** 3
        closed = [
            max(
                min(1, len(subset) * p[list(subset)].min())
                for size in range(1, 6)
                for subset in combinations(range(5), size)
                if test in subset
            )
            for test in range(5)
        ]
        assert holm(p).tolist() == pytest.approx(closed)
    assert holm(np.array([])).shape == (0,)


def test_what_cannot_be_compared_is_an_error():
    scores, groups = np.zeros((2, 3, 4)), np.arange(4)
    for empty in (scores[:0], scores[:, :0]):
        with pytest.raises(ValueError, match="no arms or no seeds"):
            compare_arms(empty, groups)
    with pytest.raises(ValueError, match="two groups"):
        compare_arms(scores, np.zeros(4, dtype=int))
    scores[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="arm 1, seed 2, item 3"):
        compare_arms(scores, groups)


def test_one_arm_is_best_and_differs_from_none():
    found = compare_arms(normal(np.random.default_rng(22), 1, 3, seed=0.1, item=1.0), np.arange(100))
    assert (found.best, found.differences, found.probability_best) == (0, (), (1.0,))
