"""`chiasm interpolate`: from two runs to a table, a picture, JSON and the best model; and what it refuses."""

import json

import pytest

from chiasm import cli
from chiasm.bundle import Bundle

LESSON = ("--difficulty", "lesson", "--samples", "100")
SETTINGS = ("--set", "train.steps=4", "train.batch_size=32", "train.precision=fp32", "train.ema_decay=0",
            "train.keep=last")  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An original and a tuned run."""
    folder = tmp_path_factory.mktemp("runs")
    for name, start in (("original", ("--preset", "tiny")), ("tuned", ("--from", str(folder / "original")))):
        command = ("train", "clip", "shapes", *LESSON, "--augment", "none", *start, "--out", str(folder / name))
        assert cli.main([*command, *SETTINGS]) == 0
    return folder


def test_a_sweep_as_table_picture_json_and_bundle(runs, ask, tmp_path):
    saved = ("--save", "best", tmp_path / "both")
    words = ("--old", "shapes", "--old-split", "val", *LESSON, "--points", "3", "--out", tmp_path / "out")
    code, out, err = ask("interpolate", runs / "original", runs / "tuned", "shapes", *words, *saved)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "image_to_text_r1" and lines[2] == "| alpha | shapes test | shapes val | mean |"
    found = json.loads((tmp_path / "out/interpolation.json").read_text())
    assert [point["alpha"] for point in found["points"]] == [0.0, 0.5, 1.0]
    assert f"| {found['best_alpha']:g} (best) |" in out and f"(alpha {found['best_alpha']:g})" in lines[-1]
    assert (tmp_path / "out/interpolation.png").read_bytes().startswith(b"\x89PNG")
    assert Bundle.load(tmp_path / "both").card.startswith(f"# {found['best_alpha']:g} of the way from")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--points", "1"), "--points is 1"),
        (("--save", "0.5"), "not an alpha and a folder"),
        (("--save", "1.5", "x"), "--save 1.5 is no alpha"),
        (("--save", "much", "x"), "--save much is no alpha"),
        (("--split", "moon"), "has no split 'moon'"),
        (("--score", "beauty", "--points", "2"), "no score 'beauty'"),
    ],
)
def test_what_cannot_be_swept_is_told(words, told, runs, ask):
    code, out, err = ask("interpolate", runs / "original", runs / "tuned", "shapes", "--old", "shapes", *LESSON, *words)
    assert (code, out) == (2, "")
    assert told in err


def test_another_kind_of_model_is_refused(runs, run, ask, tmp_path):
    code, _, err = ask("interpolate", run, runs / "tuned", "shapes", "--old", "shapes", *LESSON)
    assert code == 2 and "only in the original: decoder." in err and "only in the tuned model: log_scale" in err
    code, _, err = ask("interpolate", tmp_path, runs / "tuned", "shapes", "--old", "shapes", *LESSON)
    assert code == 2 and str(tmp_path) in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("clip", "--from", "{original}", "--vision", "py:a:b"), "--from brings its own encoders"),
        (("captioner", "--from", "{original}"), "holds a Clip"),
        (("captioner", "--vision", "py:py_encoders:vector"), "into a clip only"),
        (("clip", "--text", "hf:nowhere/at/all"), "no folder"),
        (("clip", "--preset", "tiny", "--vision", "py:nothing"), "cannot be imported"),
    ],
)
def test_starts_that_are_none(words, told, runs, ask, tmp_path):
    model, *rest = (word.format(original=runs / "original") for word in words)
    code, _, err = ask("train", model, "shapes", *LESSON, *rest, "--out", tmp_path / "run", *SETTINGS)
    assert code == 2 and told in err
    assert not (tmp_path / "run" / "bundle").exists()


def test_an_encoder_of_ones_own_is_trained_on_and_asked(ask, tmp_path):
    words = ("--preset", "tiny", "--vision", "py:py_encoders:vector", "--augment", "none", "--out", tmp_path / "run")
    code, _, err = ask("train", "clip", "shapes", *LESSON, *words, *SETTINGS, "model.vision.size=[32,32]")
    assert (code, err) == (0, "")
    model = Bundle.load(tmp_path / "run").model
    assert model.config.vision.factory == "py_encoders:vector"
    code, out, _ = ask("evaluate", tmp_path / "run", "shapes", *LESSON)
    assert code == 0 and "| test | 10 |" in out
