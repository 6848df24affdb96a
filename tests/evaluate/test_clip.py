"""Scores of a dual encoder against loops, chance where it has collapsed, labels, and what cosines mean."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.bundle import Bundle
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.evaluate import (
    calibrate,
    common,
    draw_calibration,
    draw_clip,
    evaluate,
    evaluate_clip,
    things,
    write_results,
)
from chiasm.evaluate import clip as evaluate_module
from chiasm.metrics.classification import linear_probe
from chiasm.predict import ClipPredictor
from chiasm.text import Tokenizer
from chiasm.types import Example

PREPROCESS = PreprocessConfig(size=(16, 16))
WORDS = ("one", "two", "red", "blue", "dog", "cats", "and", "bird", "green")
TOKENIZER = Tokenizer.train([" ".join(WORDS)])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(common, "ROWS", 5)  # several batches
    monkeypatch.setattr(evaluate_module, "ROWS", 5)


@pytest.fixture
def predictor(make_clip):
    model = make_clip(vocabulary=TOKENIZER.vocab_size)
    return ClipPredictor(Bundle(model=model, tokenizer=TOKENIZER, preprocess=PREPROCESS))


@pytest.fixture
def collapsed(predictor):
    """A model that says the same of everything."""
    for project in (predictor.model.project_image, predictor.model.project_text):
        project.weight.data.zero_()
        project.bias = torch.nn.Parameter(torch.ones(20))
    return predictor


def text(i):
    return f"{WORDS[i % 9]} {WORDS[i // 9 % 9]} {WORDS[i * 5 % 7]}"


def example(i, *, texts=None, **fields):
    pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Example(image=pixels, texts=(text(i), text(i + 40)) if texts is None else texts, key=f"p{i}", **fields)


def source_of(test, train=()):
    examples = [*test, *train]
    splits = {"train": np.arange(len(test), len(examples)), "test": np.arange(len(test)), "test-empty": np.arange(0)}
    return Source(name="some", examples=examples, splits=splits, understood="some data", fingerprint="")


def scores_of(predictor, source, **settings):
    (result,) = evaluate_clip(predictor, source, ["test-empty", "test"], **settings)
    return {name: score.value for name, score in result.scores.items()}


def test_things_are_joined_by_group_and_by_equal_texts():
    a, b, c = ("a", "b"), ("b", "a"), ("a",)
    examples = [
        example(0, texts=a),
        example(1, texts=b),  # the same texts as 0
        example(2, texts=c, group="g"),  # one text shared is not enough
        example(3, texts=("z",), group="g"),
        example(4, texts=("z",)),  # by its text with 3, and so with 2
        example(5, texts=()),
        example(6, texts=()),  # no text is no common text
        Example(image=b"", texts=("y",), key="g"),  # a key that is called like a group
    ]
    same = things(examples).tolist()
    assert [same.index(thing) for thing in same] == [0, 0, 2, 2, 2, 5, 6, 7]


def naive_rank(cosines, own):
    """The expected rank of the first own candidate, one candidate at a time; ties in every order equally often."""
    best = max(c for c, o in zip(cosines, own, strict=True) if o)
    better = sum(c > best + 1e-6 for c, o in zip(cosines, own, strict=True) if not o)
    tied = sum(abs(c - best) <= 1e-6 for c, o in zip(cosines, own, strict=True) if not o)
    return better, tied, sum(abs(c - best) <= 1e-6 for c, o in zip(cosines, own, strict=True) if o)


def naive_recall(ranks, k):
    chances = []
    for better, tied, own in ranks:
        miss = 1.0
        for place in range(k - better):
            miss *= max(0, tied - place) / max(1, tied + own - place)
        chances.append(1 - miss if k > better else 0.0)
    return sum(chances) / len(chances)


def test_scores_equal_a_naive_loop(predictor):
    test = [example(i) for i in range(12)]
    test[3] = replace(test[3], texts=test[2].texts, key="same as 2")
    test[5] = replace(test[5], group="g")
    test[6] = replace(test[6], group="g")
    test[8] = replace(test[8], texts=(*test[9].texts[:1], "bird"))  # shares one text with 9
    source = source_of(test, [example(i) for i in range(20, 30)])
    got, same = scores_of(predictor, source), things(test)
    pairs = list(dict.fromkeys((int(thing), t) for thing, e in zip(same, test, strict=True) for t in e.texts))
    images = [predictor.embed_images([e.image])[0] for e in test]
    texts = [predictor.embed_texts([t])[0] for _, t in pairs]
    own = {t for _, t in pairs}
    elsewhere = list(dict.fromkeys(t for e in source.examples for t in e.texts if t not in own))
    others = [predictor.embed_texts([t])[0] for t in elsewhere]
    to_text = [
        naive_rank([x @ t for t in texts], [o == s for o, _ in pairs]) for x, s in zip(images, same, strict=True)
    ]
    to_image = [
        naive_rank([x @ t for x in images], [o == s for s in same]) for t, (o, _) in zip(texts, pairs, strict=True)
    ]
    to_all = [
        naive_rank([x @ t for t in texts + others], [o == s for o, _ in pairs] + [False] * len(others))
        for x, s in zip(images, same, strict=True)
    ]
    assert len(others) > 5
    for name, ranks in (("image_to_text", to_text), ("text_to_image", to_image), ("all_texts", to_all)):
        for k in (1, 5) if name == "all_texts" else (1, 5, 10):
            assert got[f"{name}_r{k}"] == pytest.approx(naive_recall(ranks, k), abs=1e-6), (name, k)
    median = np.median([1 + better + tied / (owned + 1) for better, tied, owned in to_text])
    assert got["image_to_text_median_rank"] == pytest.approx(median)


def test_a_text_of_two_things_belongs_to_both_among_all_texts(predictor):
    """Each of the first thing's texts is another's too; the last one to claim it must not take it away."""
    test = [example(0, texts=("one", "two")), example(1, texts=("one",)), example(2, texts=("two",))]
    assert 0 < scores_of(predictor, source_of(test))["all_texts_r5"] <= 1


def test_above_so_many_texts_only_the_split_s_are_searched(predictor, monkeypatch):
    source = source_of([example(i) for i in range(6)])
    before = scores_of(predictor, source)
    monkeypatch.setattr(evaluate_module, "MOST_TEXTS", 3)
    after = scores_of(predictor, source)
    assert before.keys() - after.keys() == {"all_texts_r1", "all_texts_r5"}
    assert after == pytest.approx({name: before[name] for name in after}, abs=1e-6)


def test_labels_that_are_one_to_the_model_are_not_scored(predictor):
    test = [example(i, texts=(text(i),), label=("unheard", "unseen")[i % 2]) for i in range(6)]
    assert not any(name.startswith("label") for name in scores_of(predictor, source_of(test)))


def test_a_collapsed_model_scores_chance(collapsed):
    test = [example(i, texts=(text(i),), label=text(i % 8)) for i in range(16)]
    got = scores_of(collapsed, source_of(test, [example(i, texts=(text(i),)) for i in range(20, 36)]))
    texts = len({t for e in source_of(test).examples for t in e.texts})
    assert texts == 16
    for name in ("image_to_text", "text_to_image"):
        assert got[f"{name}_r1"] == pytest.approx(1 / 16) and got[f"{name}_r5"] == pytest.approx(5 / 16)
        assert got[f"{name}_median_rank"] == pytest.approx(8.5)
    assert got["all_texts_r1"] == pytest.approx(1 / 32)
    assert got["label_top1"] == got["label_mean_per_class"] == pytest.approx(1 / 8)
    assert got["label_top5"] == pytest.approx(5 / 8)


LABELS = ("red dog", "blue cats", "bird")


def labelled(i, **fields):
    return example(i, label=LABELS[i % 3], **fields)


@pytest.mark.parametrize("templates", [("{}",), ("one {}", "{} and two")])
def test_labels_are_told_by_their_prompts(predictor, templates):
    test = [*(labelled(i) for i in range(10)), example(10), example(11)]  # the last ones have none
    (result,) = evaluate_clip(predictor, source_of(test), ["test"], templates=templates)
    guessed = [g[0].label for g in predictor.classify([e.image for e in test[:10]], sorted(LABELS), templates)]
    right = [g == e.label for g, e in zip(guessed, test, strict=False)]
    assert result.scores["label_top1"].value == pytest.approx(sum(right) / 10)
    assert "label_top5" not in result.scores  # there are three
    assert result.labels.templates == templates
    assert result.labels.pictures == {"bird": 3, "blue cats": 3, "red dog": 4}
    for label, score in result.labels.per_class.items():
        own = [r for r, e in zip(right, test, strict=False) if e.label == label]
        assert score.value == pytest.approx(sum(own) / len(own))
    for i, truth in enumerate(sorted(LABELS)):
        for j, given in enumerate(sorted(LABELS)):
            pairs = zip(test, guessed, strict=False)
            assert result.labels.confusion[i, j] == sum(e.label == truth and g == given for e, g in pairs)


def test_one_label_tells_nothing(predictor):
    (result,) = evaluate_clip(predictor, source_of([example(i, label="dog") for i in range(4)]), ["test"])
    assert result.labels is None and not [name for name in result.scores if name.startswith("label")]


def test_the_probe_is_a_linear_classifier_of_training_vectors(predictor):
    test = [*(labelled(i) for i in range(9)), example(9, label="unheard of")]
    train = [*(labelled(i) for i in range(20, 40)), example(40)]
    source = source_of(test, train)
    assert "probe_top1" not in scores_of(predictor, source)
    assert "probe_top1" not in scores_of(predictor, source_of(test), probe=True)  # nothing to learn from
    assert "probe_top1" not in scores_of(predictor, source_of(test, [labelled(20), labelled(21)]), probe=True)
    vectors = (
        predictor.embed_images([e.image for e in train[:-1]]),
        predictor.embed_images([e.image for e in test[:-1]]),
    )
    found = linear_probe(vectors[0], np.array([e.label for e in train[:-1]]), vectors[1]).predictions
    wanted = np.mean(found == np.array([e.label for e in test[:-1]]))
    assert scores_of(predictor, source, probe=True)["probe_top1"] == pytest.approx(wanted)
    (result,) = evaluate(predictor, source, ["test"], templates=("one {}",))
    assert "probe_top1" in result.columns and result.labels.templates == ("one {}",)


def test_what_is_told_of_each_picture(predictor):
    test = [*(example(i) for i in range(7)), example(7, texts=())]
    (result,) = evaluate_clip(predictor, source_of(test), ["test"])
    words = list(dict.fromkeys(t for e in test for t in e.texts))
    cosines = predictor.similarity([e.image for e in test], words)
    for row, (told, e) in enumerate(zip(result.told, test, strict=True)):
        assert (told.key, told.texts, told.found) == (e.key, e.texts, words[cosines[row].argmax()])
        assert told.cosine == pytest.approx(cosines[row].max(), abs=1e-3)
        better = [(cosines[row] > cosines[row, words.index(t)] + 1e-6).sum() for t in e.texts]
        assert told.rank == (None if row == 7 else 1 + min(better))
    assert result.pictures == 8


def test_searches_show_the_nearest_pictures_and_whether_they_are_right(predictor):
    test = [example(i, texts=(text(i // 2),)) for i in range(20)]
    (result,) = evaluate_clip(predictor, source_of(test), ["test"])
    assert len(result.searches) == 5 == len({search.text for search in result.searches})
    for search in result.searches:
        cosines = predictor.similarity([e.image for e in test], [search.text])[:, 0]
        np.testing.assert_allclose(cosines[list(search.places)], np.sort(cosines)[::-1][:6], atol=1e-5)
        assert list(search.right) == [search.text in test[place].texts for place in search.places]


def test_a_split_without_texts_is_refused(predictor):
    with pytest.raises(UserError, match="No picture of the split 'test' has a text") as caught:
        scores_of(predictor, source_of([example(i, texts=()) for i in range(3)]))
    assert caught.value.hint == "some data"


def test_broken_pictures_are_left_out_and_listed(predictor):
    good = [example(i) for i in range(6)]
    broken = replace(example(9), image=b"junk")
    source = source_of([*good[:2], broken, *good[2:]])
    (result,) = evaluate_clip(predictor, source, ["test"], max_broken_share=0.5)
    assert [b.key for b in result.broken] == ["p9"] and result.pictures == 6
    assert [told.key for told in result.told] == [e.key for e in good]
    with pytest.raises(UserError, match="1 of the 7 pictures"):
        evaluate_clip(predictor, source, ["test"])


def test_calibration_is_that_of_true_and_of_random_pairs(predictor):
    test = [example(i, texts=(text(i),)) for i in range(30)]
    calibration = calibrate(predictor, source_of(test), "test")
    cosines = predictor.similarity([e.image for e in test], [e.texts[0] for e in test])
    true, false = np.diagonal(cosines), cosines[~np.eye(30, dtype=bool)]
    assert calibration.true.cosines[0] == pytest.approx(true.min(), abs=1e-4)
    assert float(calibration.false.share(np.array([np.median(false)]))[0]) == pytest.approx(0.5, abs=0.02)


def test_too_little_data_calibrates_nothing(predictor):
    assert calibrate(predictor, source_of([example(i) for i in range(19)]), "test") is None
    assert calibrate(predictor, source_of([example(i, texts=("one",)) for i in range(30)]), "test") is None
    assert calibrate(predictor, source_of([example(i, texts=()) for i in range(30)]), "test") is None


def test_results_and_drawings_are_written(predictor, tmp_path):
    source = source_of([*(labelled(i) for i in range(30)), example(30, texts=())])
    results = evaluate_clip(predictor, source, ["test"], templates=("one {}",))
    write_results(results, tmp_path, "retrieval.jsonl")
    draw_clip(predictor, source, results, tmp_path)
    draw_calibration(calibrate(predictor, source, "test"), tmp_path / "calibration.png")
    assert json.loads((tmp_path / "evaluation.json").read_text())["test"]["templates"] == ["one {}"]
    assert len((tmp_path / "retrieval.jsonl").read_text().splitlines()) == 31
    rows = list(csv.DictReader((tmp_path / "classes-test.csv").read_text().splitlines()))
    assert [(row["label"], row["pictures"]) for row in rows] == [(label, "10") for label in sorted(LABELS)]
    for row in rows:
        wanted = results[0].labels.per_class[row["label"]].value
        assert float(row["low"]) <= float(row["top1"]) <= float(row["high"])
        assert float(row["top1"]) == pytest.approx(wanted, abs=1e-4)
    for name in ("gallery-test", "retrieval-test", "confusion-test", "calibration"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 150, name


def test_items_are_the_pictures_with_texts_by_reciprocal_rank(predictor):
    test = [*(example(i) for i in range(7)), example(7, texts=()), example(8, group="g")]
    (result,) = evaluate_clip(predictor, source_of(test), ["test"])
    items = result.items
    assert items.keys == ("p0", "p1", "p2", "p3", "p4", "p5", "p6", "p8") and items.groups[-1] == "g"
    ranks = [told.rank for told in result.told if told.rank is not None]
    assert items.values["image_to_text_mrr"] == pytest.approx([1 / rank for rank in ranks])
    assert items.values["image_to_text_mrr"].mean() == pytest.approx(result.scores["image_to_text_mrr"].value)
