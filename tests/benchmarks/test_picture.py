"""The picture of docs/performance.md: a bar for every job whose results are there, at the height that they say."""

import json
import sys

from PIL import Image


def test_bars_are_what_results_say(benchmark_module, tmp_path, monkeypatch):
    picture = benchmark_module("picture")
    rows = [
        {"mode": "greedy", "batch": 1, "ratio to best": 3.5},
        {"mode": "greedy", "batch": 8, "ratio to best": 9.9},  # no aim speaks of it
        {"mode": "sample", "batch": 64, "ratio to best": 0.5},
    ]
    (tmp_path / "decoding.json").write_text(json.dumps({"rows": rows}))
    found = picture.bars(tmp_path)
    assert [(name, times, aim) for name, _, times, aim in found] == [
        ("greedy, batch 1", 3.5, 3.0),
        ("sample, batch 64", 0.5, 3.0),
    ]
    monkeypatch.setattr(sys, "argv", ["picture.py", "--results", str(tmp_path), "--out", str(tmp_path / "drawn.png")])
    picture.main()
    with Image.open(tmp_path / "drawn.png") as drawn:
        colours = {pixel for _, pixel in drawn.convert("RGB").getcolors(2**24)}
    assert (44, 160, 44) in colours and (255, 127, 14) in colours  # one reached, one not


def test_every_job_has_bars_in_the_results_that_are_kept(benchmark_module):
    picture = benchmark_module("picture")
    for job in picture.JOBS:
        rows = json.loads((picture.HERE / "results" / f"{job.file}.json").read_text())["rows"]
        bars = [row for row in rows if job.is_bar(row)]
        assert bars, job.file
        for row in bars:
            assert job.times(row) > 0 and job.names(row) and job.peer(row)
            assert job.aim(row) is None or job.aim(row) >= 1
