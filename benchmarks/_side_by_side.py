"""Two ways to do one thing, timed in turn in one run; results as a table on the screen and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from chiasm.machine import available_cores, let_threads_sleep, processor

RESULTS = Path(__file__).parent / "results"


def arguments(about: str | None, *, repeat: int, repeated: str) -> argparse.ArgumentParser:
    """The options of every benchmark: how often what is repeated, toy sizes, where the results go.

    Processes that it starts from here on have threads that wait asleep, as the command line's do.
    """
    let_threads_sleep(os.environ)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat, help=f"{repeated} (default: {repeat})")
    parser.add_argument(
        "--toy", action="store_true", help="small sizes and the peers installed here, to see that it runs"
    )
    parser.add_argument("--out", type=Path, default=(RESULTS / Path(sys.argv[0]).name).with_suffix(".json"))
    return parser


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option to leave bf16 out, in which a processor without it takes many times as long."""
    parser.add_argument(
        "--precision", choices=("all", "fp32"), default="all", help="fp32 where the processor has no bf16"
    )


def median_seconds(sides: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """The median time of each side, measured in turn so that whatever else the machine does meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(title: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Print the rows as a table, above it what is the same in all, and write them with what they were measured on."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    same = [name for name in names if len(rows) > 1 and len({str(row.get(name)) for row in rows}) == 1]
    table = Table(title="\n".join([title, *(f"{name}: {_shown(rows[0][name])}" for name in same)]))
    unlike = [name for name in names if name not in same]
    for name in unlike:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in unlike))
    console = Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)  # rather than values cut to dots
    console.print(table)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": available_cores(),
               "processor": processor()}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"title": title, "command": command, "machine": machine, "rows": rows}, indent=2) + "\n",
        encoding="utf-8",
    )
    print(f"results    {path}")


def held_bytes() -> int:
    """The memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that this process has held since its program began.

    Not getrusage's ru_maxrss, which is handed down by the process that started this one, however large that was.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def apart(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The largest difference of gradients, relative to the largest value of the tensor."""
    return max(((b - a).abs().max() / a.abs().max()).item() for a, b in zip(one, other, strict=True))


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
