"""On Ray the same trainings give the same results to the bit, and leave nothing running behind."""

import signal
import sys

import pytest

from chiasm import config as configs
from chiasm.compare.jobs import Outcome, run_jobs
from chiasm.errors import UserError
from job_files import (
    BROKEN,
    GOOD,
    LONG,
    TRIAL,
    assert_same_outcome,
    assert_same_results,
    jobs,
    start,
    undisturbed,
    wait_for_no_workers,
    wait_for_step,
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
def test_ray_gives_what_this_machine_gives(tmp_path_factory, tmp_path):
    """Killed in the middle, then run again: quiet, with a failure among the jobs."""
    folder, outcomes = undisturbed(tmp_path_factory)
    process = start(tmp_path, "ray", GOOD, BROKEN)
    wait_for_step(tmp_path / GOOD / "run", 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for_no_workers(tmp_path)
    process = start(tmp_path, "ray", GOOD, BROKEN, TRIAL)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    for name in (GOOD, BROKEN, TRIAL):
        assert_same_outcome(configs.load(Outcome, tmp_path / name / "outcome.json"), outcomes[name])
    for name in (GOOD, TRIAL):
        assert_same_results(tmp_path, folder, name)


@pytest.mark.slow
def test_an_interrupt_ends_what_runs_on_ray(tmp_path):
    process = start(tmp_path, "ray", LONG)
    wait_for_step(tmp_path / LONG / "run", 2, process)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].endswith("KeyboardInterrupt\n")
    wait_for_no_workers(tmp_path, seconds=0)
    assert (tmp_path / LONG / "run/checkpoints/last.ckpt").exists()
    assert not (tmp_path / LONG / "outcome.json").exists()


def test_ray_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="ray is not installed") as caught:
        run_jobs(jobs(GOOD), tmp_path, engine="ray", workers=1, threads=1)
    assert "chiasm[ray]" in caught.value.hint
