"""What the coach says of data and scores, from numbers made by hand: both sides of every threshold."""

import pytest

from chiasm.data.findings import Place
from chiasm.evaluate import Estimate
from chiasm.train import diagnose_data as data


def pairs(count, first, second):
    return [(Place(split=first, key=f"a{i}"), Place(split=second, key=f"b{i}")) for i in range(count)]


def test_leak_counts_what_was_trained_on():
    leaks = {("train", "test"): pairs(2, "train", "test"), ("train", "val"): pairs(1, "train", "val")}
    found = data.leak(leaks, {"train": 900, "val": 101, "test": 200}, {"test": 1, "val": 1})
    assert found.evidence == {"test_pictures": 200, "test_leaked": 2, "test_with_same_text": 1}
    assert found.text.startswith("2 pictures of test stand in train too") and "a1 = b1" in found.text
    assert data.leak(leaks, {"train": 900, "val": 101, "test": 201}, {}) is None
    both = data.leak(leaks, {"train": 900, "val": 100, "test": 200}, {})
    assert both.evidence["val_leaked"] == 1 and "of val stand" in both.text
    assert data.leak({("val", "test"): pairs(99, "val", "test")}, {"train": 9, "val": 99, "test": 99}, {}) is None
    assert data.leak({}, {"train": 9}, {}) is None


def test_captions_cut():
    assert data.captions_cut(0.0099, 0.5, 32) is None
    found = data.captions_cut(0.12, 0.034, 32)
    assert found.text.startswith("12 % of the captions are longer than the model's context of 32 tokens")
    assert "3 % of all tokens" in found.text
    assert found.evidence == {"captions_share": 0.12, "tokens_share": 0.034, "context": 32}


def test_few_negatives_tells_doubles_from_small_batches_from_little_data():
    assert data.few_negatives(32, 0.0, 1000) is None
    small = data.few_negatives(31, 0.0, 1000)
    assert "31 pairs" in small.text and "train.batch_size" in small.text
    assert data.few_negatives(128, 3.0, 1000) is None  # 32 are left
    doubles = data.few_negatives(128, 12.8, 1000)
    assert "12.8 others with the same text or picture, 10 % of" in doubles.text
    assert "hits of each other, not as false negatives" in doubles.text and "about 9 different" in doubles.text
    assert doubles.evidence["different"] == pytest.approx(128 / 13.8)
    assert "train.batch_size" in data.few_negatives(36, 0.5, 1000).text  # a few doubles are not what is wrong
    assert "only 20 training pairs" in data.few_negatives(20, 0.0, 20).text
    assert data.few_negatives(1, 0.0, 1000) is not None


def test_pictures_ignored_by_a_captioner():
    def scores(value, low, high, token_loss=1.0):
        return {"shuffled_rise": Estimate(value, low, high), "token_loss": Estimate(token_loss, 0.0, 2.0)}

    found = data.pictures_ignored(scores(0.019, -0.01, 0.03))
    assert "0.019 (95 % interval -0.010 to 0.030) nats per token" in found.text
    assert found.evidence == {"change": 0.019, "low": -0.01, "high": 0.03, "token_loss": 1.0}
    assert data.pictures_ignored(scores(0.021, -0.01, 0.03)) is None
    assert data.pictures_ignored(scores(0.019, -0.2, 0.11)) is None  # too few pictures to say
    assert data.pictures_ignored(scores(0.0, 0.0, 0.0, token_loss=0.01)) is None  # nothing is left for them to tell


def test_pictures_ignored_by_a_classifier():
    def scores(drop, high, accuracy):
        return {"shuffled_drop": Estimate(drop, -0.02, high), "accuracy": Estimate(accuracy, 0.0, 1.0)}

    found = data.pictures_ignored(scores(0.005, 0.02, 0.9) | {"baseline": Estimate(0.89, 0.8, 0.95)})
    assert "the accuracy falls by 0.005" in found.text
    assert found.evidence["accuracy"] == 0.9 and found.evidence["baseline"] == 0.89
    assert data.pictures_ignored(scores(0.015, 0.02, 0.9)) is None
    assert data.pictures_ignored(scores(0.005, 0.12, 0.9)) is None
    assert data.pictures_ignored(scores(0.005, 0.02, 0.96)) is None  # the words suffice
    assert data.pictures_ignored({"accuracy": Estimate(0.3, 0.2, 0.4)}) is None  # it sees no pictures
