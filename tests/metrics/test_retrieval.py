"""Ranks and their scores against a naive twin that sees the whole matrix, chance for a collapsed model, bad input."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chiasm.metrics.retrieval import Ranks, mean_scores, median_score, rank_items, retrieval_scores


def _naive_ranks(queries, items, query_groups, item_groups):
    def unit(rows):
        rows = np.asarray(rows, float)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    found = []
    for query, group in zip(unit(queries), query_groups, strict=True):
        cosines = unit(items) @ query
        own = np.array([g == group for g in item_groups])
        best = cosines[own].max()
        same = np.abs(cosines - best) < 1e-5
        found.append(((~own & ~same & (cosines > best)).sum(), (~own & same).sum(), (own & same).sum()))
    return np.array(found).T


def _naive_places(better, tied, own):
    """The first own item's rank in every order of the ties."""
    marks = [False] * tied + [True] * own
    orders = [[marks[i] for i in order] for order in itertools.permutations(range(len(marks)))]
    return [better + 1 + order.index(True) for order in orders]


@st.composite
def _collections(draw):
    width, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    items, queries = draw(st.integers(groups, 12)), draw(st.integers(1, 9))
    vectors = st.integers(-2, 2).map(float)
    own = draw(st.lists(st.integers(0, groups - 1), min_size=items - groups, max_size=items - groups))
    return (
        draw(hnp.arrays(np.float32, (queries, width), elements=vectors)),
        draw(hnp.arrays(np.float32, (items, width), elements=vectors)),
        np.array(draw(st.lists(st.integers(0, groups - 1), min_size=queries, max_size=queries))),
        np.array(draw(st.permutations([*range(groups), *own]))),
    )


@given(_collections(), st.integers(1, 13))
def test_ranks_equal_the_naive_twin_s_for_every_chunk(collection, chunk):
    ranks = rank_items(*collection, chunk=chunk)
    np.testing.assert_array_equal([ranks.better, ranks.tied, ranks.own], _naive_ranks(*collection))


def test_ranks_equal_the_naive_twin_s_on_many_vectors_with_groups_by_name():
    rng = np.random.default_rng(0)
    names = np.array([f"photo {i}" for i in range(40)])
    item_groups = rng.permutation(np.concatenate([names, names[:20]]))
    query_groups = rng.choice(names, 150)
    queries, items = rng.normal(size=(150, 16)).astype(np.float32), rng.normal(size=(60, 16)).astype(np.float32)
    ranks = rank_items(torch.from_numpy(queries), torch.from_numpy(items), query_groups, item_groups, chunk=7)
    expected = _naive_ranks(queries, items, query_groups, item_groups)
    np.testing.assert_array_equal([ranks.better, ranks.tied, ranks.own], expected)


@given(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3))
@settings(max_examples=40)
def test_ties_count_as_the_mean_over_all_their_orders(better, tied, own):
    ranks = Ranks(better=np.array([better]), tied=np.array([tied]), own=np.array([own]))
    places = _naive_places(better, tied, own)
    assert ranks.expected()[0] == pytest.approx(np.mean(places))
    assert ranks.reciprocal()[0] == pytest.approx(float(sum(Fraction(1, p) for p in places) / len(places)))
    for k in range(1, 10):
        assert ranks.hits(k)[0] == pytest.approx(np.mean([p <= k for p in places]))


@pytest.mark.parametrize("width", [1, 7, 128])
def test_a_collapsed_model_scores_chance(width):
    """Unequal rounding in the corners of a matrix product must not decide either."""
    pictures, captions = 203, 2
    vector = np.random.default_rng(3).normal(size=(1, width)).astype(np.float32)
    queries, items = vector.repeat(pictures * captions, 0), vector.repeat(pictures, 0)
    groups = np.arange(pictures)
    to_picture = retrieval_scores(queries, items, groups.repeat(captions), groups, chunk=50)
    assert [to_picture[f"recall_at_{k}"].value for k in (1, 5, 10)] == pytest.approx([k / pictures for k in (1, 5, 10)])
    assert to_picture["median_rank"].value == (pictures + 1) / 2
    to_caption = retrieval_scores(items, queries, groups, groups.repeat(captions), chunk=50)
    n, misses = pictures * captions, 1.0
    for drawn in range(10):
        misses *= (n - captions - drawn) / (n - drawn)
    assert to_caption["recall_at_10"].value == pytest.approx(1 - misses)


