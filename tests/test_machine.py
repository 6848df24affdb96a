"""Cores that a process may use, and a name to print."""

import os
from pathlib import Path

import pytest

from chiasm.machine import available_cores, processor


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_only_cores_that_the_process_may_use_count():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)


def test_the_processor_has_a_name_even_where_the_system_tells_none(monkeypatch):
    assert processor().strip()
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert processor() == "vax"
