"""`chiasm compare` as people type it: what it would cost, what it leaves, and what it refuses."""

from __future__ import annotations

import json

import pytest

SIZES = [
    "--set", "model.vision.width=16", "model.vision.heads=2", "model.text.width=16", "model.text.heads=2",
    "model.fusion.width=16", "train.batch_size=16", "train.precision=fp32", "train.augment=none",
]  # fmt: skip
DATA = ["compare", "shapes", "--task", "match", "--difficulty", "lesson", "--samples", "80", "--preset", "tiny"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_what_it_would_cost_is_told_and_nothing_is_begun(ask, tmp_path):
    code, out, err = ask(*DATA, "--arms", "late", "early", "--equal", "samples", "--cost", *SIZES, "train.steps=100")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["arm", "late", "early"]
    assert lines[1].split()[3:6] == ["100", "0.1", "1,600"] or "1,600" in lines[1]
    # Three seeds and, of four rates, 4 / 8 + 2 / 4 for each of two arms; two of one modality; three of less data.
    assert "2 arms × 3 seeds, 4 learning rates" in out and ": 13 whole trainings in fp32" in out
    assert out.endswith("every training sees each example 12.5 times\n")
    assert not (tmp_path / "runs").exists()


def test_too_little_training_to_tell_anything_is_said_before_it_begins(ask):
    *_, out, _ = ask(*DATA, "--arms", "late", "early", "--equal", "samples", "--cost", *SIZES, "train.steps=4")
    assert "sees each example 0.5 times, which is little: choose a smaller --preset or a longer --within" in out


@pytest.mark.slow
def test_it_ends_with_a_verdict_and_a_page_where_it_says(ask, tmp_path):
    said = ["--seeds", "1", "--tune", "0", "--skip", "floors", "scaling", "--equal", "samples"]
    code, out, err = ask(*DATA, "--arms", "late", "early", *said, *SIZES, "train.steps=4")
    assert code == 0, err
    folder = tmp_path / "runs" / "compare-shapes-match"
    found = json.loads((folder / "results.json").read_text())
    assert out.startswith(found["verdict"][0]) and "runs/compare-shapes-match/report.html" in out
    for name in ("report.html", "report.md", "results.csv"):
        assert (folder / name).stat().st_size > 0
    assert found["command"].startswith("chiasm compare") and found["scaling"] == []
    assert [floor["name"] for floor in found["floors"]] == ["chance", "shuffled pictures"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arms", "late"], "nothing to compare late with"),
        (["--arms", "late", "sideways"], "no fusion 'sideways'"),
        (["--seeds", "0"], "seeds"),
        (["--workers", "0"], "--workers"),
        (["--budget", "3M"], "budget '3M' does not fit"),
        (["--metric", "cider_d"], "match is not scored by cider_d"),
        (["--tune", "-1"], "tune is -1"),
        (["--within", "0"], "within_minutes"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(ask, tmp_path, words, told):
    code, _, err = ask(*DATA, *words)
    assert code == 2 and told in err, err
    assert not list((tmp_path / "runs").glob("*/arms")) if (tmp_path / "runs").exists() else True
