"""Every benchmark runs, at toy size, and writes its results."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def results(monkeypatch, tmp_path, capsys):
    """A function that runs a benchmark at toy size and returns the rows that it wrote."""

    def results(name):
        monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
        monkeypatch.syspath_prepend(BENCHMARKS)
        out = tmp_path / "results.json"
        monkeypatch.setattr(sys, "argv", [name, "--toy", "--repeat", "1", "--out", str(out)])
        runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        assert str(out) in capsys.readouterr().out.replace("\n", "")
        return json.loads(out.read_text())["rows"]

    return results


def test_lesson(results):
    lesson, chiasm = results("lesson.py")
    assert (lesson["side"], chiasm["side"]) == ("lesson", "chiasm")
    assert min(lesson["seconds"], chiasm["seconds"]) > 0
    assert chiasm["of the lesson's time"] == pytest.approx(chiasm["seconds"] / lesson["seconds"])


def test_generation(results):
    rows = results("generation.py")
    assert [(row["tokens"], row["batch"], row["limit"]) for row in rows] == [
        (tokens, batch, limit) for tokens in ("stops at the end", "all steps") for batch in (1, 4) for limit in (12, 64)
    ]
    assert all(row["written"] == row["limit"] for row in rows if row["tokens"] == "all steps")
    assert all(row["ratio"] > 0 for row in rows)
