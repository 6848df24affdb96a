"""The machine that a process runs on, as far as torch does not tell."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def available_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor's model, or of its architecture where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor()) or platform.machine()


__all__ = ["available_cores", "processor"]
