"""`chiasm answer`, `chiasm match`, and `chiasm classify` by a classifier's own classes."""

import json
import shutil

import pytest

from chiasm.predict import ClassifierPredictor
from classifier_files import COLOURS, QUESTIONS, fusion_bundle, picture_bundle, write_classifier
from clip_files import write_clip


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    return write_classifier(fusion_bundle(), tmp_path_factory.mktemp("answerer") / "bundle")


@pytest.fixture(scope="module")
def matcher(tmp_path_factory):
    return write_classifier(fusion_bundle("match", ("no", "yes")), tmp_path_factory.mktemp("matcher") / "bundle")


@pytest.fixture(scope="module")
def sorter(tmp_path_factory):
    return write_classifier(picture_bundle(), tmp_path_factory.mktemp("sorter") / "bundle")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_classifier(fusion_bundle("label"), tmp_path_factory.mktemp("reader") / "bundle")


def lines(out):
    return [line.split("\t") for line in out.splitlines()]


def shown(answers):
    best, *others = (f"{answer.label} {answer.probability:.2f}" for answer in answers)
    return [best, f"({', '.join(others)})"] if others else [best]


def test_a_line_has_path_question_answer_and_the_next(answerer, shelf, ask):
    code, out, err = ask("answer", answerer, shelf / "0.png", *QUESTIONS)
    assert (code, err) == (0, "")
    wanted = ClassifierPredictor.load(answerer).answer(shelf / "0.png", QUESTIONS)
    rows = [[str(shelf / "0.png"), question, *shown(found)] for question, found in zip(QUESTIONS, wanted, strict=True)]
    assert lines(out) == rows
    _, out, _ = ask("answer", answerer, shelf / "0.png", QUESTIONS[0], "--top", 1)
    assert lines(out) == [[*rows[0][:3]]]


def test_every_picture_of_a_folder_is_asked(answerer, shelf, ask):
    _, out, _ = ask("answer", answerer, shelf, QUESTIONS[0], "--json", "--top", 2)
    told = [json.loads(line) for line in out.splitlines()]
    assert len({row["path"] for row in told}) == 9
    assert {row["question"] for row in told} == {QUESTIONS[0]}
    best = told[0]["answers"]
    assert len(best) == 2 and best[0]["probability"] >= best[1]["probability"] and best[0]["label"] in COLOURS


def test_captions_come_in_the_order_of_their_probability(matcher, shelf, ask):
    captions = ("is there a circle?", "a red square", "the")
    code, out, err = ask("match", matcher, shelf / "1.png", *captions)
    assert (code, err) == (0, "")
    found = ClassifierPredictor.load(matcher).match(shelf / "1.png", captions)
    wanted = sorted(zip(found.tolist(), captions, strict=True), reverse=True)
    assert lines(out) == [[str(shelf / "1.png"), f"{p:.2f}", caption] for p, caption in wanted]
    _, out, _ = ask("match", matcher, shelf / "1.png", *captions, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [row["caption"] for row in told] == [caption for _, caption in wanted]
    assert [row["probability"] for row in told] == pytest.approx([p for p, _ in wanted], abs=1e-4)


def test_a_classifier_needs_no_labels(sorter, shelf, ask):
    code, out, err = ask("classify", sorter, shelf / "0.png", shelf / "1.png")
    assert (code, err) == (0, "")
    wanted = ClassifierPredictor.load(sorter).classify([shelf / "0.png", shelf / "1.png"])
    assert [line[1:] for line in lines(out)] == [shown(found) for found in wanted]
    _, out, _ = ask("classify", sorter, shelf / "0.png", "--json", "--top", 1)
    assert json.loads(out)["answers"] == [{"label": wanted[0][0].label, "probability": pytest.approx(
        wanted[0][0].probability, abs=1e-4)}]  # fmt: skip


def test_a_text_comes_with_the_pictures_of_a_fusion(reader, shelf, ask):
    outs = [ask("classify", reader, shelf / "0.png", "--text", text)[1] for text in QUESTIONS]
    wanted = ClassifierPredictor.load(reader).classify([shelf / "0.png"] * 2, QUESTIONS)
    assert [lines(out)[0][1:] for out in outs] == [shown(found) for found in wanted]


def test_a_broken_picture_among_good_ones(answerer, shelf, ask, tmp_path):
    shutil.copy(shelf / "0.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    code, out, err = ask("answer", answerer, tmp_path, QUESTIONS[0])
    assert code == 2 and [line[0] for line in lines(out)] == [str(tmp_path / "a.png")]
    assert "1 of 2 pictures cannot be read" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("answer matcher 0.png red?", "trained for the task 'match', not 'answer'\n  Ask it by `chiasm match`."),
        ("match answerer 0.png red?", "trained for the task 'answer', not 'match'"),
        ("classify answerer 0.png", "trained for the task 'answer', not 'label'"),
        ("answer sorter 0.png red?", "trained for the task 'label', not 'answer'\n  Ask it by `chiasm classify`."),
        ("answer clip 0.png red?", "The model is a Clip, and a Classifier is needed here"),
        ("match clip 0.png red?", "The model is a Clip, and a Classifier is needed here"),
        ("answer answerer nowhere.png red?", "There is no"),
        ("answer answerer 0.png red? --top 0", "--top is 0"),
        ("classify sorter 0.png --labels a", "has its own labels\n  Leave yours away; its: blue, green, red."),
        ("classify sorter 0.png --text red?", "reads no texts"),
        ("classify reader 0.png", "needs a text with each picture"),
    ],
)
def test_what_cannot_be_asked_is_told(words, told, shelf, ask, tmp_path, request):
    verb, model, picture, *rest = words.split()
    run = write_clip(tmp_path / "clip") if model == "clip" else request.getfixturevalue(model)
    code, out, err = ask(verb, run, shelf / picture, *rest)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and told in err
