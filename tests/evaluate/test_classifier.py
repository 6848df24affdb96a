"""Scores of a classifier against what it says of single examples: kinds, unknown labels, exchanged pictures."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.evaluate import classifier as evaluate
from chiasm.evaluate import draw_answers, drawings, evaluate_classifier, scores_table, write_results
from chiasm.predict import ClassifierPredictor
from chiasm.types import Example
from classifier_files import COLOURS, QUESTIONS, fusion_bundle, picture_bundle

KINDS = ("colour", "existence")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "ROWS", 7)  # several batches


@pytest.fixture(scope="module")
def predictor():
    return ClassifierPredictor(fusion_bundle())


def example(i, label=None, image=None):
    """Two questions about each picture, one of each kind."""
    pixels = np.random.default_rng(i // 2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    label = COLOURS[i * 7 % 3] if label is None else label
    return Example(
        image=pixels if image is None else image,
        texts=(QUESTIONS[i % 2],),
        key=f"p{i // 2}#{i % 2}",
        group=f"p{i // 2}",
        label=label,
        tags=(KINDS[i % 2], "word"),
    )


def source_of(examples, train=()):
    ends = len(train), len(train) + len(examples)
    splits = {"train": np.arange(ends[0]), "test": np.arange(*ends), "test-empty": np.arange(0)}
    return Source(name="some", examples=[*train, *examples], splits=splits, understood="as told", fingerprint="")


def result_of(predictor, examples, train=(), **settings):
    (result,) = evaluate_classifier(predictor, source_of(examples, train), ["test-empty", "test"], **settings)
    return result


def values(result):
    return {name: score.value for name, score in result.scores.items()}


def asked_alone(predictor, examples):
    """For each example its answers by themselves."""
    return [predictor.classify([e.image], e.texts)[0] for e in examples]


def test_scores_are_those_of_single_answers(predictor):
    examples = [example(i) for i in range(20)]
    answers = asked_alone(predictor, examples)
    right = np.array([a[0].label == e.label for a, e in zip(answers, examples, strict=True)], dtype=float)
    own = [next(x.probability for x in a if x.label == e.label) for a, e in zip(answers, examples, strict=True)]
    found = values(result_of(predictor, examples))
    assert found["accuracy"] == pytest.approx(right.mean()) and 0 < right.mean() < 1
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(own)), rel=1e-4)
    for place, kind in enumerate(KINDS):
        assert found[f"accuracy_{kind}"] == pytest.approx(right[place::2].mean())
    per_class = [right[[e.label == c for e in examples]].mean() for c in COLOURS]
    assert found["accuracy_per_class"] == pytest.approx(np.mean(per_class))
    confidence = np.array([a[0].probability for a in answers])
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((confidence - right)[bins == b].sum()) for b in range(15)]
    assert found["calibration_error"] == pytest.approx(sum(gaps) / 20, abs=1e-5)


def test_what_was_said_is_told(predictor):
    examples = [example(i) for i in range(6)]
    told = result_of(predictor, examples).told
    for item, e, ranked in zip(told, examples, asked_alone(predictor, examples), strict=True):
        assert (item.key, item.text, item.label, item.kind) == (e.key, e.texts[0], e.label, e.tags[0])
        assert item.answer == ranked[0].label
        assert item.probability == pytest.approx(ranked[0].probability, abs=1e-4)


def test_pictures_are_exchanged_for_those_of_other_things():
    predictor = ClassifierPredictor(fusion_bundle(seed=2))  # its answers vary with the picture
    plain = np.random.default_rng(0).integers(0, 256, (10, 1, 1, 3), dtype=np.uint8) * np.ones((16, 16, 1), np.uint8)
    examples = [example(i, image=plain[i // 2]) for i in range(20)]
    answers = [ranked[0].label for ranked in asked_alone(predictor, examples)]
    examples = [replace(e, label=answer) for e, answer in zip(examples, answers, strict=True)]  # all right, as it is
    others = [examples[row] for row in evaluate._exchanged(examples)]
    assert all(other.group != e.group for other, e in zip(others, examples, strict=True))
    assert Counter(other.group for other in others) == Counter(e.group for e in examples)
    found = values(result_of(predictor, examples))
    said = [predictor.classify([o.image], e.texts)[0][0].label for o, e in zip(others, examples, strict=True)]
    right = np.mean([answer == e.label for answer, e in zip(said, examples, strict=True)])
    assert found["accuracy"] == 1 and found["shuffled_drop"] == pytest.approx(1 - right) and right < 1


def test_a_model_that_ignores_the_picture_does_not_mind_another():
    blind = ClassifierPredictor(fusion_bundle(inputs="text"))
    assert "shuffled_drop" not in values(result_of(blind, [example(i) for i in range(8)]))
    seeing = ClassifierPredictor(fusion_bundle())
    for parameter in seeing.model.vision.embed.parameters():
        parameter.data.zero_()
    assert result_of(seeing, [example(i) for i in range(8)]).scores["shuffled_drop"] == (0, 0, 0)


def test_one_thing_alone_has_no_other_picture(predictor):
    assert "shuffled_drop" not in values(result_of(predictor, [example(0), example(1)]))


def test_labels_that_were_never_trained_on_count_as_wrong(predictor):
    known = [example(i) for i in range(8)]
    some = result_of(predictor, [*known, example(8, "pink"), example(9, "mauve")])
    all_known = values(result_of(predictor, known))
    assert values(some)["unknown_labels"] == pytest.approx(0.2)
    assert values(some)["accuracy"] == pytest.approx(0.8 * all_known["accuracy"])
    assert values(some)["log_loss"] == pytest.approx(all_known["log_loss"])
    assert "unknown_labels" in some.columns and "unknown_labels" not in all_known
    assert some.labels.per_class["pink"].value == 0
    nothing = values(result_of(predictor, [example(0, "pink"), example(3, "mauve")]))
    assert (nothing["accuracy"], nothing["unknown_labels"]) == (0, 1) and "log_loss" not in nothing


def test_five_guesses_count_where_there_are_more_classes():
    classes = tuple("abcdefgh")
    predictor = ClassifierPredictor(fusion_bundle(classes=classes))
    examples = [example(i, classes[i % 8]) for i in range(24)]
    answers = asked_alone(predictor, examples)
    wanted = [e.label in [x.label for x in a[:5]] for a, e in zip(answers, examples, strict=True)]
    assert values(result_of(predictor, examples))["accuracy_top5"] == pytest.approx(np.mean(wanted))
    stranger = result_of(predictor, [example(i, "z") for i in range(4)])
    assert values(stranger)["accuracy_top5"] == 0


def test_the_baseline_knows_the_words_of_the_training_split_only(predictor):
    train = [example(0, "red"), example(2, "red"), example(4, "blue"), example(1, "green")]
    examples = [example(6, "red"), example(8, "blue"), example(7, "green"), example(9, "red")]
    assert values(result_of(predictor, examples, train))["baseline"] == 0.5
    pictures = ClassifierPredictor(picture_bundle())
    assert values(result_of(pictures, examples, train))["baseline"] == 0.5  # always red
    assert "baseline" not in values(result_of(predictor, examples))


def test_examples_without_a_label_are_left_out(predictor):
    examples = [example(i) for i in range(8)]
    mixed = [examples[0], example(20, ""), *examples[1:], example(21, "")]
    without, with_some = result_of(predictor, examples), result_of(predictor, mixed)
    assert with_some.told == without.told
    assert values(with_some)["accuracy"] == values(without)["accuracy"]
    with pytest.raises(UserError, match="No example of the split 'test' has a label"):
        result_of(predictor, [example(0, ""), example(1, "")])


def test_broken_pictures_are_left_out_and_listed(predictor):
    good = [example(i) for i in range(6)]
    broken = [*good[:2], example(9, image=b"junk"), *good[2:]]
    result = result_of(predictor, broken, max_broken_share=0.5)
    assert [(b.row, b.key) for b in result.broken] == [(2, "p4#1")]
    assert result.scores == result_of(predictor, good).scores


def test_keywords_are_no_kinds(predictor):
    examples = [example(i) for i in range(60)]
    tagged = [Example(**{f: getattr(e, f) for f in ("image", "texts", "key", "group", "label")}, tags=(f"t{i // 2}",))
              for i, e in enumerate(examples)]  # fmt: skip
    assert not [name for name in result_of(predictor, tagged).scores if name.startswith("accuracy_t")]


def test_intervals_are_over_pictures_and_hold_the_score(predictor):
    """Ten copies of every question tell no more than one."""
    once = [example(i) for i in range(12)]
    many = [
        Example(image=e.image, texts=e.texts, key=f"{e.key}-{k}", group=e.group, label=e.label, tags=e.tags)
        for e in once
        for k in range(10)
    ]
    narrow, wide = (result_of(predictor, examples).scores["accuracy"] for examples in (many, once))
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low)
    for name, (value, low, high) in result_of(predictor, once).scores.items():
        assert low <= value <= high or name == "calibration_error", name


def test_results_are_written_and_drawn(predictor, tmp_path):
    source = source_of([example(i, "pink" if i == 3 else None) for i in range(12)])
    results = evaluate_classifier(predictor, source, ["test"])
    write_results(results, tmp_path, "answers.jsonl")
    draw_answers(predictor, source, results, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [example(i).key for i in range(12)]
    assert {"split", "text", "answer", "probability", "label", "kind"} <= rows[0].keys()
    assert "pink,1,0.0000" in (tmp_path / "classes-test.csv").read_text()
    assert "templates" not in json.loads((tmp_path / "evaluation.json").read_text())["test"]
    assert (tmp_path / "gallery-test.png").stat().st_size and (tmp_path / "confusion-test.png").stat().st_size
    assert "accuracy_existence" in scores_table(results)


def test_a_gallery_shows_the_question_the_answer_and_the_truth(predictor, tmp_path, monkeypatch):
    shown = {}

    def gallery(pictures, captions, path, *, colours):
        shown.update(zip(captions, colours, strict=True), pictures=pictures)

    monkeypatch.setattr(drawings, "gallery_figure", gallery)
    examples = [example(i) for i in range(1, 7)]
    source = source_of([example(20, ""), *examples])  # the first is not asked
    results = evaluate_classifier(predictor, source, ["test"])
    draw_answers(predictor, source, results, tmp_path)
    pictures = shown.pop("pictures")
    for item, e, pixels in zip(results[0].told, examples, pictures, strict=True):
        right = item.answer == item.label
        text = f"{item.text}\n{item.answer}" + ("" if right else f" (right: {item.label})")
        assert shown[text] == ("darkgreen" if right else "firebrick")
        assert (pixels == e.image).all()


def test_a_certain_and_wrong_model_has_a_finite_loss(predictor, monkeypatch):
    monkeypatch.setattr(ClassifierPredictor, "probabilities_of", lambda self, batch: np.eye(3)[[0] * len(batch)])
    found = values(result_of(predictor, [example(i, "red") for i in range(4)]))
    assert math.isfinite(found["log_loss"]) and found["log_loss"] > 100
    assert (found["accuracy"], found["calibration_error"]) == (0, 1)


def test_items_are_the_single_answers_whose_means_are_the_scores():
    predictor = ClassifierPredictor(fusion_bundle(seed=2))  # its answers vary with the picture
    examples = [*(example(i) for i in range(20)), example(20, label="")]
    result = result_of(predictor, examples)
    items = result.items
    assert items.keys == tuple(e.key for e in examples[:20]) and items.groups == tuple(e.group for e in examples[:20])
    assert items.kinds == tuple(e.tags[0] for e in examples[:20])
    right = [told.answer == told.label for told in result.told]
    assert items.values["accuracy"].tolist() == right
    assert set(items.values) == {"accuracy", "accuracy_shuffled"}  # without training labels, there is no baseline
    trained = result_of(predictor, examples, train=[example(i) for i in range(30, 50)])
    baseline = trained.items.values["accuracy_baseline"].mean()
    assert baseline == pytest.approx(values(trained)["baseline"])
    drop = items.values["accuracy"].mean() - items.values["accuracy_shuffled"].mean()
    assert drop == pytest.approx(values(result)["shuffled_drop"]) and drop != 0
