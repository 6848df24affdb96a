"""Every training of a comparison once, resumed wherever it was killed, with the same results to the bit."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from chiasm import config as configs
from chiasm.compare.cluster import why_ended
from chiasm.compare.jobs import Job, Outcome, claim, items_of, run_jobs
from chiasm.compare.worker import load_items, save_items
from chiasm.errors import UserError
from chiasm.evaluate.common import Items
from chiasm.train.callbacks import read_metrics
from job_files import (
    BATCH,
    BROKEN,
    GOOD,
    KILLED,
    RAISING,
    STEPS,
    TRIAL,
    assert_same_outcome,
    assert_same_results,
    jobs,
    settings,
    start,
    wait_for_no_workers,
    wait_for_step,
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """Folder and outcomes of all jobs, run beside each other on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run_jobs(jobs(GOOD, BROKEN, TRIAL, RAISING, KILLED), folder, workers=2, threads=1)


def run(folder, *names, workers=1):
    return run_jobs(jobs(*names), folder, workers=workers, threads=1)


def copied(finished, name, folder):
    """The job as the finished comparison left it, in a folder of the test's own."""
    shutil.copytree(finished[0] / name, folder / name)
    return folder / name


def test_what_is_told_of_a_scored_training(finished):
    folder, outcomes = finished
    outcome, rows = outcomes[GOOD], read_metrics(folder / GOOD / "run/metrics.csv")
    assert (outcome.failed, outcome.steps, outcome.samples) == (None, STEPS, STEPS * BATCH)
    assert outcome.seconds == rows[-1]["seconds"] > 0
    assert outcome.val_loss == pytest.approx(min(r["val_loss"] for r in rows if r["val_loss"]), rel=1e-5)
    evaluation = json.loads((folder / GOOD / "run/evaluation.json").read_text())
    assert outcome.scores == {s: {n: v["value"] for n, v in e["scores"].items()} for s, e in evaluation.items()}
    items = items_of(folder, GOOD, "test")
    assert len(items.keys) == 4
    assert items.values["token_loss"].mean() == pytest.approx(outcome.scores["test"]["token_loss"], rel=1e-5)


def test_a_trial_is_only_validated(finished):
    folder, outcomes = finished
    assert outcomes[TRIAL].failed is None
    assert outcomes[TRIAL].val_loss > 0
    assert outcomes[TRIAL].scores == {}
    assert not (folder / TRIAL / "run/card.md").exists()
    with pytest.raises(UserError, match=f"{TRIAL}/items-test.npz cannot be read"):
        items_of(folder, TRIAL, "test")


def test_the_broken_are_reported_and_the_others_go_on(finished):
    folder, outcomes = finished
    assert list(outcomes) == [GOOD, BROKEN, TRIAL, RAISING, KILLED]
    broken = outcomes[BROKEN].failed.splitlines()
    assert broken[0].startswith("The loss is nan and the gradient's norm nan at step 1")
    assert broken[1].startswith("Nothing of this step was kept. Try a lower learning_rate")
    error = folder / RAISING / "error.txt"
    assert outcomes[RAISING].failed == f"RuntimeError: the first line (more in {error})"
    assert "in raising\n" in error.read_text()
    assert outcomes[KILLED].failed.startswith("killed, perhaps because memory ran out")
    for name, outcome in outcomes.items():
        assert configs.load(Outcome, folder / name / "outcome.json") == outcome


def test_what_is_done_is_not_repeated(finished, tmp_path):
    for name in (GOOD, TRIAL):
        shutil.rmtree(copied(finished, name, tmp_path) / "run")
    assert run(tmp_path, TRIAL, GOOD) == {name: finished[1][name] for name in (TRIAL, GOOD)}
    assert not (tmp_path / GOOD / "run").exists()


def test_what_failed_is_tried_again_from_its_last_checkpoint(finished, tmp_path):
    folder = copied(finished, TRIAL, tmp_path)
    configs.save(Outcome(name=TRIAL, failed="the disk was full"), folder / "outcome.json")
    (folder / "error.txt").write_text("of then")
    (folder / "run/checkpoints/.bundle-x").mkdir()
    before = (folder / "run/checkpoints/last.ckpt").stat().st_mtime_ns
    assert_same_outcome(run(tmp_path, TRIAL)[TRIAL], finished[1][TRIAL])
    assert_same_results(tmp_path, finished[0], TRIAL)
    assert sorted(p.name for p in folder.iterdir()) == ["job.json", "log.txt", "outcome.json", "run"]
    assert not (folder / "run/checkpoints/.bundle-x").exists()
    assert (folder / "run/checkpoints/last.ckpt").stat().st_mtime_ns == before, "it was trained anew"


def test_a_job_begun_with_other_settings_is_refused(finished, tmp_path):
    folder = copied(finished, GOOD, tmp_path)
    changed = Job(name=GOOD, settings=settings(learning_rate=0.5), flops=1e9)
    fresh = Job(name="arms/new/seed-0", settings=settings(), flops=1e9)
    with pytest.raises(UserError) as caught:
        run_jobs([fresh, changed], tmp_path, workers=1, threads=1)
    told = f"{folder} was begun with other settings: settings.train.learning_rate was 0.001, is 0.5"
    assert caught.value.message == told
    assert not (tmp_path / "arms/new").exists()
    with pytest.raises(UserError, match=r"score was True, is False"):
        run_jobs([dataclasses.replace(jobs(GOOD)[0], score=False)], tmp_path, workers=1, threads=1)
    with pytest.raises(UserError, match=r"settings\.model\.decoder\.width was 16, is 32.*, and 1 more"):
        wide = configs.override(settings(seed=1, steps=5), {"model.decoder.width": "32", "model.decoder.depth": "2"})
        run_jobs([Job(name=GOOD, settings=wide, flops=1e9)], tmp_path, workers=1, threads=1)
    heavier = dataclasses.replace(jobs(GOOD)[0], flops=2e9)
    assert run_jobs([heavier], tmp_path, workers=1, threads=1) == {GOOD: finished[1][GOOD]}


