"""`chiasm evaluate`: a table on the screen, JSON and Markdown in a folder, and what cannot be scored."""

import json

import pytest

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
