"""A run's folder, its steps (accumulation, schedule, average, precision), when it stops, and which weights it keeps."""

import dataclasses
import importlib.util
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from chiasm import config as configs
from chiasm.errors import UserError
from chiasm.evaluate import drawings
from chiasm.machine import processor
from chiasm.predict import CaptionPredictor
from chiasm.train import calibrate, callbacks, captioning, outcome
from chiasm.train import config as config_module
from chiasm.train import run as run_module
from chiasm.train.callbacks import read_metrics
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.engine import Engine, learning_rate
from chiasm.train.run import train

PLAIN = {"label_smoothing": 0.0, "ema_decay": 0.0, "augment": None}


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than these runs."""
    for module, name in ((drawings, "attention_figure"), (drawings, "gallery_figure"), (outcome, "curves_figure")):
        monkeypatch.setattr(module, name, lambda *_, **__: None)


@pytest.fixture(scope="session")
def captioned(tmp_path_factory):
    """A folder of 40 pictures with captions of one to eight words."""
    folder = tmp_path_factory.mktemp("captioned")
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{' '.join(['word', 'thing', 'and'][j % 3] for j in range(i % 8 + 1))}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def without_dropout(config, path=None):
    vision, decoder = (dataclasses.replace(half, dropout=0.0) for half in (config.model.vision, config.model.decoder))
    data = config.data if path is None else dataclasses.replace(config.data, path=str(path))
    return dataclasses.replace(
        config, data=data, model=dataclasses.replace(config.model, vision=vision, decoder=decoder)
    )


@pytest.fixture
def recorded(monkeypatch):
    """By step of the runs that follow: the gradients before clipping, and the weights after the update."""
    seen = SimpleNamespace(gradients=[], weights=[])
    backward, update = Engine._backward, Engine._update_average

    def recording_backward(engine, batch):
        sums = backward(engine, batch)
        seen.gradients.append([p.grad.clone() for p in engine.model.parameters()])
        return sums

    def recording_update(engine, step):
        update(engine, step)
        seen.weights.append([p.detach().clone() for p in engine.model.parameters()])

    monkeypatch.setattr(Engine, "_backward", recording_backward)
    monkeypatch.setattr(Engine, "_update_average", recording_update)
    return seen


def test_a_run_leaves_all_that_was_promised(settings, tmp_path, capfd):
    result = train(settings(), tmp_path / "run")
    assert (result.finished, result.step, result.results[0].split) == (True, 6, "test")
    assert capfd.readouterr() == ("", "")
    files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    wanted = {"metrics.csv", "curves.png", "config.json", "quarantine.jsonl", "card.md", "checkpoints/last.ckpt"}
    wanted |= {f"bundle/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "card.md")}
    wanted |= {"samples.jsonl", "captions.jsonl", "evaluation.json", "evaluation.md", "gallery-test.png"}
    assert wanted <= files, wanted - files
    assert not [name for name in files if ".bundle-" in name or name.endswith(".writing")]
    card = (tmp_path / "run/card.md").read_text()
    scores = json.loads((tmp_path / "run/evaluation.json").read_text())["test"]["scores"]
    for told in ("lesson shapes: 40 pictures", "6 steps of 8, fp32", "cider_d", "train 32, val 4, test 4", processor()):
        assert told in card
    exact = scores["exact_match"]
    assert f"{exact['value']:.3f} ({exact['low']:.3f} to {exact['high']:.3f})" in card
    used = configs.load(RunConfig, tmp_path / "run/config.json")
    tokens = CaptionPredictor.load(tmp_path / "run").tokenizer.vocab_size
    assert (used.train.steps, used.train.precision, used.model.decoder.vocabulary) == (6, "fp32", tokens)


def test_metrics_name_smoothed_and_plain_loss(settings, tmp_path, no_figures):
    train(settings(), tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [row["epoch"] for row in rows] == [0.5, 1.0, 1.5]
    assert all(row["loss"] > row["token_loss"] > 0 and row["val_loss"] > 0 for row in rows[1:])
    assert all(row["images_per_second"] > 0 and row["gradient_norm"] > 0 for row in rows)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_a_second_run_into_the_same_folder_is_refused(settings, tmp_path, no_figures):
    train(settings(), tmp_path / "run")
    before = (tmp_path / "run/bundle/model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run already") as caught:
        train(settings(seed=1), tmp_path / "run")
    assert "--resume" in caught.value.hint
    assert (tmp_path / "run/bundle/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulation_sums_to_the_gradient_of_the_whole_batch(
    parts, settings, captioned, tmp_path, recorded, no_figures
):
    whole = without_dropout(settings(**PLAIN, steps=2, batch_size=16), captioned)
    train(whole, tmp_path / "whole")
    train(dataclasses.replace(whole, train=dataclasses.replace(whole.train, accumulate=parts)), tmp_path / "parts")
    largest = max(float(g.abs().max()) for g in recorded.gradients[0])
    for one, summed in zip(recorded.gradients[0], recorded.gradients[2], strict=True):
        torch.testing.assert_close(summed, one, rtol=1e-5, atol=1e-5 * largest)
    first, second = (read_metrics(tmp_path / name / "metrics.csv")[0] for name in ("whole", "parts"))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_unequal_parts_tell_a_mean_of_means_apart(settings, captioned, tmp_path):
    """What makes the test above worth its time: its batch's halves hold different numbers of tokens."""
    batch = run_module.Run(without_dropout(settings(batch_size=16), captioned), tmp_path / "run").loader.batch(0)
    for parts in (2, 3, 4):
        counts = {int(part.keep[:, 1:].sum()) for part in batch.split(math.ceil(16 / parts))}
        assert len(counts) > 1


