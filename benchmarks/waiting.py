"""How threads that wait for each other should: asleep at once, after a spin, or spinning; alone and in a crowd.

The command line has them wait asleep.

Trainings of the built-in shapes by `chiasm.train`, which differ in how their OpenMP waits, run in turn: all but one are
stopped (SIGSTOP). In a crowd, something else computes all the time: a process of one thread, or a second training.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from _side_by_side import arguments, report
from cost import CASES

from chiasm.progress import track
from chiasm.train.run import Run, fit

WAYS = {
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin of 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin of 5,000": {"GOMP_SPINCOUNT": "5000"},
    "spin of 20,000": {"GOMP_SPINCOUNT": "20000"},
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
}
CROWDS = ("alone", "beside a busy thread", "beside a second training")
BUSY = [sys.executable, "-c", "while True: pass"]


def main() -> None:
    parser = arguments(__doc__, repeat=4, repeated="turns of each way")
    parser.add_argument("--cases", nargs="+", type=int, default=[0, 7], help="of benchmarks/cost.py (default: 0 7)")
    parser.add_argument("--turn", type=float, default=5.0, help="seconds of a turn (default: 5)")
    parser.add_argument("--train", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(int(args.train[0]), Path(args.train[1]), toy=args.toy)
        return
    if args.toy:
        args.turn = 1.0
    ways = list(WAYS)[: 2 if args.toy else None]
    jobs = [(case, crowd) for case in args.cases for crowd in CROWDS][: 1 if args.toy else None]
    rows = [row for job in track(jobs, "training", total=len(jobs)) for row in compare(*job, ways, args)]
    report(f"Threads that wait, {args.repeat} turns of {args.turn:g} s", rows, args.out)


def train(case: int, folder: Path, *, toy: bool) -> None:
    """Train until killed; the seconds between two batches go to a file, a line each."""
    settings = CASES[case].settings("fp32", toy=toy)
    run = Run(replace(settings, train=replace(settings.train, steps=1_000_000)), folder / "run")
    batches = run.loader.stream
    with (folder / "seconds").open("w", buffering=1) as file:

        def timed(start_step: int, stop_step: int) -> Iterator[Any]:
            last = time.perf_counter()
            for batch in batches(start_step, stop_step):
                now = time.perf_counter()
                file.write(f"{now - last}\n")
                last = now
                yield batch

        run.loader.stream = timed  # pyright: ignore[reportAttributeAccessIssue]
        fit(run)


class Training:
    """One or two trainings that wait in one way, stopped but for their turn."""

    def __init__(self, case: int, way: str, folder: Path, number: int, *, toy: bool):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_W", "GOMP_"))}
        self.processes, self.files = [], []
        for i in range(number):
            own = folder / f"{way} {i}"
            own.mkdir()
            words = ["--train", str(case), str(own), *(["--toy"] if toy else [])]
            process = subprocess.Popen([sys.executable, __file__, *words], env=environment | WAYS[way],
                                       stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            self.processes.append(process)
            self.files.append(own / "seconds")
            while len(self.seconds(i)) < 3:
                if process.poll() is not None:
                    raise SystemExit(f"the training in {own} ended")
                time.sleep(0.1)
            self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        """Send it to all."""
        for process in self.processes:
            os.killpg(process.pid, number)

    def seconds(self, i: int = 0) -> list[float]:
        """Of the steps so far."""
        return [float(s) for s in self.files[i].read_text().splitlines()] if self.files[i].exists() else []

    def turn(self, seconds: float) -> list[float]:
        """Let it run; the seconds of its whole steps."""
        before = len(self.seconds())
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        return self.seconds()[before + 1 :]  # in the first of them it had been stopped


def compare(case: int, crowd: str, ways: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Turns of all ways, and what a step took in each."""
    with tempfile.TemporaryDirectory() as folder:
        number = 2 if "training" in crowd else 1
        sides = {way: Training(case, way, Path(folder), number, toy=args.toy) for way in ways}
        busy = [subprocess.Popen(BUSY)] if "thread" in crowd else []
        turns = [{way: side.turn(args.turn) for way, side in sides.items()} for _ in range(args.repeat)]
        for process in [*busy, *(p for side in sides.values() for p in side.processes)]:
            process.kill()
            process.wait()
    medians = {way: statistics.median(s for turn in turns for s in turn[way]) for way in ways}
    return [
        {"model": CASES[case].name, "crowd": crowd, "threads wait": way, "ms": 1e3 * medians[way],
         "of those asleep": medians[way] / medians[ways[0]]}
        for way in ways
    ]  # fmt: skip


if __name__ == "__main__":
    main()
