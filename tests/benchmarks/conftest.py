"""Benchmarks at toy size: a script runs, and the rows that it wrote come back."""

import importlib
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


@pytest.fixture
def benchmark_module(monkeypatch):
    """A function that imports a benchmark by name."""

    def benchmark_module(name):
        monkeypatch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)

    return benchmark_module
