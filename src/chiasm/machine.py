"""The machine that a process runs on, as far as torch does not tell."""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from pathlib import Path


def let_threads_wait(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads wait for each other by a short spin, then asleep; before torch is imported.

    Asleep at once, they are slower beside other work (a fifth, where it was measured: benchmarks/waiting.py) and on
    processors that wake slowly; spinning for long, they take the cores from whatever else runs. A user's choice stands.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="1000")  # the latter is GNU's, and goes first


def available_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor's model, or of its architecture where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor()) or platform.machine()


__all__ = ["available_cores", "let_threads_wait", "processor"]
