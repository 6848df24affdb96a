"""How far a comparison is, and how long it will take, as a terminal shows it; nothing elsewhere."""

import io
import random
import sys

import pytest

from chiasm import config as configs
from chiasm.compare import view as views
from chiasm.compare.view import View, makespan, share_done
from chiasm.compare.worker import Outcome
from job_files import GOOD, STEPS, TRIAL, jobs


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def write_run(folder, name, rows):
    run = folder / name / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.csv").write_text("step,epoch,loss\n" + rows)
    configs.save(jobs(name)[0].settings, run / "config.json")
    return run


def test_silent_where_nobody_looks(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with View(jobs(GOOD, TRIAL), tmp_path, 1) as view:
        view.update({}, [GOOD])
        view.say("hello")
    assert sys.stderr.getvalue() == ""


def test_shows_arms_seeds_and_the_time_left(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(views, "time", clock := Clock())
    with View(jobs(GOOD, TRIAL), tmp_path, 1) as view:
        view.update({}, [GOOD])
        assert texts(view) == ["-:--:--  0 done, 1 running, 1 waiting", "0%", "·"]
        clock.now = 60
        write_run(tmp_path, GOOD, f"{STEPS // 4},1,0.5\n")
        view.update({}, [GOOD])
        assert texts(view) == ["0:07:00  0 done, 1 running, 1 waiting", "25%", "·"]  # 3/4 of one, and another
        write_run(tmp_path, GOOD, f"{STEPS},1,0.5\n")
        view.update({}, [GOOD])
        assert texts(view)[1] == "scoring"
        clock.now = 240
        view.update({GOOD: Outcome(name=GOOD, failed="out of luck")}, [TRIAL])
        assert texts(view) == ["0:04:00  1 done (1 failed), 1 running, 0 waiting", "✗", "0%"]
        view.say("out of luck")
        view.update({name: Outcome(name=name) for name in (GOOD, TRIAL)}, [])
        assert texts(view) == ["0:00:00  2 done, 0 running, 0 waiting", "✓", "✓"]
    shown = sys.stderr.getvalue()
    assert "out of luck\n" in shown
    assert "arms/good" in shown
    assert "100%" in shown


def texts(view):
    return [task.fields["more"] for task in view.progress.tasks]


def test_what_an_earlier_start_did_says_nothing_of_the_speed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(views, "time", clock := Clock())
    write_run(tmp_path, GOOD, f"{STEPS // 2},1,0.5\n")
    with View(jobs(GOOD), tmp_path, 1) as view:
        view.update({}, [GOOD])
        assert texts(view)[0].startswith("-:--:--")
        clock.now = 10
        write_run(tmp_path, GOOD, f"{STEPS * 3 // 4},1,0.5\n")
        view.update({}, [GOOD])
        assert texts(view)[0].startswith("0:00:10")


def test_workers_share_what_is_left():
    assert makespan([3.0, 3.0, 3.0], 1) == 9
    assert makespan([3.0, 3.0, 3.0], 2) == 6
    assert makespan([1.0, 1.0, 5.0, 1.0], 2) == 6
    assert makespan([], 2) == 0
    for _ in range(20):
        lengths, workers = [float(random.randint(1, 9)) for _ in range(random.randint(1, 8))], random.randint(1, 4)
        assert makespan(lengths, workers) == simulated(lengths, workers)


def simulated(lengths, workers):
    """Second by second."""
    waiting, running, now = list(lengths), [], 0
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(waiting.pop(0))
        running = [length - 1 for length in running if length > 1]
        now += 1
    return now


@pytest.mark.parametrize(
    ("rows", "steps"),
    [("", 0), ("6,1,0.5\n", 6), ("6,1,0.5\n12,2", 6), ("6,1,0.5\n12.0,2,0.4\n", 12), ("1,1,1\n" * 2000, 1)],
)
def test_the_share_that_a_log_tells_of(rows, steps, tmp_path):
    assert share_done(write_run(tmp_path, GOOD, rows)) == steps / STEPS


def test_a_run_that_has_not_begun(tmp_path):
    assert share_done(tmp_path / "run") == 0
