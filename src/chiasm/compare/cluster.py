"""Where the processes of a comparison run: on this machine, or on those of a Ray cluster, in the same way on both."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiasm.compare.nursery import Child, Nursery
from chiasm.compare.worker import LOG, STOPPED
from chiasm.errors import UserError

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a job's process is started, whichever machine it is on."""

    folder: Path
    """The job's, absolute."""
    threads: int
    """That compute in it; results depend on their number."""
    at: Path
    """The directory that relative paths in the settings begin at."""
    modules: tuple[str, ...]
    """Where Python looks for modules, such as the user's own encoders."""

    def nursery(self) -> Nursery:
        """Where its process, and others like it, can come from."""
        return Nursery(threads=self.threads, at=self.at, modules=self.modules)


class Pool(ABC):
    """Processes that run beside each other; everything that implements it is final."""

    @abstractmethod
    def start(self, start: Start) -> None:
        """One more."""

    @abstractmethod
    def ended(self, seconds: float) -> dict[Path, str | None]:
        """By folder, those that ended within so many seconds: None, or why they left no outcome."""

    @abstractmethod
    def stop(self) -> None:
        """Let all end their step and save, and wait for that; a second Ctrl-C kills them."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the pool itself took."""


class LocalPool(Pool):
    """Processes of this machine."""

    def __init__(self) -> None:
        self.nursery: Nursery | None = None
        self.running: dict[Path, Child] = {}

    def start(self, start: Start) -> None:
        """One more."""
        self.nursery = self.nursery or start.nursery()
        self.running[start.folder] = self.nursery.start(start.folder)

    def ended(self, seconds: float) -> dict[Path, str | None]:
        """By folder, those that ended within so many seconds: None, or why they left no outcome."""
        deadline = time.monotonic() + seconds
        while not (codes := {f: c for f, p in self.running.items() if (c := p.code()) is not None}):
            if time.monotonic() >= deadline:
                return {}
            time.sleep(0.02)
        for folder in codes:
            del self.running[folder]
        return {folder: why_ended(code, folder) for folder, code in codes.items()}

    def stop(self) -> None:
        """Let all end their step and save, and wait for that; a second Ctrl-C kills them."""
        if self.nursery is not None:
            _stop(list(self.running.values()), self.nursery)

    def close(self) -> None:
        """Wait for the process that started them."""
        if self.nursery is not None:
            self.nursery.close()


class RayPool(Pool):
    """Ray tasks, each of which starts and watches the same process as a LocalPool, so that results are the same.

    All machines of the cluster must see the comparison's folder and the data under the same paths (a shared file
    system), and have chiasm installed. Joins the cluster that runs here ($RAY_ADDRESS, or `ray start`); otherwise Ray
    is started on this machine alone, for as long as the pool is open.
    """

    def __init__(self, *, workers: int, threads: int):
        if importlib.util.find_spec("ray") is None:
            raise UserError("ray is not installed", "pip install 'chiasm[ray]', or go without it: --engine local")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # which prints addresses at a SIGTERM
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task sees GPUs as it would without Ray
        import ray
        import ray.exceptions

        self.ray = ray
        self.lost = ray.exceptions.RayError
        self.owned = not ray.is_initialized()
        if self.owned:
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                ray.init(address="local", num_cpus=workers * threads, include_dashboard=False, **quiet)
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if largest < threads:
            self.close()
            raise UserError(
                f"No machine of the Ray cluster has {threads} CPUs; the largest has {largest:g}",
                "Give every training fewer threads.",
            )
        # A training is no task to retry: it would go on from its checkpoint, but whatever ended it might come again.
        self.task = ray.remote(num_cpus=threads, max_retries=0)(_watch)
        self.running: dict[Any, Path] = {}

    def start(self, start: Start) -> None:
        """One more."""
        self.running[self.task.remote(start)] = start.folder

    def ended(self, seconds: float) -> dict[Path, str | None]:
        """By folder, those that ended within so many seconds: None, or why they left no outcome."""
        refs, _ = self.ray.wait(list(self.running), timeout=seconds)
        return {self.running.pop(ref): self._why(ref) for ref in refs}

    def _why(self, ref: Any) -> str | None:
        try:
            return self.ray.get(ref)
        except self.lost as error:
            return f"Ray lost it ({type(error).__name__}); run again to go on from its last checkpoint"

    def stop(self) -> None:
        """Let all end their step and save, and wait for that; a second Ctrl-C kills them."""
        for ref in self.running:
            self.ray.cancel(ref, force=False)  # a KeyboardInterrupt in `_watch`
        try:
            self.ray.wait(list(self.running), num_returns=len(self.running))
        except BaseException:
            for ref in self.running:
                self.ray.cancel(ref, force=True)
            raise

    def close(self) -> None:
        """Leave the cluster."""
        if self.owned:
            self.ray.shutdown()


def open_pool(engine: EngineName, *, workers: int, threads: int) -> Pool:
    """The engine's pool of processes; UserError where it is not installed or too small."""
    return LocalPool() if engine == "local" else RayPool(workers=workers, threads=threads)


def _watch(start: Start) -> str | None:
    """The Ray task: start the process and wait for it, and stop it where the task is cancelled."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the driver's shell had it ignored
    with closing(start.nursery()) as nursery:
        process = nursery.start(start.folder)
        try:
            while (code := process.code()) is None:
                time.sleep(0.1)  # Ray's interrupt is no real signal: it waits for a system call to return
            return why_ended(code, start.folder)
        finally:
            _stop([process], nursery)


def _stop(processes: list[Child], nursery: Nursery) -> None:
    """Let processes end their step and save, and wait for that; an interrupt kills them."""
    for process in processes:
        process.end()
    try:
        for process in processes:
            process.code(wait=True)
    except BaseException:
        nursery.kill()
        for process in processes:
            process.kill()
        raise


def why_ended(code: int, folder: Path) -> str | None:
    """What a process's exit code says of its missing outcome, None where there is an outcome."""
    if code == 0:
        return None
    if code in (STOPPED, -signal.SIGTERM):
        return "stopped by a signal from elsewhere; run again to go on from its last checkpoint"
    if code == -signal.SIGKILL:
        return "killed, perhaps because memory ran out; run fewer trainings at once, or smaller batches"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name} (more in {folder / LOG})"
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1] if lines else 'it said nothing'} (more in {folder / LOG})"


__all__ = ["EngineName", "LocalPool", "Pool", "RayPool", "Start", "open_pool", "why_ended"]
