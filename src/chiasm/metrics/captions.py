"""Scores of captions against references, each with an interval: exact match, BLEU, ROUGE-L and CIDEr-D."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from chiasm.metrics.intervals import percentile_interval, resampled_sums

ORDERS = 4
"""N-grams of one to four words."""
ROUGE_BETA = 1.2
CIDER_SIGMA_WORDS = 6.0
SMALL, TINY = 1e-9, 1e-15
"""What pycocoevalcap adds to BLEU's counts, so that no count is zero."""

_MARKS = r"\s!-,./:-@\[-`{-~¡«·»¿‐-‧‰-⁞、-〃〈-】〔-〟！-／：-＠।،؛؟"
"""Inside a character class: space and all marks of which no word is made, the hyphen aside."""
_WORD = rf"[^{_MARKS}-]+(?:-[^{_MARKS}-]+)*"
_TOKEN = re.compile(
    rf"\d+(?:[.,]\d+)+|[^{_MARKS}-]+(?=n't(?!\w))|n't(?!\w)|'(?:s|m|d|re|ve|ll)(?!\w)|{_WORD}|[$%&#@+=*/<>^|~]"
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A corpus's score, its bootstrap interval over items, and the same score of each item by itself."""

    value: float
    low: float
    high: float
    per_item: Float[np.ndarray, " n"]


def tokenize_caption(text: str) -> list[str]:
    """Words in lower case without punctuation, contractions split ("don't" is "do", "n't"), as COCO's evaluation does.

    It follows the Penn Treebank rules that matter in captions; hypotheses and references both go through it.
    """
    return _TOKEN.findall(text.lower().replace("’", "'"))


def caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Score]:
    """Scores of one hypothesis per item against the item's references, all to be read as higher is better.

    "exact_match": the share of hypotheses equal to a reference, white space at the ends aside.
    "bleu_1" to "bleu_4": of the corpus, with the closest reference length (Papineni et al. 2002).
    "rouge_l": mean F-score of the longest common subsequence, beta 1.2 (Lin 2004).
    "cider_d": mean CIDEr-D, idf over the items' references, sigma 6 (1411.5726), from 0 to 10; one item alone gives 0.

    All but the first equal pycocoevalcap's on the same tokens. ValueError where the lengths differ, there are no
    items, or an item has no reference.
    """
    _check(hypotheses, references)
    corpus = _Corpus(
        [tokenize_caption(h) for h in hypotheses], [[tokenize_caption(r) for r in own] for own in references]
    )
    means = {
        "exact_match": _exact_match(hypotheses, references),
        "rouge_l": _rouge_l(corpus),
        "cider_d": _cider_d(corpus),
    }
    bleu = _bleu_statistics(corpus)
    sums = resampled_sums(np.column_stack([bleu, *means.values()]), resamples=resamples, seed=seed)

    def score(value: float, per_item: np.ndarray, resampled: np.ndarray) -> Score:
        low, high = percentile_interval(resampled, level=level)
        return Score(value=float(value), low=low, high=high, per_item=per_item)

    bleus = zip(_bleu(bleu.sum(axis=0)), _bleu(bleu).T, _bleu(sums[:, : bleu.shape[1]]).T, strict=True)
    scores = {f"bleu_{order}": score(*parts) for order, parts in enumerate(bleus, start=1)}
    for (name, values), column in zip(means.items(), sums[:, bleu.shape[1] :].T, strict=True):
        scores[name] = score(values.mean(), values, column / len(values))
    return {"exact_match": scores.pop("exact_match")} | scores


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses do not fit references of {len(references)} items")
    if not hypotheses:
        raise ValueError("There are no captions to score")
    for item, own in enumerate(references):
        if not own or isinstance(own, str):
            raise ValueError(f"Item {item} has {own!r} for references; it needs a list of at least one")


class _Corpus:
    """Tokenised captions, and their n-grams counted once: captions 0 to n - 1 are hypotheses, the rest references."""

    def __init__(self, hypotheses: list[list[str]], references: list[list[list[str]]]):
        self.hypotheses, self.references = hypotheses, references
        self.items = len(hypotheses)
        every = hypotheses + [reference for own in references for reference in own]
        own = np.repeat(np.arange(self.items), [len(own) for own in references])
        self.item = np.concatenate([np.arange(self.items), own])
        self.lengths = np.array([len(tokens) for tokens in every])
        self.orders = [_Order(*rows, self.item, self.items) for rows in _count_ngrams(every, self.lengths)]


class _Order:
    """N-grams of one order, a row for each gram of each caption: the hypotheses' rows first, then the references'."""

    def __init__(self, keys: np.ndarray, count: np.ndarray, grams: int, item_of_caption: np.ndarray, items: int):
        self.caption, self.gram = np.divmod(keys, grams)
        self.count, self.grams = count, grams
        self.item = item_of_caption[self.caption]
        self.key = self.item * grams + self.gram
        split = np.searchsorted(self.caption, items)
        self.ours, self.theirs = slice(split), slice(split, None)
        self.known, inverse = np.unique(self.key[self.theirs], return_inverse=True)
        self.most = np.zeros(len(self.known), dtype=np.int64)
        """Each known key's greatest count in one reference of its item."""
        np.maximum.at(self.most, inverse, count[self.theirs])


