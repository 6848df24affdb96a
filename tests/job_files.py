"""Trainings of seconds for tests of comparisons: two that work, one of each way to break, and a program that runs them.

Imported by the processes that it starts, too: some of its functions are encoders that a process does not survive.
"""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import torch
from torch import nn

from chiasm import config as configs
from chiasm.compare.jobs import Job, items_of
from chiasm.data.shapes import ShapesConfig
from chiasm.data.transforms import augment_for
from chiasm.models.adapted import ModuleVisionConfig
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.clip import ClipConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.train.callbacks import read_metrics
from chiasm.train.config import DataConfig, RunConfig, TrainConfig

STEPS, BATCH = 48, 8  # so many that three signals, one after the other, find it at work
GOOD, LONG, TRIAL, BROKEN, RAISING, KILLED = (
    "arms/good/seed-0",
    "arms/long/seed-0",
    "tune/good/rate-0",
    "arms/broken/seed-0",
    "arms/raising/seed-0",
    "arms/killed/seed-0",
)
PROGRAM = """
import json, signal, sys
from pathlib import Path
from chiasm import config as configs
from chiasm.compare.jobs import Job, run_jobs
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
folder, engine, data = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
run_jobs([configs.from_dict(Job, job) for job in data], folder, engine=engine, workers=2, threads=1)
"""


def settings(**train) -> RunConfig:
    """A run with everything random turned on; keywords change the training."""
    training = TrainConfig(
        steps=STEPS,
        batch_size=BATCH,
        precision="fp32",
        label_smoothing=0.1,
        ema_decay=0.9,
        augment=augment_for("strong"),
        validate_every_epochs=1.0,
        checkpoint_every_seconds=0.05,
    )
    return RunConfig(
        data=DataConfig(path="shapes", shapes=ShapesConfig(difficulty="lesson", samples=40)),
        model=CaptionerConfig(
            vision=VitConfig(size=(32, 32), width=16, depth=1, heads=2, dropout=0.1),
            decoder=DecoderConfig(width=16, depth=1, heads=2, dropout=0.1),
        ),
        train=dataclasses.replace(training, **train),
    )


def jobs(*names) -> list[Job]:
    """The jobs of these names."""
    made = {
        GOOD: settings(),
        LONG: settings(steps=100_000),  # ends by a signal or not at all
        TRIAL: settings(learning_rate=1e-2),
        BROKEN: settings(learning_rate=1e30),
        RAISING: _with_encoder("raising"),
        KILLED: _with_encoder("killed"),
    }
    return [Job(name=name, settings=made[name], flops=1e9, score=name != TRIAL) for name in names]


def _with_encoder(function):
    vision = ModuleVisionConfig(factory=f"job_files:{function}", width=5, size=(32, 32))
    model = ClipConfig(vision=vision, text=TextConfig(width=16, depth=1, heads=2), embed_dim=8)
    return dataclasses.replace(settings(), model=model)


def raising() -> nn.Module:
    """What no user could mend."""
    raise RuntimeError("the first line\nthe second line")


def killed() -> nn.Module:
    """As where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def start(folder, engine, *names):
    """The program in a process of its own."""
    data = json.dumps(configs.to_dict(jobs(*names)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(folder), engine, data]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run, step, process):
    """The last step that `metrics.csv` tells of, once it is at least this one."""
    while not (rows := read_metrics(run / "metrics.csv")) or rows[-1]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    return rows[-1]["step"]


def at_work(folder):
    """The jobs in this folder that a process works on, whoever started it: it holds a lock."""
    found = []
    for path in folder.rglob("job.json"):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path)
    return found


def wait_for_no_workers(folder, seconds=30):
    deadline = time.monotonic() + seconds
    while at_work(folder):
        assert time.monotonic() < deadline, at_work(folder)
        time.sleep(0.05)


def assert_same_outcome(outcome, other):
    """But for the seconds."""
    assert dataclasses.replace(outcome, seconds=0.0) == dataclasses.replace(other, seconds=0.0)


def assert_same_results(folder, other, name=GOOD):
    """Weights, scores of single items, the optimizer's state and the course of the training, bit by bit."""
    run, twin = folder / name / "run", other / name / "run"
    for file in ("bundle/model.safetensors", "checkpoints/best/model.safetensors", "samples.jsonl", "captions.jsonl"):
        assert (run / file).exists() == (twin / file).exists()
        if (run / file).exists():
            assert (run / file).read_bytes() == (twin / file).read_bytes(), file
    first, second = (torch.load(r / "checkpoints/last.ckpt", weights_only=False) for r in (run, twin))
    torch.testing.assert_close(first["optimizer_states"], second["optimizer_states"], rtol=0, atol=0)
    assert course(run) == course(twin)
    if name != TRIAL:
        items, others = (items_of(f, name, "test") for f in (folder, other))
        assert (items.keys, items.groups, items.kinds) == (others.keys, others.groups, others.kinds)
        assert items.values.keys() == others.values.keys()
        for score, values in items.values.items():
            assert values.tobytes() == others.values[score].tobytes(), score


def course(run):
    """What a run's log tells but for what depends on the clock."""
    clocked = ("seconds", "images_per_second", "waiting_share")
    return [{k: v for k, v in row.items() if k not in clocked} for row in read_metrics(run / "metrics.csv")]
