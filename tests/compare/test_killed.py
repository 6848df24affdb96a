"""A whole comparison, killed anywhere and started again, finds what an undisturbed one finds."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

COMMAND = (
    "compare", "shapes", "--task", "match", "--arms", "late", "early", "--seeds", "1", "--equal", "samples",
    "--difficulty", "lesson", "--samples", "80", "--preset", "tiny", "--tune", "2",
    "--skip", "scaling", "--set",
    "model.vision.width=16", "model.vision.heads=2", "model.text.width=16", "model.text.heads=2",
    "model.fusion.width=16", "train.steps=8", "train.batch_size=16", "train.precision=fp32",
    "train.checkpoint_every_seconds=0.1", "train.augment=none", "tokenizer.units=word",
)  # fmt: skip


def start(folder):
    command = [sys.executable, "-m", "chiasm", *COMMAND, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finished(folder):
    assert start(folder).wait() == 0
    return timeless(json.loads((folder / "results.json").read_text()))


def timeless(value):
    """Without what was measured with a clock, in numbers and in words, and without what was typed."""
    if isinstance(value, dict):
        timed = "seconds", "minutes", "command", "not_equal"
        return {name: timeless(part) for name, part in value.items() if name not in timed}
    if isinstance(value, list):
        return [timeless(part) for part in value]
    return re.sub(r" and (about as fast|[\d.]+ × (faster|slower))", "", value) if isinstance(value, str) else value


@pytest.mark.slow
def test_killed_it_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    began = time.monotonic()
    undisturbed = finished(tmp_path / "undisturbed")
    whole_seconds = time.monotonic() - began
    process = start(tmp_path / "killed")
    time.sleep(random.uniform(0.1, 0.5) * whole_seconds)
    assert process.poll() is None
    # Half of the time its own trainings hear nothing, and end by themselves.
    (os.killpg if random.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    assert finished(tmp_path / "killed") == undisturbed
