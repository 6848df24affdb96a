"""`chiasm train fusion` and `chiasm train vit`: what is asked of the data, what the model sees, and what to do next."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.data.task import TaskConfig
from chiasm.models import build_model
from chiasm.models.fusion import CrossConfig, EarlyConfig
from chiasm.train import run as run_module
from chiasm.train.config import RunConfig
from chiasm.train.parts import load_parts
from chiasm.train.run import RunResult


@pytest.fixture
def settled(monkeypatch, tmp_path, ask):
    """A function that runs the command up to where training would start; returns the settings it would train with."""
    seen = []

    def train(settings, folder, *, resume, trackers):
        seen.append(settings)
        return RunResult(folder, 0, False, [])

    def settled(*words):
        monkeypatch.setattr(run_module, "train", train)
        code, _, err = ask("train", *words, "--out", tmp_path / "run")
        assert code == 130, err
        return seen[-1]

    return settled


def test_options_of_a_fusion_become_settings(settled):
    settings = settled("fusion", "emoji", "--task", "match", "--negatives", "text", "--fusion", "early")
    assert settings.data.task == TaskConfig(name="match", negatives="text")
    assert isinstance(settings.model.fusion, EarlyConfig)
    assert (settings.model.inputs, settings.tokenizer.units) == ("both", "bpe")
    settings = settled("fusion", "shapes", "--task", "answer", "--inputs", "text", "--preset", "tiny")
    assert isinstance(settings.model.fusion, CrossConfig)
    assert settings.model.inputs == "text" and settings.preprocess.size == (0, 0)


def test_a_vit_tells_classes(settled):
    settings = settled("vit", "photos", "--preset", "tiny")
    assert settings.data.task == TaskConfig(name="label") and settings.model.rules is None
    assert settings.train.label_smoothing == 0 < settled("captioner", "photos").train.label_smoothing


def test_a_file_says_the_task_and_an_option_wins(settled, tmp_path):
    (tmp_path / "match.yaml").write_text("data: {path: emoji, task: {name: match, negatives: text}}")
    config = ("--config", tmp_path / "match.yaml")
    assert settled("fusion", *config).data.task == TaskConfig(name="match", negatives="text")
    settings = settled("fusion", *config, "--negatives", "random", "--set", "model.inputs=picture")
    assert settings.data.task == TaskConfig(name="match") and settings.model.inputs == "picture"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("fusion emoji", "A fusion needs a task\n  Say what is asked: --task match, answer or label."),
        ("fusion emoji --negatives text", "A fusion needs a task"),
        ("fusion emoji --task match --negatives nearest", "it must be random, text, or clip:FOLDER"),
        ("fusion emoji --task match --negatives clip:nowhere", "There is no nowhere"),
        ("fusion emoji --task match --preset huge", "no fusion preset 'huge'\n  Presets: tiny, small"),
        ("fusion emoji --task answer --set model.inputs=sound", "both, picture, text"),
        ("captioner emoji --task match", "Only a fusion has --task"),
        ("vit emoji --inputs text", "Only a fusion has --inputs"),
        ("vit emoji --fusion early", "Only a captioner or a fusion has a --fusion"),
    ],
)
def test_mistakes_are_found_before_training(words, told, ask, tmp_path):
    code, out, err = ask("train", *words.split(), "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and told in err
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_end_of_a_run_says_how_to_ask(ask, tmp_path):
    data = ("shapes", "--difficulty", "lesson", "--samples", "60", "--preset", "tiny")
    settings = ("train.steps=1", "train.batch_size=8", "train.precision=fp32", "model.fusion.depth=1")
    run = tmp_path / "run"
    code, out, err = ask("train", "fusion", *data, "--task", "match", "--out", run, "--set", *settings)
    assert (code, err) == (0, "")
    assert "# Classifier trained on shapes-lesson-matching" in out and f"chiasm match {run} PICTURE" in out
    for line in out.splitlines():
        name, _, path = line.partition(" ")
        if name in ("model", "told", "pictures", "curves"):
            assert Path(path.strip()).exists(), line
    code, _, err = ask("train", "fusion", "--config", run / "config.json", "--fusion", "early", "--out", tmp_path / "b")
    assert code == 2 and "--fusion early does not fit" in err
    assert configs.load(RunConfig, run / "config.json").model.classes == ("no", "yes")


def test_a_fusion_stands_on_a_trained_picture_encoder(settled, run, tmp_path, ask):
    settings = settled("fusion", "shapes", "--task", "match", "--preset", "tiny", "--vision", f"clip:{run}")
    assert settings.model.vision.depth == 1 and settings.model.vision_from == str(run)  # the captioner's
    built = build_model(settings.completed(9, None, ("no", "yes")).model)
    load_parts(built)
    trained = Bundle.load(run).model.vision.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in built.vision.state_dict().items())
    assert not any(p.requires_grad for p in built.vision.parameters())
    tuned = build_model(replace(built.config, vision_tune=True))
    assert all(p.requires_grad for p in tuned.vision.parameters())
    code, _, err = ask("train", "fusion", "shapes", "--task", "match", "--vision", tmp_path, "--out", tmp_path / "no")
    assert code == 2 and str(tmp_path) in err
