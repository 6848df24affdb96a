"""Work split over cores: a part per core at a time, each operator on one core.

Cores that share every operator wait for each other at its end; those that have batches of their own never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from chiasm.progress import track

T = TypeVar("T")
R = TypeVar("R")


def on_cores(function: Callable[[T], R], parts: Sequence[T], doing: str = "") -> list[R]:
    """What the function makes of each part, in their order; with a progress bar where it is told what is being done.

    Uses as many cores as PyTorch does here. A single part has all of them. The first error in order is raised, and
    nothing more is begun. Gradients are to be switched off by the function: that they are off here is not known there.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) < 2:
        return list(_tracked(map(function, parts), doing, len(parts)))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(_tracked(pool.map(function, parts), doing, len(parts)))
    finally:
        torch.set_num_threads(threads)  # what a thread sets for itself becomes the default of later ones


def _tracked(results: Iterable[R], doing: str, parts: int) -> Iterable[R]:
    return track(results, doing, parts) if doing and parts > 1 else results


__all__ = ["on_cores"]
