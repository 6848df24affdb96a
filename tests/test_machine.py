"""Cores that a process may use, a name to print, and how threads wait."""

import os
import platform
import subprocess
import sys
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


def test_the_command_line_s_threads_sleep_unless_the_user_has_said_otherwise():
    for asked, told in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        script = "from chiasm.cli import main; main(['data', 'check', 'nowhere'])"
        others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment = others | asked | {"OMP_DISPLAY_ENV": "VERBOSE"}
        ran = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True)
        assert f"OMP_WAIT_POLICY = '{told}'" in ran.stderr  # the library that waits has read it


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
@pytest.mark.parametrize("asked", [False, True])
def test_freed_memory_goes_back_only_where_that_is_asked_for(asked):
    script = f"""
import resource, torch
from pathlib import Path
from chiasm.machine import give_back_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

if {asked}:
    give_back_memory()
del (first := [torch.ones(2**21)])[:]  # of 8 MiB: once freed, the next of this size come from the heap
before = held()
many = [torch.ones(2**21) for _ in range(20)]
del many[:-1]
print(held() - before)
"""
    told = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert (float(told.stdout) < 20) == asked, told.stdout  # MiB, of 160; one tensor lives
