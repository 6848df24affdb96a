"""Filters of logits against plain loops, and settings that make no sense."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.generate import GenerateConfig, filter_logits, repeated_ngrams, sampling
from chiasm.generate.sampling import NUCLEUS, SPARSE, draw, forbid, top
from chiasm.models.language import TextRules

RULES = TextRules()
rows = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True).map(lambda row: torch.tensor([row]))


def kept(logits):
    return set((logits[0] > -math.inf).nonzero()[:, 0].tolist())


@given(rows, st.floats(0.1, 5))
def test_temperature_divides(logits, temperature):
    torch.testing.assert_close(filter_logits(logits, temperature=temperature), logits / temperature)


@given(rows, st.integers(1, 15))
def test_top_k_keeps_exactly_the_k_likeliest_unchanged(logits, k):
    filtered = filter_logits(logits, top_k=k)
    best = sorted(range(logits.shape[1]), key=lambda i: -logits[0, i])[:k]
    assert kept(filtered) == set(best)
    assert torch.equal(filtered[0, best], logits[0, best])


def test_top_k_keeps_k_even_of_equals():
    assert len(kept(filter_logits(torch.zeros(1, 6), top_k=2))) == 2


@given(rows, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_tokens_that_reach_the_sum_and_at_least_one(logits, p):
    filtered = filter_logits(logits, top_p=p)
    probabilities, best, total = logits[0].double().softmax(0), [], 0.0
    for i in sorted(range(logits.shape[1]), key=lambda i: -logits[0, i]):
        if best and total >= p:
            break
        best.append(i)
        total += float(probabilities[i])
    near_the_edge = abs(total - p) < 1e-5 or abs(total - float(probabilities[best[-1]]) - p) < 1e-5 or p == 1
    assert kept(filtered) == set(best) or near_the_edge
    assert len(kept(filtered)) >= 1
    assert torch.equal(filtered[0, list(kept(filtered))], logits[0, list(kept(filtered))])


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("top_k", [None, 40, 400])
def test_a_nucleus_of_a_large_vocabulary_is_that_of_all_its_tokens_sorted(spread, top_k):
    logits = spread * torch.randn(4, 2 * NUCLEUS, generator=torch.Generator().manual_seed(0))
    for row, filtered in zip(logits, filter_logits(logits, top_k=top_k, top_p=0.9), strict=True):
        best = row.sort(descending=True).values[:top_k].double().softmax(0)
        wanted = 1 + int((best.cumsum(0) < 0.9).sum())
        assert abs(int(filtered.isfinite().sum()) - wanted) <= 1  # the sum is near the edge, rounded
        assert filtered.isfinite()[row.topk(wanted - 1).indices].all() or spread == 0


def test_draws_are_of_tokens_that_remain_and_one_number_each_decides():
    logits = torch.randn(500, 3 * NUCLEUS, generator=torch.Generator().manual_seed(0))
    for chosen in ({}, {"top_k": 3}, {"top_p": 0.05}, {"top_p": 0.99, "temperature": 0.5}):
        config = GenerateConfig(mode="sample", **chosen)
        drawn = draw(logits, config, torch.Generator().manual_seed(1))
        kept = filter_logits(logits, **{"temperature": config.temperature, **chosen}).isfinite()
        assert kept.gather(1, drawn[:, None]).all()
        assert torch.equal(drawn[:100], draw(logits[:100], config, torch.Generator().manual_seed(1)))


def test_top_p_below_the_likeliest_token_keeps_it_alone():
    assert kept(filter_logits(torch.tensor([[0.0, 5.0, 1.0]]), top_p=1e-6)) == {1}


def test_temperature_comes_before_the_nucleus():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    assert kept(filter_logits(logits, top_p=0.6)) == {0}
    assert kept(filter_logits(logits, top_p=0.6, temperature=10.0)) == {0, 1}


def test_filters_treat_rows_alone_and_leave_their_input_alone():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    together = filter_logits(logits, temperature=0.7, top_k=4, top_p=0.8)
    assert torch.equal(logits, before)
    for row in range(3):
        assert torch.equal(
            together[row : row + 1], filter_logits(logits[row : row + 1], temperature=0.7, top_k=4, top_p=0.8)
        )


@given(st.lists(st.integers(3, 5), max_size=9), st.integers(1, 4))
def test_banned_tokens_are_exactly_those_that_would_repeat_an_ngram(ids, n):
    grams = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    would = {token for token in range(3, 6) if tuple([*ids, token][-n:]) in grams}
    got = repeated_ngrams(torch.tensor([ids, ids], dtype=torch.long).reshape(2, -1), n)
    assert set(got) == {(row, token) for row in (0, 1) for token in would}


def test_pad_and_bos_never_come_next_and_the_end_not_too_early():
    written = torch.zeros(1, 2, dtype=torch.long) + 3
    for least, banned in ((2, {RULES.pad, RULES.bos}), (3, {RULES.pad, RULES.bos, RULES.eot})):
        logits = forbid(torch.zeros(1, 7), written, RULES, GenerateConfig(min_tokens=least))
        assert kept(logits) == set(range(7)) - banned


def test_logits_are_fp32_from_here_on():
    assert (
        forbid(
            torch.zeros(1, 7, dtype=torch.bfloat16), torch.zeros(1, 0, dtype=torch.long), RULES, GenerateConfig()
        ).dtype
        == torch.float32
    )


def test_where_every_token_is_forbidden_the_text_ends():
    written = torch.tensor([[3, 4], [3, 3]])
    logits = forbid(torch.zeros(2, 5), written, RULES, GenerateConfig(min_tokens=9, no_repeat_ngram=1))
    assert kept(logits[:1]) == {RULES.eot} and kept(logits[1:]) == {4}


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"captions": 0}, "captions is 0"), ({"beams": 0}, "beams is 0"), ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"), ({"top_k": 0}, "top_k is 0"), ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"), ({"captions": 2}, "greedy writes one caption"),
        ({"mode": "beam", "captions": 5, "beams": 4}, "5 captions need at least as many beams"),
        ({"min_tokens": -1}, "min_tokens is -1"), ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        GenerateConfig(**settings)


def test_the_unknown_word_is_never_written_where_there_is_one():
    logits = torch.zeros(1, 6)
    written = torch.empty(1, 0, dtype=torch.long)
    assert forbid(logits.clone(), written, TextRules(unk=3), GenerateConfig(min_tokens=0)).isneginf()[0].tolist() == [
        True, True, False, True, False, False,
    ]  # fmt: skip
    assert not forbid(logits.clone(), written, TextRules(), GenerateConfig())[0, 3].isneginf()


@given(
    rows=st.integers(1, 9),
    size=st.integers(1, 4 * SPARSE * 20),
    count=st.integers(1, 20),
    levels=st.sampled_from([3, 50, 10**6]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_the_largest_are_those_of_topk_whatever_ties(rows, size, count, levels, seed):
    count = min(count, size)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, levels, (rows, size), generator=generator).float()
    values[values == 0] = -torch.inf  # as forbidden tokens are
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "MANY", 0)
        found, places = top(values, count)
    assert torch.equal(found, values.topk(count).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row)) == count for row in places.tolist())


def test_few_values_of_many_are_looked_for_in_groups(monkeypatch):
    widths = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda self, *given, **named: widths.append(self.shape[1]) or topk(self, *given, **named)
    )
    top(torch.randn(8, 2**14), 5)
    assert max(widths) == 2**14 // sampling.GROUP
