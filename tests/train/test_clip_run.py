"""A dual encoder's run: what it leaves, that kills change nothing, where the bias starts, what it says when stuck."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm import config as configs
from chiasm.data.shapes import ShapesConfig
from chiasm.data.transforms import augment_for
from chiasm.errors import UserError
from chiasm.evaluate import drawings
from chiasm.losses.positives import count_positives
from chiasm.models.clip import ClipConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.predict import ClipPredictor
from chiasm.train import contrastive, diagnose_steps, outcome
from chiasm.train.callbacks import Bar, read_metrics
from chiasm.train.config import DataConfig, RunConfig, TrainConfig
from chiasm.train.engine import Engine
from chiasm.train.run import Run, train


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than these runs."""
    for name in ("calibration_figure", "confusion_figure", "gallery_figure", "retrieval_figure"):
        monkeypatch.setattr(drawings, name, lambda *_, **__: None)
    monkeypatch.setattr(outcome, "curves_figure", lambda *_, **__: None)


def clip_settings(*, similarity="softmax", samples=60, path="shapes", dropout=0.1, **training):
    """A run of six steps, six to an epoch, with everything random turned on."""
    settings = {"steps": 6, "batch_size": 8, "precision": "fp32", "ema_decay": 0.9, "augment": augment_for("strong")}
    settings |= {"validate_every_epochs": 0.34, "checkpoint_every_seconds": 0.0} | training
    return RunConfig(
        data=DataConfig(path=path, shapes=ShapesConfig(difficulty="easy", samples=samples)),
        model=ClipConfig(
            vision=VitConfig(size=(32, 32), width=32, depth=1, heads=2, dropout=dropout, pool="mean"),
            text=TextConfig(width=32, depth=1, heads=2, dropout=dropout),
            embed_dim=16,
            similarity=similarity,
        ),
        train=TrainConfig(**settings),
    )


