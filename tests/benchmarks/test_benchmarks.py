"""Every benchmark runs, at toy size, and writes its results."""

import json

import pytest


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


def test_search(results):
    (row,) = results("search.py")
    assert row["recall@10"] >= 0.95


def test_gradcache(results):
    rows = results("gradcache.py")
    assert [row["parts"] for row in rows] == [1, 1, 4, 8]
    assert rows[2]["gradients apart"] <= 1e-4


def test_packing(results):
    emoji, even, uneven = results("packing.py")
    assert emoji["rows left"] < 0.75 and uneven["rows left"] < 0.75 and even["rows left"] == 1
    assert emoji["times as fast"] == pytest.approx(emoji["a row each, ms"] / emoji["packed, ms"])


@pytest.mark.slow
def test_pooling(results):
    rows = results("pooling.py")
    assert [(row["model"], row["pool"]) for row in rows] == [
        ("captioner", "none"), ("captioner", "cls"), ("clip", "mean"), ("clip", "cls"), ("clip", "attention")
    ]  # fmt: skip
    assert all(len(row["seeds"]) == 1 for row in rows)


@pytest.mark.slow
def test_perceiver(results):
    rows = results("perceiver.py")
    sides = [(row["what"], row["side"]) for row in rows[:8]]
    assert sides == [
        (f"encoder, {precision}, {passes}", side)
        for precision in ("fp32", "bf16")
        for passes in ("forward", "forward + backward")
        for side in ("transformers", "chiasm")
    ]
    assert rows[0]["apart"] < 1e-4 and rows[4]["apart"] < 0.1
    assert {(row["side"], row["tokens"]) for row in rows[8:]} == {
        (side, tokens) for side in ("perceiver", "transformer") for tokens in (64, 128)
    }
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.slow
def test_cost(results):
    (row,) = results("cost.py")
    assert (row["model"], row["precision"]) == ("captioner tiny", "fp32")
    assert row["time ratio"] == pytest.approx(row["predicted ms"] / row["measured ms"])
    assert 0.6 < row["memory ratio"] < 1.6


@pytest.mark.slow
def test_waiting(results):
    asleep, spin = results("waiting.py")
    assert (asleep["threads wait"], spin["threads wait"]) == ("asleep", "spin of 1,000")
    assert spin["of those asleep"] == pytest.approx(spin["ms"] / asleep["ms"])


def test_tables_of_unlike_rows_are_whole_in_a_narrow_window(benchmark_module, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [{"what": f"a long name of row {i}", "of all": "alike", f"only of {i}": 1234.5 + i} for i in range(3)]
    benchmark_module("_side_by_side").report("title", rows, tmp_path / "rows.json")
    told = capsys.readouterr().out
    for i in range(3):
        assert all(text in told for text in (f"a long name of row {i}", f"only of {i}", f"{1234.5 + i:,.0f}"))
    assert told.count("alike") == 1 and "of all: alike" in told and "…" not in told
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows


def test_every_case_of_cost_has_data_for_its_task(benchmark_module):
    for case in benchmark_module("cost").CASES:
        assert len(case.settings("fp32", toy=True).data.open().split("train")) > 100, case.name
