"""`chiasm classify`: labels from the line or a file, what matches nothing, JSON, broken pictures among good ones."""

import json
import shutil

import pytest

from chiasm.predict import ClipPredictor
from clip_files import WORDS, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "bundle")


def lines(out):
    return [line.split("\t") for line in out.splitlines()]


def test_a_line_has_path_best_label_probability_and_the_next(clip, shelf, ask):
    paths = [str(shelf / f"{i}.png") for i in range(4)]
    code, out, err = ask("classify", clip, *paths, "--labels", *WORDS)
    assert (code, err) == (0, "")
    predictor = ClipPredictor.load(clip)
    for line, path, (first, second, third) in zip(lines(out), paths, predictor.classify(paths, WORDS), strict=True):
        shown = [path, f"{first.label} {first.share:.2f}", f"{first.probability:.2f}"]
        shown.append(f"({second.label} {second.share:.2f}, {third.label} {third.share:.2f})")
        matches = predictor.matches(first.cosine, len(WORDS))
        assert line == shown + ([] if matches else ["nothing matches"])


def test_what_is_too_unlike_every_label_is_said_to_match_nothing(clip, shelf, ask, monkeypatch):
    marked = []
    for matches in (True, False, None):
        monkeypatch.setattr(ClipPredictor, "matches", lambda *_, m=matches: m)
        marked.append("nothing matches" in ask("classify", clip, shelf / "0.png", "--labels", *WORDS)[1])
    assert marked == [False, True, False]


def test_a_model_without_calibration_has_no_probabilities(shelf, ask, tmp_path):
    clip = write_clip(tmp_path / "bundle", calibrated=False)
    _, out, _ = ask("classify", clip, shelf / "0.png", "--labels", *WORDS)
    assert [len(line) for line in lines(out)] == [3]
    _, out, _ = ask("classify", clip, shelf / "0.png", "--labels", *WORDS, "--json")
    told = json.loads(out)
    assert told["matches"] is None and {label["probability"] for label in told["labels"]} == {None}


def test_one_label_alone_leaves_no_empty_brackets(clip, shelf, ask):
    for words in (("--labels", WORDS[0]), ("--labels", *WORDS, "--top", 1)):
        _, out, _ = ask("classify", clip, shelf / "0.png", *words)
        assert "(" not in out and out.count("\n") == 1


def test_json_has_as_many_labels_as_asked(clip, shelf, ask):
    _, out, _ = ask("classify", clip, shelf, "--labels", *WORDS, "--top", 2, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert len(told) == 9
    wanted = ClipPredictor.load(clip).classify([told[0]["path"]], WORDS)[0][:2]
    for label, guess in zip(told[0]["labels"], wanted, strict=True):
        assert label.pop("label") == guess.label
        assert label == pytest.approx({name: getattr(guess, name) for name in label}, rel=1e-3, abs=1e-4)


def test_labels_of_a_file_and_templates(clip, shelf, ask, tmp_path):
    (tmp_path / "labels.txt").write_text(f" {WORDS[1]}\n\n{WORDS[2]}\n")
    one = ("--labels", WORDS[0], "--labels-file", tmp_path / "labels.txt")
    _, from_file, _ = ask("classify", clip, shelf, *one)
    assert from_file == ask("classify", clip, shelf, "--labels", *WORDS)[1]
    templates = ("{}", "a {} on white")
    _, out, _ = ask("classify", clip, shelf / "0.png", "--labels", "red", "blue", "--templates", *templates, "--json")
    wanted = ClipPredictor.load(clip).classify([shelf / "0.png"], ["red", "blue"], templates)[0]
    got = [label["cosine"] for label in json.loads(out)["labels"]]
    assert got == pytest.approx([guess.cosine for guess in wanted], abs=1e-5)


def test_a_long_label_is_an_error_or_is_cut(clip, shelf, ask):
    words = ("classify", clip, shelf / "0.png", "--labels", "red", "a red circle and a blue square on white")
    code, out, err = ask(*words)
    assert (code, out) == (2, "") and "11 tokens, more than the model's 8" in err
    assert ask(*words, "--truncate")[0] == 0


def test_a_broken_picture_among_good_ones(clip, shelf, ask, tmp_path):
    for source, name in (("0.png", "a.png"), ("1.png", "c.png")):
        shutil.copy(shelf / source, tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    code, out, err = ask("classify", clip, tmp_path, "--labels", *WORDS)
    assert code == 2
    assert [line[0] for line in lines(out)] == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert "1 of 3 pictures cannot be read" in err and f"{tmp_path / 'b.png'}: " in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "There are no labels"),
        (("--labels", "a", "a"), "2 labels, 1 different ones"),
        (("--labels", "a", " "), "Text 2 of 2 is empty"),
        (("--labels", "a", "--top", "0"), "--top is 0"),
        (("--labels", "a", "--templates", "a photo"), "needs one {}"),
        (("--labels-file", "nowhere.txt"), "nowhere.txt cannot be read"),
    ],
)
def test_what_cannot_be_done_is_told(words, told, clip, shelf, ask):
    code, out, err = ask("classify", clip, shelf / "0.png", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and told in err


def test_a_captioner_cannot_classify(run, shelf, ask):
    code, _, err = ask("classify", run, shelf / "0.png", "--labels", "a")
    assert code == 2 and "The model is a Captioner, and a Clip or Coca is needed here" in err