def test_a_nearly_collapsed_model_is_not_judged_by_rounding():
    noise = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32) * 1e-5
    vectors = np.ones((300, 64), np.float32) + noise
    scores = retrieval_scores(vectors, vectors, np.arange(300), np.arange(300))
    assert scores["recall_at_1"].value == pytest.approx(1 / 300)


def test_any_caption_of_the_picture_is_a_hit_and_a_far_one_does_no_harm():
    items = np.array([[1, 0], [-1, 0], [0.9, 0.1]], np.float32)
    queries = np.array([[1, 0.01]], np.float32)
    own_far_too = rank_items(queries, items, np.array([5]), np.array([5, 5, 6]))
    assert own_far_too.hits(1).tolist() == [1.0]
    assert rank_items(queries, items, np.array([5]), np.array([6, 5, 6])).better.tolist() == [2]


def test_equal_texts_of_different_pictures_share_the_hit():
    picture, other = [1.0, 0.0], [0.0, 1.0]
    texts = np.array([picture, picture, other], np.float32)
    ranks = rank_items(np.array([picture], np.float32), texts, np.array([0]), np.array([0, 1, 2]))
    assert (ranks.hits(1)[0], ranks.hits(2)[0]) == (0.5, 1.0)


def test_scores_are_means_of_what_the_queries_got():
    rng = np.random.default_rng(1)
    groups = np.arange(50)
    items = rng.normal(size=(50, 8)).astype(np.float32)
    queries = items + rng.normal(size=(50, 8)).astype(np.float32)
    scores = retrieval_scores(queries, items, groups, groups, ks=(1, 3))
    better, _, _ = _naive_ranks(queries, items, groups, groups)
    assert list(scores) == ["recall_at_1", "recall_at_3", "mean_reciprocal_rank", "median_rank"]
    assert scores["recall_at_3"].value == pytest.approx(np.mean(better < 3))
    assert scores["mean_reciprocal_rank"].value == pytest.approx(np.mean(1 / (better + 1)))
    assert scores["median_rank"].value == np.median(better + 1)
    for score in scores.values():
        assert score.low <= score.value <= score.high
        assert score.per_item.shape == (50,)


def test_captions_of_one_picture_are_no_independent_witnesses():
    values = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    alone = mean_scores({"r": values}, np.arange(100))["r"]
    repeated = mean_scores({"r": values.repeat(5)}, np.arange(100).repeat(5))["r"]
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))


def test_interval_of_a_median_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(2)
    samples = rng.exponential(size=(300, 101))
    scores = [median_score(sample, np.arange(101), resamples=300) for sample in samples]
    assert 0.91 <= np.mean([score.low <= np.log(2) <= score.high for score in scores]) <= 0.99


def test_memory_stays_within_tiles(monkeypatch):
    sizes = []
    multiply = torch.Tensor.__matmul__

    def watched(a, b):
        product = multiply(a, b)
        sizes.append(product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    classes = np.arange(300) % 2
    rank_items(np.ones((300, 4), np.float32), np.ones((300, 4), np.float32), classes, classes, chunk=32)
    assert max(sizes) <= 32 * 32


ONE = np.ones((1, 2), np.float32)


@pytest.mark.parametrize(
    ("queries", "items", "query_groups", "item_groups", "said"),
    [
        (ONE, ONE, np.array([3]), np.array([4]), "Query 0 has no item of its own.*3"),
        (ONE, np.ones((1, 3), np.float32), np.array([3]), np.array([3]), "width 2"),
        (ONE, ONE, np.array([3, 4]), np.array([3]), "2 groups do not fit 1 queries"),
        (ONE, ONE[:0], np.array([3]), np.array([], int), "There are no items"),
        (ONE, ONE * np.nan, np.array([3]), np.array([3]), "Row 0 of the items is not finite"),
        (ONE, ONE, np.array(["3"]), np.array([3]), "Groups of queries"),
    ],
)
def test_bad_input_is_named(queries, items, query_groups, item_groups, said):
    with pytest.raises(ValueError, match=said):
        rank_items(queries, items, query_groups, item_groups)


def test_k_counts_from_one():
    with pytest.raises(ValueError, match="k is 0"):
        Ranks(better=np.array([0]), tied=np.array([0]), own=np.array([1])).hits(0)