def test_average_is_the_naive_one(settings, tmp_path, recorded, no_figures):
    average = start_of(settings(), tmp_path / "start")
    train(settings(keep="last"), tmp_path / "run")
    for step, weights in enumerate(recorded.weights):
        decay = min(0.9, (1 + step) / (10 + step))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    kept = load_file(tmp_path / "run/bundle/model.safetensors")
    names = [name for name, _ in CaptionPredictor.load(tmp_path / "run").model.named_parameters()]
    for name, wanted in zip(names, average, strict=True):
        torch.testing.assert_close(kept[name], wanted, rtol=1e-5, atol=1e-6)


def start_of(config, folder):
    return [p.detach().clone() for p in run_module.Run(config, folder).model.parameters()]


def test_without_average_the_last_weights_are_kept(settings, tmp_path, recorded, no_figures):
    train(settings(keep="last", ema_decay=0.0), tmp_path / "run")
    kept = list(CaptionPredictor.load(tmp_path / "run").model.parameters())
    for own, wanted in zip(kept, recorded.weights[-1], strict=True):
        assert torch.equal(own, wanted)


def test_learning_rate_rises_then_follows_a_cosine():
    config = TrainConfig(learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    by_hand = {0: 2 / 11, 4: 10 / 11, 9: 20 / 11, 10: 2.0, 55: 2 * (0.01 + 0.99 / 2)}
    by_hand |= {40: 2 * (0.01 + 0.99 * (1 + 0.5) / 2), 70: 2 * (0.01 + 0.99 * (1 - 0.5) / 2)}
    assert {step: rates[step] for step in by_hand} == pytest.approx(by_hand)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(100, 100, config) == pytest.approx(0.02)
    assert learning_rate(0, 100, TrainConfig(learning_rate=2.0, warmup=0.0)) == 2.0


def test_optimizer_steps_at_the_scheduled_rate(settings, tmp_path, recorded, no_figures):
    config = settings(weight_decay=0.0, learning_rate=3e-3)
    start = start_of(config, tmp_path / "start")
    train(config, tmp_path / "run")
    first = learning_rate(0, 6, config.train)
    moves = torch.cat([(w - s).abs().flatten() for w, s in zip(recorded.weights[0], start, strict=True)])
    assert float(moves.max()) == pytest.approx(first, rel=1e-3)  # Adam's first step moves a weight by the rate
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run/metrics.csv")]
    assert rates == pytest.approx([learning_rate(step, 6, config.train) for step in (1, 3, 5)], rel=1e-5)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(settings, tmp_path, no_figures, monkeypatch):
    kinds = []
    head = captioning.Captioning.__call__

    def seeing(objective, model, batch):
        if torch.is_grad_enabled():
            hidden = model(batch.images, batch.ids[:, :-1])
            kinds.append(model.decoder.blocks[0].mlp(hidden).dtype)
        return head(objective, model, batch)

    monkeypatch.setattr(captioning.Captioning, "__call__", seeing)
    train(settings(precision="bf16"), tmp_path / "bf16")
    assert set(kinds) == {torch.bfloat16}
    kinds.clear()
    train(settings(), tmp_path / "fp32")
    assert set(kinds) == {torch.float32}
    low, full = (load_file(tmp_path / name / "bundle/model.safetensors") for name in ("bf16", "fp32"))
    assert {tensor.dtype for tensor in low.values()} == {torch.float32}
    losses = [read_metrics(tmp_path / name / "metrics.csv")[-1]["loss"] for name in ("bf16", "fp32")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert any(not torch.equal(low[name], full[name]) for name in full)


def test_a_run_is_settled_once(settings, tmp_path, monkeypatch):
    first = run_module.Run(settings(precision="auto", steps=None, epochs=2.5), tmp_path / "epochs").config.train
    assert first.steps == 10 and first.precision in ("fp32", "bf16") and 1 <= first.threads <= torch.get_num_threads()
    monkeypatch.setattr(calibrate, "measure_step_seconds", lambda *_: pytest.fail("measured again"))
    assert run_module.Run(settings(), tmp_path / "epochs", resume=True).config.train == first


def test_steps_are_computed_by_the_threads_that_were_settled(settings, tmp_path, no_figures, monkeypatch):
    seen = []
    head = captioning.Captioning.__call__
    monkeypatch.setattr(
        captioning.Captioning, "__call__", lambda *args: seen.append(torch.get_num_threads()) or head(*args)
    )
    before = torch.get_num_threads()
    train(settings(threads=3, steps=2), tmp_path / "three")
    assert 3 in seen and torch.get_num_threads() == before
    assert "fp32 on 3 threads" in (tmp_path / "three" / "card.md").read_text()


def test_compiling_without_a_compiler_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        train(settings(compile=True), tmp_path / "run")


def test_few_pictures_are_seen_more_often_where_nothing_is_said(settings, tmp_path, monkeypatch):
    few = run_module.Run(settings(steps=None), tmp_path / "few").config.train
    assert few.steps == config_module.FEWEST_STEPS  # 30 epochs of four steps would be 120
    monkeypatch.setattr(config_module, "FEWEST_STEPS", 7)
    assert run_module.Run(settings(steps=None), tmp_path / "many").config.train.steps == 120


@pytest.fixture
def validations(monkeypatch):
    """Validation losses come from `losses` in turn; `weights` are those that were validated."""
    seen = SimpleNamespace(losses=[], weights=[])

    def validation_loss(model, objective, loader):
        assert not model.training
        seen.weights.append([p.detach().clone() for p in model.parameters()])
        return seen.losses[len(seen.weights) - 1]

    monkeypatch.setattr(callbacks, "validation_loss", validation_loss)
    return seen


@pytest.mark.parametrize(("keep", "wanted"), [("best", 1), ("last", -1)])
def test_keeps_the_best_weights_or_the_last(keep, wanted, settings, tmp_path, validations, no_figures):
    validations.losses = [3.0, 2.0, 2.0, 2.5]
    train(settings(keep=keep, steps=8), tmp_path / "run")
    assert len(validations.weights) == 4
    for own, kept in zip(
        CaptionPredictor.load(tmp_path / "run").model.parameters(), validations.weights[wanted], strict=True
    ):
        assert torch.equal(own, kept)
    told = "the best by validation loss, of step 4" if keep == "best" else "weights kept: the last"
    assert told in (tmp_path / "run/card.md").read_text()


def test_patience_stops_a_run_that_has_finished(settings, tmp_path, validations, no_figures):
    validations.losses = [3.0, 2.0, 2.1, 2.2, 2.3]
    result = train(settings(steps=40, patience=2), tmp_path / "run")
    assert (result.finished, result.step) == (True, 8)
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.csv")] == [2, 4, 6, 8]
    for own, kept in zip(
        CaptionPredictor.load(tmp_path / "run").model.parameters(), validations.weights[1], strict=True
    ):
        assert torch.equal(own, kept)


def test_a_loss_that_is_not_finite_stops_and_names_step_and_pictures(settings, tmp_path):
    with pytest.raises(UserError, match=r"at step [1-5]; the batch held: lesson-0-\d+, ") as caught:
        train(settings(learning_rate=1e30, clip_norm=1e30), tmp_path / "run")
    assert "learning_rate" in caught.value.hint
    assert not (tmp_path / "run/bundle").exists()


def test_data_without_validation_or_test(settings, captioned, tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes((captioned / f"{i}.png").read_bytes())
        (tmp_path / f"{i}.txt").write_text("a few words")
    result = train(without_dropout(settings(), tmp_path), tmp_path / "run")
    assert result.finished
    assert (tmp_path / "run/bundle/model.safetensors").exists()


def test_tensorboard_gets_the_metrics(settings, tmp_path, no_figures, capfd):
    train(settings(), tmp_path / "run", trackers=("tensorboard",))
    assert capfd.readouterr() == ("", "")
    (events,) = (tmp_path / "run/tensorboard").glob("events.out.tfevents.*")
    assert b"val_loss" in events.read_bytes()


def test_trackers_that_are_not_there(settings, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no tracker 'clipboard'") as caught:
        train(settings(), tmp_path / "run", trackers=("clipboard",))
    assert "tensorboard, wandb" in caught.value.hint
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    with pytest.raises(UserError, match="wandb is not installed") as caught:
        train(settings(), tmp_path / "run", trackers=("wandb",))
    assert caught.value.hint == "pip install 'chiasm[wandb]'"
    assert not (tmp_path / "run").exists()
