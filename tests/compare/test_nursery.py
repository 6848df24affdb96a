"""A child works, ends, is killed and outlives its nursery as a process of its own would."""

import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from chiasm import config as configs
from chiasm.compare.nursery import Nursery
from chiasm.compare.worker import LOG, STOPPED
from chiasm.train.callbacks import read_metrics
from job_files import GOOD, LONG, STEPS, at_work, jobs, wait_for_no_workers


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


def nursery(*modules):
    return closing(Nursery(threads=1, at=Path.cwd(), modules=(*map(str, modules), *sys.path)))


def job_in(folder, name):
    folder.mkdir()
    (job,) = jobs(name)
    configs.save(job, folder / "job.json")
    return folder


def wait_for_steps(folder):
    while not read_metrics(folder / "run/metrics.csv"):
        time.sleep(0.01)


@pytest.mark.slow
def test_children_work_end_and_are_killed_and_those_of_a_killed_nursery_save(tmp_path):
    folders = [job_in(tmp_path / str(i), GOOD if i == 0 else LONG) for i in range(5)]
    with nursery() as some:
        working = some.start(folders[0])
        assert working.code() is None
        assert working.code(wait=True) == working.code() == 0
        assert read_metrics(folders[0] / "run/metrics.csv")[-1]["step"] == STEPS
        ended, killed, orphan = (some.start(folder) for folder in folders[1:4])
        for folder in folders[1:4]:
            wait_for_steps(folder)
        ended.end()
        assert ended.code(wait=True) == STOPPED
        killed.kill()
        assert killed.code(wait=True) == -signal.SIGKILL
        assert len(at_work(tmp_path)) == 1 and orphan.code() is None
        some.process.kill()
        assert orphan.code(wait=True) == -signal.SIGKILL  # nobody is left to tell more
        wait_for_no_workers(tmp_path)
        assert (folders[3] / "run/checkpoints/last.ckpt").exists()
        again = some.start(folders[4])  # in a nursery that replaces it
        wait_for_steps(folders[4])
        again.end()
        assert again.code(wait=True) == STOPPED


def test_what_keeps_a_nursery_from_beginning_stands_in_the_log(tmp_path):
    (tmp_path / "lightning.py").write_text("raise RuntimeError('no lightning today')")
    folder = job_in(tmp_path / "job", GOOD)
    with nursery(tmp_path) as some:
        assert some.start(folder).code(wait=True) == 1
    assert (folder / LOG).read_text().endswith("RuntimeError: no lightning today\n")


def test_nothing_is_left_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "lightning.py").write_text("raise SystemExit(3)")
    with nursery(tmp_path) as some:
        assert [some.start(job_in(tmp_path / name, GOOD)).code(wait=True) for name in "ab"] == [3, 3]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
