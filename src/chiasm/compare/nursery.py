"""A process that imports what trainings need and forks one process for each: the imports take seconds every time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from chiasm.compare.worker import LOG, run
from chiasm.machine import let_threads_sleep


class Child:
    """A process that works in a folder; it ends its step and saves when `end` is called or this process is gone."""

    def __init__(self, told: int, alive: int, nursery: subprocess.Popen[bytes]):
        self._told, self._alive, self._nursery = told, alive, nursery
        self._words = b""
        self._code: int | None = None

    def code(self, *, wait: bool = False) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs, unless that is waited for."""
        while self._code is None and select.select([self._told], [], [], None if wait else 0)[0]:
            words = os.read(self._told, 64)
            self._words += words
            if self._words.count(b"\n") == 2:
                self._code = int(self._words.split()[1])
            elif not words:
                self._code = self._nursery.wait() or 1  # the nursery is gone, and its children were told
            if self._code is not None:
                os.close(self._told)
                self.end()
        return self._code

    def end(self) -> None:
        """Let it end its step and save."""
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

    def kill(self) -> None:
        """End it at once, and whatever it started."""
        self.code()
        if self._code is None and b"\n" in self._words:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(self._words.split()[0]), signal.SIGKILL)


class Nursery:
    """Where a comparison's processes come from; of their own are the memory, the threads and what a crash ends."""

    def __init__(self, *, threads: int, at: Path, modules: tuple[str, ...]):
        """`threads` compute in each process, relative paths begin at `at`, and modules are looked for in `modules`."""
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(modules),
            "PYTHONSAFEPATH": "1",
        }
        let_threads_sleep(self.environment)
        self.at = at
        self.line: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, folder: Path) -> Child:
        """A process for the job in this folder; what it prints goes to the folder's log."""
        told, tell = os.pipe()
        until, alive = os.pipe()
        with (folder / LOG).open("ab") as log:
            line, process = self._begun(log.fileno())
            with contextlib.suppress(BrokenPipeError):  # the nursery is gone, which the child will tell
                socket.send_fds(line, [os.fsencode(folder)], [until, log.fileno(), tell])
        os.close(until)
        os.close(tell)
        return Child(told, alive, process)

    def _begun(self, log: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        if self.line is not None and self.process is not None and self.process.poll() is None:
            return self.line, self.process
        self.close()
        self.line, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chiasm.compare.nursery"],
                stdin=other.fileno(),
                stdout=log,
                stderr=log,
                cwd=self.at,
                env=self.environment,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent, which ends its children in order
            )
        return self.line, self.process

    def kill(self) -> None:
        """End it at once; children are killed one by one."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Wait for it to end, as it does after its last child."""
        if self.line is not None and self.process is not None:
            self.line.close()
            self.process.wait()


def main() -> None:
    """The nursery: reads folders from the socket that is its stdin, and writes each child's id and then its exit code.

    Ends when the socket is closed, by the parent or by its death, and all children have ended.
    """
    import chiasm.train.outcome
    import chiasm.train.run  # noqa: F401

    line = socket.socket(fileno=os.dup(0))
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    tell_of: dict[int, int] = {}
    more = True
    while more or tell_of:
        ready = select.select([woken, line] if more else [woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended(tell_of)
        if line in ready:
            folder, fds, _, _ = socket.recv_fds(line, 65536, 3)
            more = bool(folder)
            if more and (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _become(Path(os.fsdecode(folder)), fds, close=[line.detach(), woken, waker, *tell_of.values()])
            elif more:
                until, log, tell_of[pid] = fds
                os.close(until)
                os.close(log)
                _tell(tell_of[pid], pid)


def _become(folder: Path, fds: list[int], close: list[int]) -> None:
    """In the child: take its own stdin and log in place of the nursery's, and work."""
    os.setsid()
    until, log, _ = fds
    for number, own in ((0, until), (1, log), (2, log)):
        os.dup2(own, number)
    for fd in (*fds, *close):
        os.close(fd)
    sys.exit(run(folder))


def _tell_ended(tell_of: dict[int, int]) -> None:
    """Write the exit codes of all children that have ended."""
    for pid, tell in list(tell_of.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _tell(tell, os.waitstatus_to_exitcode(status))
            os.close(tell)
            del tell_of[pid]


def _tell(tell: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        os.write(tell, f"{number}\n".encode())


if __name__ == "__main__":
    main()

__all__ = ["Child", "Nursery"]
