"""`chiasm evaluate`: a table on the screen, JSON and Markdown in a folder, and what cannot be scored."""

import json

import numpy as np
import pytest
from PIL import Image

from clip_files import write_clip

LESSON = ("shapes", "--difficulty", "lesson", "--samples", "100", "--seed", "3")


def test_scores_as_table_json_and_markdown(run, ask, tmp_path):
    code, out, err = ask("evaluate", run, *LESSON, "--out", tmp_path / "scores")
    assert (code, err) == (0, "")
    table, _, where = out.partition("\n\n")
    header, _, row = table.splitlines()
    assert header.startswith("| split | pictures | exact_match |")
    assert row.startswith("| test | 10 | ")
    assert str(tmp_path / "scores/evaluation.json") in where
    scores = json.loads((tmp_path / "scores/evaluation.json").read_text())["test"]["scores"]
    exact = scores["exact_match"]
    assert exact["low"] <= exact["value"] <= exact["high"]
    assert f"{exact['value']:.3f} ({exact['low']:.3f} to {exact['high']:.3f})" in row
    assert (tmp_path / "scores/evaluation.md").read_text().strip() == table
    captions = [json.loads(line) for line in (tmp_path / "scores/captions.jsonl").read_text().splitlines()]
    right = sum(c["caption"] in c["texts"] for c in captions)
    assert right / len(captions) == pytest.approx(exact["value"])


def test_named_splits_in_their_order(run, ask):
    _, out, _ = ask("evaluate", run, *LESSON, "--split", "val", "test", "--mode", "beam", "--beams", "2")
    assert [line.split(" | ")[0] for line in out.splitlines()[2:]] == ["| val", "| test"]


def test_int8_stands_beside_the_model_s_own_scores(run, ask, monkeypatch, tmp_path):
    monkeypatch.setattr("chiasm.predict.base.LEAST_WEIGHTS", 1000)
    _, told, _ = ask("evaluate", run, *LESSON, "--out", tmp_path / "own")
    own = told.partition("\n\n")[0]
    code, out, err = ask("evaluate", run, *LESSON, "--int8", "--out", tmp_path / "int8")
    assert (code, err) == (0, "")
    header, rule, plain, int8, difference = out.partition("\n\n")[0].splitlines()
    assert [header, rule, plain] == own.splitlines()
    assert int8.startswith("| test, int8 | 10 | ") and difference.startswith("| test, difference | 10 | ")
    values = [[float(cell.split()[0]) for cell in row.split("|")[3:-1]] for row in (plain, int8, difference)]
    assert values[2] == pytest.approx([two - one for one, two in zip(*values[:2], strict=True)], abs=1.1e-3)
    files = [
        json.loads((tmp_path / name / "evaluation.json").read_text())["test"]["scores"] for name in ("own", "int8")
    ]
    assert 0 < abs(files[1]["perplexity"]["value"] / files[0]["perplexity"]["value"] - 1) < 0.05


def test_a_small_decoder_gains_nothing_from_int8_which_is_told_at_once(run, shelf, ask, monkeypatch):
    monkeypatch.setattr("chiasm.cli.evaluate.score", lambda *_, **__: pytest.fail("scored"))
    for words in (("evaluate", run, *LESSON), ("caption", run, shelf)):
        code, _, err = ask(*words, "--int8")
        assert code == 2 and "No layer of the decoder has 524,288 weights" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("shapes", "--split", "moon"), "has no split 'moon'"),
        (("shapes", "--samples", "3"), "samples is 3"),
        (("nowhere",), "nowhere"),
        (("shapes", "--mode", "beam", "--beams", "0"), "beams is 0"),
    ],
)
def test_what_cannot_be_scored_is_told(words, told, run, ask):
    code, out, err = ask("evaluate", run, *words)
    assert (code, out) == (2, "")
    assert told in err


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Pictures in a folder per kind and split: red ones and blue ones."""
    folder = tmp_path_factory.mktemp("kinds")
    for split, pictures in (("train", 6), ("test", 4)):
        for kind, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (folder / split / kind).mkdir(parents=True)
            for i in range(pictures):
                noise = np.random.default_rng(i).integers(-30, 30, (16, 16, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{split}{i}.png")
    return folder


def test_a_clip_is_scored_on_texts_labels_and_by_a_probe(kinds, ask, tmp_path):
    clip = write_clip(tmp_path / "bundle")
    templates = ("a {} circle", "a {} square")
    words = ("evaluate", clip, kinds, "--out", tmp_path / "scores", "--templates", *templates)
    code, out, err = ask(*words)
    assert (code, err) == (0, "")
    header, _, row = out.splitlines()[:3]
    assert "image_to_text_r1" in header and "label_top1 | probe_top1 |" in header
    assert row.startswith("| test | 8 | ")
    assert row.endswith(" 1.000 (1.000 to 1.000) |")  # the probe tells red from blue
    told = json.loads((tmp_path / "scores/evaluation.json").read_text())["test"]
    assert told["templates"] == list(templates)
    files = {path.name for path in (tmp_path / "scores").iterdir()}
    assert {"confusion-test.png", "retrieval-test.png", "gallery-test.png", "classes-test.csv"} <= files
    assert (tmp_path / "scores/classes-test.csv").read_text().startswith("label,pictures,top1,low,high\nblue,4,")
    code, _, err = ask("evaluate", clip, kinds, "--templates", "no place")
    assert code == 2 and "'no place' needs one {}" in err