HOLDING = "import sys; from pathlib import Path; from chiasm.compare.jobs import claim\n"
HOLDING += "with claim(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"


def test_two_at_once_are_refused(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=rf"Another comparison \(process {other.pid}\) is at work in {tmp_path}"):
            run(tmp_path, GOOD)
        assert list(tmp_path.iterdir()) == [tmp_path / ".lock"]
        other.kill()
    with claim(tmp_path), claim(tmp_path):  # what is left of the dead one is no claim; one's own may be nested
        again = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert f"(process {os.getpid()})" in again.stderr
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout == "in\n"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written: File exists"):
        run(tmp_path / "file", GOOD)


@pytest.mark.parametrize("name", ["", "/a", "a/../b", "a/", ".", "a//b"])
def test_names_that_are_no_folders(name):
    with pytest.raises(ValueError, match="a job is named"):
        Job(name=name, settings=settings(), flops=1.0)


def test_jobs_that_could_not_be_repeated_or_told_apart(tmp_path):
    with pytest.raises(ValueError, match="precision is auto"):
        Job(name="a", settings=settings(precision="auto"), flops=1.0)
    with pytest.raises(ValueError, match="flops are 0"):
        Job(name="a", settings=settings(), flops=0.0)
    with pytest.raises(ValueError, match=f"two jobs have one name: {GOOD}"):
        run(tmp_path, GOOD, TRIAL, GOOD)
    with pytest.raises(ValueError, match="workers is 0"):
        run(tmp_path, GOOD, workers=0)


def test_items_come_back_as_they_were(tmp_path):
    values = {"loss": torch.rand(3).double().numpy(), "right": torch.tensor([1.0, 0.0, 1.0]).numpy()}
    items = Items(keys=("a", "ü\udcff", "c/d"), groups=("a", "a", "b"), kinds=("", "count", ""), values=values)
    save_items(items, tmp_path / "items.npz")
    back = load_items(tmp_path / "items.npz")
    assert (back.keys, back.groups, back.kinds) == (items.keys, items.groups, items.kinds)
    assert {n: (v.dtype, v.tolist()) for n, v in back.values.items()} == {
        n: (v.dtype, v.tolist()) for n, v in values.items()
    }
    (tmp_path / "items.npz").write_bytes((tmp_path / "items.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"items\.npz cannot be read"):
        load_items(tmp_path / "items.npz")


def test_what_an_exit_code_tells(tmp_path):
    (tmp_path / "log.txt").write_text("first\nout of luck\n")
    assert why_ended(0, tmp_path) is None
    assert "stopped by a signal" in why_ended(-signal.SIGTERM, tmp_path)
    assert "stopped by a signal" in why_ended(130, tmp_path)
    assert "memory" in why_ended(-signal.SIGKILL, tmp_path)
    assert f"crashed with SIGSEGV (more in {tmp_path}" in why_ended(-signal.SIGSEGV, tmp_path)
    assert "ended with code 1: out of luck" in why_ended(1, tmp_path)


@pytest.mark.slow
def test_killed_again_and_again_and_interrupted_ends_the_same(finished, tmp_path):
    """The parent alone is sent SIGKILL at random steps, then Ctrl-C's signal; its child ends by itself, and saves."""
    checkpoint = tmp_path / GOOD / "run/checkpoints/last.ckpt"
    step = 0
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        if number == signal.SIGINT:  # its own child shall be at work, or it may not even listen yet
            wait_for_no_workers(tmp_path)
            step = read_metrics(tmp_path / GOOD / "run/metrics.csv")[-1]["step"]
        process = start(tmp_path, "local", GOOD)
        step = wait_for_step(tmp_path / GOOD / "run", step + random.randint(1, 5), process)
        process.send_signal(number)
        told = process.communicate()
        if number == signal.SIGINT:
            assert process.returncode == -signal.SIGINT
            assert told[1].endswith("KeyboardInterrupt\n")
            wait_for_no_workers(tmp_path, seconds=0)
        elif random.random() < 0.5:  # otherwise the next start meets the orphan
            wait_for_no_workers(tmp_path)
            assert torch.load(checkpoint, weights_only=False)["global_step"] >= step
    assert not (tmp_path / GOOD / "outcome.json").exists()
    assert_same_outcome(run(tmp_path, GOOD)[GOOD], finished[1][GOOD])
    assert_same_results(tmp_path, finished[0])


@pytest.mark.slow
def test_ray_gives_what_this_machine_gives(finished, tmp_path):
    """Interrupted in the middle, then run again: quiet, with a failure among the jobs."""
    folder, outcomes = finished
    process = start(tmp_path, "ray", GOOD)
    wait_for_step(tmp_path / GOOD / "run", 2, process)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1].endswith("KeyboardInterrupt\n")
    wait_for_no_workers(tmp_path, seconds=0)
    assert (tmp_path / GOOD / "run/checkpoints/last.ckpt").exists()
    assert not (tmp_path / GOOD / "outcome.json").exists()
    process = start(tmp_path, "ray", GOOD, BROKEN)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    for name in (GOOD, BROKEN):
        assert_same_outcome(configs.load(Outcome, tmp_path / name / "outcome.json"), outcomes[name])
    assert_same_results(tmp_path, folder)


def test_ray_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="ray is not installed") as caught:
        run_jobs(jobs(GOOD), tmp_path, engine="ray", workers=1, threads=1)
    assert "chiasm[ray]" in caught.value.hint
