"""What a measurement settles: precision, threads, and the steps of so many minutes."""

import pytest
import torch

from chiasm.cost.batches import example_batch, training_objective
from chiasm.machine import using_threads
from chiasm.models import build_model
from chiasm.models.presets import captioner_tiny
from chiasm.train import calibrate
from chiasm.train.calibrate import settled
from chiasm.train.config import TrainConfig

CONFIG = captioner_tiny().completed(40, None)


@pytest.fixture
def settle(monkeypatch):
    """Settle, on so many cores, with seconds of a pass as they are told by precision and threads."""
    asked = []

    def settle(seconds, cores=8, worthwhile=("fp32", "bf16"), **settings):
        def measure(model, objective, batch, precision, accumulate):
            asked.append((precision, torch.get_num_threads()))
            return seconds[asked[-1]]

        asked.clear()
        monkeypatch.setattr(calibrate, "measure_step_seconds", measure)
        monkeypatch.setattr(calibrate, "measure_update_seconds", lambda *_: 0.01)
        monkeypatch.setattr(calibrate, "worthwhile_precisions", lambda: worthwhile)
        with using_threads(cores):
            batch = example_batch(CONFIG, 2, 8)
            model = build_model(CONFIG)
            found = settled(TrainConfig(**settings), model, training_objective(CONFIG), batch, steps_per_epoch=4)
            assert torch.get_num_threads() == cores
        return found, list(asked)

    return settle


def test_the_faster_precision_is_taken(settle):
    found, _ = settle({("fp32", 8): 2.0, ("bf16", 8): 1.0}, epochs=2.5)
    assert (found.precision, found.threads, found.steps) == ("bf16", 8, 10)
    found, _ = settle({("fp32", 8): 1.0, ("bf16", 8): 2.0}, steps=7)
    assert (found.precision, found.threads, found.steps) == ("fp32", 8, 7)
    found, asked = settle({("fp32", 8): 2.0}, precision="fp32")
    assert found.precision == "fp32" and ("bf16", 8) not in asked


def test_threads_are_halved_as_long_as_that_is_faster(settle):
    seconds = {("fp32", 8): 0.2, ("bf16", 8): 0.1, ("bf16", 4): 0.08, ("bf16", 2): 0.079, ("bf16", 1): 0.01}
    found, asked = settle(seconds)
    assert (found.precision, found.threads) == ("bf16", 4)  # two are faster by less than a measurement can tell
    assert asked == [("fp32", 8), ("bf16", 8), ("bf16", 4), ("bf16", 2)]


def test_a_long_pass_has_work_for_all_threads(settle):
    found, asked = settle({("fp32", 8): 0.3}, worthwhile=("fp32",))
    assert found.threads == 8 and asked == [("fp32", 8)]


def test_threads_that_were_told_are_kept(settle):
    found, asked = settle({("fp32", 3): 0.01, ("bf16", 3): 0.02}, threads=3)
    assert found.threads == 3 and {threads for _, threads in asked} == {3}


def test_nothing_is_measured_where_nothing_is_open(settle):
    found, asked = settle({}, cores=1, worthwhile=("fp32",))
    assert (found.precision, found.threads) == ("fp32", 1) and not asked
    assert not settle({}, precision="bf16", threads=2)[1]


def test_minutes_become_steps_with_the_optimizer_s_time(settle):
    seconds = {("fp32", 8): 0.5, ("bf16", 8): 0.25}
    assert settle(seconds, minutes=1.0)[0].steps == int(60 / (1.15 * 0.25 + 0.01))
    assert settle(seconds, minutes=1.0, precision="fp32")[0].steps == int(60 / (1.15 * 0.5 + 0.01))
    assert settle(seconds, minutes=1.0, steps=5)[0].steps == 5
    assert settle({("fp32", 1): 0.5}, cores=1, minutes=1.0, worthwhile=("fp32",))[0].steps == int(60 / 0.585)


def test_weights_stay_as_they_are():
    model = build_model(CONFIG)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train = TrainConfig(minutes=0.1, optimizer="muon")
    found = settled(train, model, training_objective(CONFIG), example_batch(CONFIG, 2, 8), steps_per_epoch=4)
    assert found.steps > 0 and 1 <= found.threads <= torch.get_num_threads()
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