def _count_ngrams(
    captions: list[list[str]], lengths: Int[np.ndarray, " captions"]
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """For each order the sorted keys (caption * grams + gram), their counts, and how many grams there are.

    A gram's number is that of the pair of its beginning (a gram of one order less) and its last word.
    """
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for tokens in captions for word in tokens], dtype=np.int64)
    caption, end = np.repeat(np.arange(len(captions)), lengths), np.repeat(np.cumsum(lengths), lengths)
    start, gram, grams = np.arange(len(words)), words, max(1, len(numbers))
    for order in range(1, ORDERS + 1):
        if order > 1:
            fits = start + order <= end[start]
            start = start[fits]
            pairs, gram = np.unique(gram[fits] * len(numbers) + words[start + order - 1], return_inverse=True)
            grams = max(1, len(pairs))
        yield *np.unique(caption[start] * grams + gram, return_counts=True), grams


def _exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, " n"]:
    pairs = zip(hypotheses, references, strict=True)
    return np.array([hypothesis.strip() in {r.strip() for r in own} for hypothesis, own in pairs], dtype=np.float64)


def _bleu_statistics(corpus: _Corpus) -> Float[np.ndarray, "n 10"]:
    """Per item: matched n-grams of each order, n-grams of each order, own length, closest reference length."""
    matched = []
    for order in corpus.orders:
        allowed = _look_up(order.known, order.most, order.key[order.ours])
        common = np.minimum(order.count[order.ours], allowed)
        matched.append(np.bincount(order.item[order.ours], common, minlength=corpus.items))
    length = corpus.lengths[: corpus.items]
    made = [np.maximum(0, length - order + 1) for order in range(1, ORDERS + 1)]
    pairs = zip(corpus.hypotheses, corpus.references, strict=True)
    closest = [min((abs(len(r) - len(h)), len(r)) for r in own)[1] for h, own in pairs]
    return np.column_stack([*matched, *made, length, closest]).astype(np.float64)


def _bleu(sums: Float[np.ndarray, "*rows 10"]) -> Float[np.ndarray, "*rows 4"]:
    matched, made, length, closest = np.split(sums, [ORDERS, 2 * ORDERS, 2 * ORDERS + 1], axis=-1)
    precision = np.cumprod((matched + TINY) / (made + SMALL), axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    return precision * np.exp(np.minimum(0, 1 - (closest + SMALL) / (length + TINY)))


def _rouge_l(corpus: _Corpus) -> Float[np.ndarray, " n"]:
    scores = []
    for hypothesis, references in zip(corpus.hypotheses, corpus.references, strict=True):
        hypothesis = hypothesis or [""]  # no words count as one empty word, as they do in pycocoevalcap
        common = [(_common_length(hypothesis, r or [""]), len(r or [""])) for r in references]
        precision = max(length for length, _ in common) / len(hypothesis)
        recall = max(length / words for length, words in common)
        weighted = recall + ROUGE_BETA**2 * precision
        scores.append((1 + ROUGE_BETA**2) * precision * recall / weighted if weighted else 0.0)
    return np.array(scores)


def _common_length(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, one machine addition per word (Hyyrö 2004): a zero bit is a match."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    everywhere = (1 << len(a)) - 1
    free = everywhere
    for word in b:
        hit = free & places.get(word, 0)
        free = ((free + hit) | (free - hit)) & everywhere
    return len(a) - free.bit_count()


def _cider_d(corpus: _Corpus) -> Float[np.ndarray, " n"]:
    captions, references = len(corpus.lengths), slice(corpus.items, None)
    own = corpus.item[references]
    pairs = np.maximum(0, corpus.lengths - 1)  # pycocoevalcap measures length in pairs of words
    away = pairs[references] - pairs[own]
    similarity = np.zeros(len(own))
    for order in corpus.orders:
        ours, theirs = order.ours, order.theirs
        documents = np.bincount(order.known % order.grams, minlength=order.grams)
        weight = order.count * np.log(corpus.items / np.maximum(1, documents))[order.gram]
        norm = np.sqrt(np.bincount(order.caption, weight**2, minlength=captions))
        clipped = np.minimum(_look_up(order.key[ours], weight[ours], order.key[theirs]), weight[theirs])
        product = np.bincount(order.caption[theirs], clipped * weight[theirs], minlength=captions)[references]
        norms = norm[references] * norm[own]
        similarity += product / np.where(norms > 0, norms, 1)
    similarity *= 10 / ORDERS * np.exp(-(away**2) / (2 * CIDER_SIGMA_WORDS**2))
    return np.bincount(own, similarity, minlength=corpus.items) / np.bincount(own, minlength=corpus.items)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values at the wanted keys, zero where there is no such key; `keys` are sorted."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=values.dtype)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


__all__ = ["Score", "caption_scores", "tokenize_caption"]
