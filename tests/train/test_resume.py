"""A run that is killed anywhere and resumed ends bit for bit where the undisturbed run ends; so does a stopped one."""

import itertools
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import torch

from chiasm import cli
from chiasm import config as configs
from chiasm.errors import UserError
from chiasm.evaluate import drawings
from chiasm.train import callbacks, outcome
from chiasm.train.callbacks import read_metrics
from chiasm.train.engine import Engine
from chiasm.train.run import train

PYTHON = [Path(sys.executable).name, "-m", "chiasm"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Drawing takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (drawings, "attention_figure"),
            (drawings, "gallery_figure"),
            (outcome, "curves_figure"),
        ):
            patch.setattr(module, name, lambda *_, **__: None)
        yield


@contextmanager
def during_step(number, act):
    """`act` is called in the middle of this training step, between gradient and update."""
    backward = Engine._backward

    def acting(engine, batch):
        sums = backward(engine, batch)
        if engine.global_step == number:
            act()
        return sums

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_backward", acting)
        yield


@pytest.fixture(scope="module")
def undisturbed(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(settings(), folder).finished
    return folder


def kill():
    raise Killed


def assert_same_end(folder, other):
    for part in ("bundle", "checkpoints/best"):
        weights = f"{part}/model.safetensors"
        assert (folder / weights).read_bytes() == (other / weights).read_bytes(), weights
    first, second = (torch.load(f / "checkpoints/last.ckpt", weights_only=False) for f in (folder, other))
    torch.testing.assert_close(first["average"], second["average"], rtol=0, atol=0)
    torch.testing.assert_close(first["optimizer_states"], second["optimizer_states"], rtol=0, atol=0)
    assert measured(folder) == measured(other)
    for file in ("samples.jsonl", "captions.jsonl", "evaluation.json"):
        assert (folder / file).read_text() == (other / file).read_text(), file


def measured(folder):
    """The metrics that do not depend on the clock."""
    rows = read_metrics(folder / "metrics.csv")
    assert len({row["step"] for row in rows}) == len(rows)
    clock = ("seconds", "images_per_second", "waiting_share")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def test_killed_in_every_step_and_resumed_each_time_ends_the_same(settings, undisturbed, tmp_path):
    for step in range(6):  # steps 0 to 3 are one epoch: four kills in it
        with pytest.raises(Killed), during_step(step, kill):
            train(settings(), tmp_path / "run", resume=step > 0)
    assert train(settings(), tmp_path / "run", resume=True).finished
    assert_same_end(tmp_path / "run", undisturbed)


def test_killed_behind_every_checkpoint_it_ends_the_same(settings, undisturbed, tmp_path, monkeypatch):
    """All that a step writes is written before its checkpoint: behind it nothing of that step is done again."""
    save = callbacks.Checkpoints.save

    def and_kill(checkpoints, trainer):
        save(checkpoints, trainer)
        if trainer.global_step < trainer.max_steps:
            raise Killed

    monkeypatch.setattr(callbacks.Checkpoints, "save", and_kill)
    kills = 0
    while not (tmp_path / "run/bundle").exists():
        try:
            train(settings(), tmp_path / "run", resume=kills > 0)
        except Killed:
            kills += 1
    assert kills > 3
    assert_same_end(tmp_path / "run", undisturbed)


def test_killed_before_the_first_checkpoint_a_run_that_starts_from_a_trained_one_still_does(
    settings, undisturbed, tmp_path
):
    started = replace(settings(), start=str(undisturbed))
    assert train(started, tmp_path / "undisturbed").finished
    with pytest.raises(Killed), during_step(0, kill):
        train(started, tmp_path / "run")
    (tmp_path / "run/checkpoints/last.ckpt").unlink(missing_ok=True)
    assert train(started, tmp_path / "run", resume=True).finished
    assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_steps_after_the_last_checkpoint_are_repeated(settings, undisturbed, tmp_path, monkeypatch):
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), perf_counter=time.perf_counter)
    monkeypatch.setattr(callbacks, "time", clock)
    changed = settings(checkpoint_every_seconds=3.0)  # at every third look at this clock, thus at every third step
    for count, step in enumerate((3, 5, 5)):
        with pytest.raises(Killed), during_step(step, kill):
            train(changed, tmp_path / "run", resume=count > 0)
    rows = read_metrics(tmp_path / "run/metrics.csv")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=False)["global_step"]
    assert saved < rows[-1]["step"], "the kill lost nothing, so this test shows nothing"
    assert train(changed, tmp_path / "run", resume=True).finished
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_cut_off_row_of_metrics_is_dropped(settings, undisturbed, tmp_path):
    with pytest.raises(Killed), during_step(3, kill):
        train(settings(), tmp_path / "run")
    for file, torn in (("metrics.csv", "4,1.0"), ("samples.jsonl", '{"step": 4, "ke')):
        with (tmp_path / "run" / file).open("a") as torn_file:
            torn_file.write(torn)
    train(settings(), tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_finished_run_can_be_resumed(settings, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/bundle")  # as if interrupted while it was scored
    assert train(settings(), tmp_path / "run", resume=True).finished
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["/somewhere/bin/chiasm", "/somewhere/chiasm/__main__.py"])
def test_a_signal_saves_and_says_how_to_go_on(number, program, settings, undisturbed, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(number)
    run, file = tmp_path / "my run", tmp_path / "settings.json"
    configs.save(settings(checkpoint_every_seconds=3600.0), file)
    monkeypatch.setattr(sys, "argv", [program])
    with during_step(2, lambda: os.kill(os.getpid(), number)):
        assert cli.main(["train", "captioner", "--config", str(file), "--out", str(run)]) == 130
    told = capsys.readouterr()
    assert told.out == ""
    stopped, command = told.err.splitlines()
    assert stopped == "stopped at step 3; to go on, type:"
    assert signal.getsignal(number) is before
    words = shlex.split(command)
    assert words[: words.index("train")] == (["chiasm"] if program.endswith("chiasm") else PYTHON)
    assert cli.main(words[words.index("train") :]) == 0
    assert "exact_match" in capsys.readouterr().out
    assert_same_end(run, undisturbed)


def test_a_second_interrupt_ends_at_once(settings, tmp_path, capsys):
    def interrupt_twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # two at once may arrive as one
        raise AssertionError("the step went on")

    file = tmp_path / "settings.json"
    configs.save(settings(), file)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
    try:
        with during_step(2, interrupt_twice):
            assert cli.main(["train", "captioner", "--config", str(file), "--out", str(tmp_path / "run")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resume_where_there_is_no_run(settings, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        train(settings(), tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


STEPS, EPOCH = 60, 20
COMMAND = [
    *(sys.executable, "-m", "chiasm", "train", "captioner", "shapes", "--difficulty", "lesson", "--samples", "200"),
    *("--preset", "tiny", "--augment", "strong", "--set", f"train.steps={STEPS}", "train.batch_size=8"),
    *("train.precision=fp32", "train.label_smoothing=0.1", "train.ema_decay=0.9", "train.validate_every_epochs=0.1"),
    *("train.checkpoint_every_seconds=0.25", "model.vision.dropout=0.1", "model.decoder.dropout=0.1"),
]


@pytest.fixture
def start():
    """A function that starts the program; what still runs at the end of the test is killed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = []

    def start(*command):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
        started.append(subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_three_times_and_interrupted_ends_the_same(start, tmp_path):
    """The real program: SIGKILL at three random steps, two of them in one epoch; then Ctrl-C, and what it says."""
    undisturbed = start(*COMMAND, "--out", str(tmp_path / "undisturbed"))
    run, resume = tmp_path / "run", []
    kills = [*sorted(random.sample(range(EPOCH + 1, 2 * EPOCH - 8), 2)), random.randrange(2 * EPOCH, STEPS - 12)]
    reached = []
    for step in kills:
        process = start(*COMMAND, "--out", str(run), *resume)
        reached.append(wait_for_step(run, step, process))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        resume = ["--resume"]
    assert [step // EPOCH for step in reached] == [1, 1, 2], f"wanted kills at {kills}, came at {reached}"
    process = start(*COMMAND, "--out", str(run), "--resume")
    wait_for_step(run, reached[-1] + 2, process)
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130, told
    again = start(*shlex.split(told.splitlines()[-1]))
    assert again.communicate()[1] == ""
    assert again.returncode == 0
    assert undisturbed.communicate()[1] == ""
    assert undisturbed.returncode == 0
    assert_same_end(run, tmp_path / "undisturbed")


def wait_for_step(run, step, process):
    """The last step in `metrics.csv`, once it is at least this one."""
    deadline = time.monotonic() + 120
    while not (rows := read_metrics(run / "metrics.csv")) or rows[-1]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, rows
        time.sleep(0.005)
    return rows[-1]["step"]
