"""The machine that a process runs on, as far as torch does not tell."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_MMAP_THRESHOLD = -3
"""The name of the setting in malloc.h."""
MAPPED_BYTES = 2**20
"""A tensor of this size or larger is mapped by itself."""


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads wait for each other asleep, unless the user has said how; before torch is imported.

    Spinning takes the cores from whatever else runs, and was not found faster where nothing does
    (benchmarks/waiting.py).
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_back_memory() -> None:
    """Have GNU's C library map every large tensor by itself, so that what is freed is the system's again at once.

    It would keep it, in pieces: of a step with checkpointing more than half of the peak. But memory fresh from the
    system takes time: such a step a third more (benchmarks/step.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """PyTorch computes an operator with so many threads, for the time of the context."""
    import torch  # not before `let_threads_sleep`

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor's model, or of its architecture where there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor()) or platform.machine()


def trained_on() -> str:
    """What trains here: the GPU's name, or the processor's."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def best_device() -> torch.device:
    """A GPU if there is one, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_compiler() -> bool:
    """Whether torch.compile can make kernels: on a CPU they are C++."""
    import torch

    names = [os.environ.get("CXX") or "g++", "clang++"]
    return torch.cuda.is_available() or any(map(shutil.which, names))


__all__ = [
    "available_cores",
    "best_device",
    "give_back_memory",
    "has_compiler",
    "let_threads_sleep",
    "processor",
    "trained_on",
    "using_threads",
]