def test_a_run_leaves_all_that_was_promised(tmp_path, capfd):
    config = clip_settings(samples=250)
    result = train(config, tmp_path / "run")
    assert (result.finished, result.step, result.results[0].split) == (True, 6, "test")
    assert capfd.readouterr() == ("", "")
    files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    wanted = {"metrics.csv", "curves.png", "config.json", "quarantine.jsonl", "card.md", "checkpoints/last.ckpt"}
    wanted |= {f"bundle/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "card.md")}
    wanted |= {"samples.jsonl", "retrieval.jsonl", "evaluation.json", "evaluation.md", "calibration.png"}
    wanted |= {"gallery-test.png", "retrieval-test.png"}
    assert wanted <= files, wanted - files
    predictor = ClipPredictor.load(tmp_path / "run")
    assert predictor.calibration is not None
    card = (tmp_path / "run/card.md").read_text()
    scale = float(predictor.model.log_scale.detach().exp())
    for told in ("# Clip trained on", "6 steps of 8, fp32", "image_to_text_r1", "would be chance",
                 f"the scale of similarities ended at {scale:.1f}"):  # fmt: skip
        assert told in card, told
    assert predictor.bundle.card == card


def test_metrics_name_floor_excess_chance_and_scale(tmp_path, no_figures):
    config = clip_settings()
    train(config, tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.csv")
    assert [row["step"] for row in rows] == [2, 4, 6]
    run = Run(config, tmp_path / "again")
    for row in rows:
        batch = run.loader.batch(int(row["step"]) - 1)
        ids = torch.stack([batch.image_ids, batch.text_ids])
        floor = count_positives(ids, ids).double().log().mean().item()
        assert row["floor"] == pytest.approx(floor, abs=1e-5)
        assert row["excess_loss"] == pytest.approx(row["loss"] - row["floor"], abs=1e-4)
        assert row["chance"] == pytest.approx(math.log(8), rel=1e-5)
        assert row["scale"] == pytest.approx(1 / 0.07, rel=0.02)


def test_samples_are_the_nearest_validation_texts(tmp_path, no_figures):
    train(clip_settings(), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps) and set(steps) == {2, 4, 6}
    source = clip_settings().data.open()
    texts = {text for example in source.split("val") for text in example.texts}
    by_key = {example.key: example.texts for example in source.split("val")}
    for row in rows:
        assert row["said"] in texts and row["text"] == by_key[row["key"]][0]


@pytest.mark.parametrize(
    ("similarity", "accumulate"), [("softmax", 1), ("softmax", 2), ("sigmoid", 1), ("sigmoid", 2)], ids=str
)
def test_killed_and_resumed_ends_the_same_to_the_bit(similarity, accumulate, tmp_path, no_figures, monkeypatch):
    config = clip_settings(similarity=similarity, accumulate=accumulate)
    train(config, tmp_path / "undisturbed")
    backward, at = Engine._backward, [2, 3]

    def killing(engine, batch):
        sums = backward(engine, batch)
        if at and engine.global_step == at[0]:
            at.pop(0)
            raise Killed
        return sums

    monkeypatch.setattr(Engine, "_backward", killing)
    for resume in (False, True):  # the second kill is within the same epoch
        with pytest.raises(Killed):
            train(config, tmp_path / "run", resume=resume)
    assert train(config, tmp_path / "run", resume=True).finished
    for file in ("bundle/model.safetensors", "checkpoints/best/model.safetensors", "bundle/config.json",
                 "samples.jsonl", "retrieval.jsonl", "evaluation.json"):  # fmt: skip
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes(), file


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_parts_take_the_steps_of_the_whole_batch(similarity, tmp_path, no_figures):
    losses = []
    for accumulate in (1, 3):
        plain = clip_settings(similarity=similarity, dropout=0.0, accumulate=accumulate)
        train(plain, tmp_path / str(accumulate))
        losses.append([row["loss"] for row in read_metrics(tmp_path / str(accumulate) / "metrics.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_bias_of_the_sigmoid_loss_starts_at_the_share_of_true_pairs(tmp_path):
    for batch_size, rows in ((8, 8), (1000, 42)):  # of a batch that is never full, its real rows
        run = Run(clip_settings(similarity="sigmoid", batch_size=batch_size), tmp_path / str(batch_size))
        assert len(run.loader) == 42
        assert float(run.model.bias.detach()) == pytest.approx(math.log(1 / rows / (1 - 1 / rows)))
        assert float(run.model.log_scale.detach()) == pytest.approx(math.log(10))


def test_the_scale_never_exceeds_its_clamp(tmp_path, no_figures, monkeypatch):
    def start(task, run):
        run.model.log_scale.data.fill_(math.log(80))

    monkeypatch.setattr(contrastive.ContrastiveTask, "start", start)
    backward = Engine._backward

    def pushed(engine, batch):
        sums = backward(engine, batch)
        engine.model.log_scale.grad.fill_(-1.0)
        return sums

    monkeypatch.setattr(Engine, "_backward", pushed)
    train(clip_settings(learning_rate=0.1, warmup=0.0, ema_decay=0.0, keep="last"), tmp_path / "run")
    assert read_metrics(tmp_path / "run/metrics.csv")[-1]["scale"] == pytest.approx(100, rel=1e-5)
    assert "The scale of similarities stands at its limit, 100" in (tmp_path / "run/card.md").read_text()


@pytest.fixture(scope="module")
def all_gray(tmp_path_factory):
    """A folder of pictures that are all the same, each with a text of its own."""
    folder = tmp_path_factory.mktemp("gray")
    lines = ["image,caption"]
    for i in range(40):
        Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{'abcdefghij'[i % 10]} {'klmnop'[i % 6]} {'qrst'[i // 10]}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("similarity", ["softmax", "sigmoid"])
def test_where_nothing_can_be_learnt_it_says_so_once_and_what_to_try(
    similarity, all_gray, tmp_path, no_figures, monkeypatch
):
    monkeypatch.setattr(diagnose_steps, "FAIR_STEPS", 20)
    said = []
    monkeypatch.setattr(Bar, "say", lambda self, text: said.append(text))
    config = clip_settings(
        similarity=similarity, path=str(all_gray), steps=60, augment=None, dropout=0.0, learning_rate=3e-3
    )
    train(config, tmp_path / "run")
    advice = [text for text in said if "tells nothing apart" in text]
    assert len(advice) == 1
    assert int(advice[0].split(":")[0].removeprefix("step ")) >= 20
    assert "learning_rate" in advice[0]
    card = (tmp_path / "run/card.md").read_text()
    assert "tells nothing apart" in card and "calibration" not in card


def test_batch_norm_in_parts_is_refused_before_the_first_step(tmp_path, monkeypatch):
    from chiasm.train import run as run_module

    build = run_module.build_model

    def with_batch_norm(config):
        model = build(config)
        model.project_image = torch.nn.Sequential(torch.nn.BatchNorm1d(32), model.project_image)
        return model

    monkeypatch.setattr(run_module, "build_model", with_batch_norm)
    with pytest.raises(UserError, match=r"train\.accumulate is 2: project_image\.0 is a BatchNorm1d"):
        Run(clip_settings(accumulate=2), tmp_path / "run")
    Run(clip_settings(), tmp_path / "whole")


def test_the_settings_of_a_run_are_those_it_was_given(tmp_path):
    run = Run(clip_settings(), tmp_path / "run")
    used = configs.load(RunConfig, tmp_path / "run/config.json")
    assert used.model.vocabulary == run.tokenizer.vocab_size
    assert dataclasses.replace(used.model, text=clip_settings().model.text) == clip_settings().model
