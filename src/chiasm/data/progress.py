"""Progress on stderr for what takes more than a moment; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], doing: str, total: int) -> Iterator[T]:
    """The items, with a bar that shows how many of `total` are done and the time left, and then vanishes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr(), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield from progress.track(items, total=total, description=doing)


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """A spinner and the time spent, for work whose end cannot be foreseen."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_stderr(), transient=True, disable=not sys.stderr.isatty()) as progress:
        progress.add_task(doing, total=None)
        yield


def _stderr():
    from rich.console import Console

    return Console(stderr=True)


__all__ = ["track", "waiting"]
