import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.metrics import caption_scores, tokenize_caption
from chiasm.metrics.captions import _common_length

NAMES = ["exact_match", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]


def random_captions(seed, items):
    rng = random.Random(seed)
    captions = [[" ".join(rng.choices("abc", k=rng.randint(3, 9))) for _ in range(4)] for _ in range(items)]
    return [first for first, *_ in captions], [own[: rng.randint(1, 3)] for _, *own in captions]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A small, red Circle.", "a small red circle"),
        ("don't can’t isn't", "do n't ca n't is n't"),
        ("the dog's bone; it's his", "the dog 's bone it 's his"),
        ("we're I've you'll he'd I'm", "we 're i 've you 'll he 'd i 'm"),
        ('"quoted" (bracketed) [more] {most} “curly”…', "quoted bracketed more most curly"),
        ("a T-shirt - with a well-known logo", "a t-shirt with a well-known logo"),
        ("dog--cat", "dog cat"),
        ("1,000 people at 3.5 miles", "1,000 people at 3.5 miles"),
        ("salt & pepper, 50%", "salt & pepper 50 %"),
        ("Flag: Côte d’Ivoire", "flag côte d ivoire"),
        ("un café，por favor。", "un café por favor"),
        ("हिन्दी शब्द", "हिन्दी शब्द"),
        ("  \n\t ", ""),
        ("...!?", ""),
    ],
)
def test_tokens(text, tokens):
    assert tokenize_caption(text) == tokens.split()


@given(st.text())
def test_tokens_are_stable_under_tokenisation(text):
    once = tokenize_caption(text)
    assert tokenize_caption(" ".join(once)) == once


def test_perfect_captions_score_full_marks():
    texts = ["a small red circle on grass", "two dogs run in deep snow", "the cat sleeps under a table"]
    scores = caption_scores(texts, [[text] for text in texts])
    assert list(scores) == NAMES
    for name, score in scores.items():
        best = 10 if name == "cider_d" else 1
        assert [score.value, score.low, score.high, *score.per_item] == pytest.approx([best] * 6), name


def test_captions_without_a_common_word_score_nothing():
    for name, score in caption_scores(["x y z w", "p q r s"], [["a b c d"], ["e f g h"]]).items():
        assert score.value == pytest.approx(0, abs=1e-3), name


def test_exact_match_forgives_space_at_the_ends_alone():
    scores = caption_scores([" a dog\n", "A dog", "a dog.", "a  dog"], [["a cat", "a dog "]] * 4)
    assert scores["exact_match"].per_item.tolist() == [1, 0, 0, 0]
    assert scores["exact_match"].value == 0.25


def test_bleu_by_hand():
    # matches clipped at the most frequent reference: "the" twice of seven (Papineni et al. 2002, section 2.1)
    references = ["the cat is on the mat", "there is a cat on the mat"]
    score = caption_scores(["the the the the the the the"], [references])["bleu_1"]
    assert score.value == pytest.approx(2 / 7, abs=1e-6)
    short = caption_scores(["the cat"], [references])["bleu_1"]  # brevity: 2 words, closest reference has 6
    assert short.value == pytest.approx(math.exp(1 - 6 / 2), abs=1e-6)


def test_bleu_is_of_the_corpus_and_not_a_mean():
    scores = caption_scores(["a b c d e f g h", "x"], [["a b c d e f g h"], ["y"]])
    assert scores["bleu_1"].value == pytest.approx(8 / 9, abs=1e-6)


def test_cider_is_higher_for_rare_words_than_for_common_ones():
    references = [["a dog in snow"], ["a cat in grass"], ["a cow in water"], ["a man in rain"]]
    rare = caption_scores(["dog", "x", "x", "x"], references)["cider_d"].per_item
    common = caption_scores(["a", "x", "x", "x"], references)["cider_d"].per_item
    assert rare[0] > common[0] == 0


def test_no_words_anywhere_are_scores_too():
    for name, score in caption_scores(["", "."], [["!"], ["", "?"]]).items():
        assert np.isfinite([score.value, score.low, score.high, *score.per_item]).all(), name


def ngrams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def tf_idf(text, n, documents):
    return {
        gram: count * math.log(len(documents) / max(1, sum(gram in document for document in documents)))
        for gram, count in ngrams(text, n).items()
    }


def naive_cider(hypotheses, references):
    """CIDEr-D straight from the paper's equations, one dictionary at a time."""
    scores = []
    for hypothesis, own in zip(hypotheses, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            documents = [set().union(*(ngrams(r, n) for r in refs)) for refs in references]
            h = tf_idf(hypothesis, n, documents)
            for reference in own:
                r = tf_idf(reference, n, documents)
                norms = math.sqrt(sum(v * v for v in h.values()) * sum(v * v for v in r.values()))
                dot = sum(min(h.get(g, 0), v) * v for g, v in r.items())
                away = len(hypothesis.split()) - len(reference.split())
                total += (dot / norms if norms else 0) * math.exp(-(away**2) / 72) / len(own)
        scores.append(10 * total / 4)
    return scores


def test_cider_equals_the_equations():
    hypotheses, references = random_captions(0, 12)
    assert caption_scores(hypotheses, references)["cider_d"].per_item == pytest.approx(
        naive_cider(hypotheses, references)
    )


@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcd"), max_size=9))
def test_common_length_equals_the_table(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert _common_length(a, b) == table[-1, -1]


def test_scores_do_not_depend_on_the_order_of_items_or_references():
    hypotheses, references = random_captions(1, 20)
    scores = caption_scores(hypotheses, references)
    order = random.Random(1).sample(range(20), 20)
    shuffled = caption_scores([hypotheses[i] for i in order], [references[i][::-1] for i in order])
    for name in NAMES:
        assert shuffled[name].value == pytest.approx(scores[name].value)
        assert shuffled[name].per_item == pytest.approx(scores[name].per_item[order])


def test_intervals_hold_the_value_and_narrow_with_more_items():
    widths = []
    for items in (30, 480):
        scores = caption_scores(*random_captions(2, items))
        for name in NAMES[1:]:
            assert scores[name].low < scores[name].value < scores[name].high, name
        widths.append({name: scores[name].high - scores[name].low for name in NAMES[1:]})
    for name in NAMES[1:]:
        assert widths[1][name] < widths[0][name] / 2, name


@pytest.mark.parametrize(
    ("hypotheses", "references", "match"),
    [
        (["a"], [["a"], ["b"]], "1 hypotheses do not fit references of 2"),
        ([], [], "no captions"),
        (["a", "b"], [["a"], []], "Item 1"),
        (["a", "b"], ["a", "b"], "Item 0"),
    ],
)
def test_captions_that_do_not_fit_are_errors(hypotheses, references, match):
    with pytest.raises(ValueError, match=match):
        caption_scores(hypotheses, references)
