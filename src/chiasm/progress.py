"""Progress on stderr for what takes more than a moment; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], doing: str, total: int) -> Iterator[T]:
    """The items, with a bar that shows how many of `total` are done and the time left, and then vanishes."""
    with counting(doing, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def counting(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """The same bar for work that is no loop over items; yields the function that moves it on."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with progress_bar(*columns, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """A spinner and the time spent, for work whose end cannot be foreseen."""
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    with progress_bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True) as bar:
        bar.add_task(doing, total=None)
        yield


def progress_bar(*columns: Any, transient: bool = False) -> Any:
    """A rich `Progress` on stderr with these columns, disabled where nobody would see it move."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=transient,
        disable=not sys.stderr.isatty(),
        speed_estimate_period=60,
    )


__all__ = ["counting", "progress_bar", "track", "waiting"]
