"""`chiasm train captioner`: options, settings by file and by path, and mistakes that are found before training."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from chiasm import config as configs
from chiasm.cli import train
from chiasm.train import run as run_module
from chiasm.train.config import RunConfig
from chiasm.train.run import RunResult

COMMAND = ("train", "captioner")


@pytest.fixture
def settled(monkeypatch, tmp_path, ask):
    """A function that runs the command up to where training would start; returns the settings it would train with."""
    seen = []

    def train(settings, folder, *, resume, trackers):
        seen.append((settings, folder, resume, trackers))
        return RunResult(folder, 0, False, [])

    def settled(*words):
        monkeypatch.setattr(run_module, "train", train)
        code, _, err = ask(*COMMAND, *words, "--out", tmp_path / "run")
        assert code == 130, err
        return seen[-1]

    return settled


def test_the_end_of_a_run_says_what_to_do_next(ask, tmp_path):
    settings = ("train.steps=1", "train.precision=fp32", "model.vision.depth=1", "model.decoder.depth=1")
    lesson = ("shapes", "--difficulty", "lesson", "--samples", "20", "--preset", "tiny")
    code, out, err = ask(*COMMAND, *lesson, "--out", tmp_path / "a run", "--set", *settings)
    assert (code, err) == (0, "")
    assert "# Captioner trained on shapes-lesson" in out
    assert f"chiasm caption '{tmp_path / 'a run'}' PICTURE" in out
    for line in out.splitlines():
        name, _, path = line.partition(" ")
        if name in ("model", "captions", "pictures", "attention", "curves"):
            assert Path(path.strip()).exists(), line
    assert "gallery-test.png" in out
    code, _, err = ask(*COMMAND, *lesson, "--out", tmp_path / "a run")
    assert (code, "holds a run already" in err, "--resume" in err) == (2, True, True)


def test_options_become_settings(settled):
    settings, _, resume, trackers = settled(
        *("shapes", "--preset", "tiny", "--epochs", "3", "--difficulty", "hard", "--samples", "50", "--seed", "4"),
        *("--augment", "none", "--image-column", "picture", "--text-column", "words", "--max-broken-share", "0.2"),
        *("--track", "tensorboard", "wandb"),
    )
    assert (settings.data.path, settings.data.image_column, settings.data.text_column) == ("shapes", "picture", "words")
    assert (settings.data.max_broken_share, settings.data.shapes.difficulty) == (0.2, "hard")
    assert settings.data.shapes.samples == 50
    assert (settings.train.epochs, settings.train.seed, settings.train.augment) == (3.0, 4, None)
    assert settings.model.vision.width == 128
    assert (resume, trackers) == (False, ("tensorboard", "wandb"))


def test_defaults_suit_photos(settled):
    settings, *_ = settled("shapes")
    assert (settings.train.epochs, settings.train.minutes, settings.train.seed) == (None, None, 0)
    assert settings.model.vision.width == 192
    light, strong = (settled("shapes", "--augment", name)[0].train.augment for name in ("light", "strong"))
    assert settings.train.augment == light != strong


def test_options_win_over_a_file_and_set_over_both(settled, tmp_path):
    file = tmp_path / "settings.yaml"
    train = {"epochs": 5, "minutes": 2, "batch_size": 7, "weight_decay": 0.3, "augment": None, "seed": 3}
    data = {"path": "emoji", "max_broken_share": 0.5}
    file.write_text(yaml.safe_dump({"train": train, "data": data, "model": {"vision": {"size": [32, 48]}}}))
    settings, *_ = settled("shapes", "--epochs", "9", "--config", file, "--set", "train.batch_size=8")
    assert (settings.train.epochs, settings.train.batch_size, settings.train.weight_decay) == (9.0, 8, 0.3)
    assert settings.train.minutes is None  # so many epochs were asked for
    assert settings.model.vision.size == settings.preprocess.size == (32, 48)
    assert (settings.data.path, settings.data.max_broken_share, settings.train.seed) == ("shapes", 0.5, 3)
    assert settings.train.augment is None
    settings, *_ = settled("--config", file, "--minutes", "4", "--augment", "light", "--seed", "0")
    assert (settings.data.path, settings.train.minutes, settings.train.seed) == ("emoji", 4.0, 0)
    assert settings.train.augment is not None


def test_the_settings_of_a_run_are_a_config_file(settled, run):
    settings, *_ = settled("--config", run / "config.json")
    assert settings == configs.load(RunConfig, run / "config.json")


def test_set_accepts_another_kind_of_a_union(settled):
    settings, *_ = settled("shapes", "--set", 'model.vision={"kind": "ConvConfig", "widths": [16, 32]}')
    assert type(settings.model.vision).__name__ == "ConvConfig"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("shapes --preset huge", "no captioner preset 'huge'\n  Presets: tiny, small, base."),
        ("shapes --set model.vision.widht=3", "Unknown setting 'model.vision.widht'\n  Did you mean 'width'?"),
        ("shapes --set model.vision.width=wide", "model.vision.width is 'wide'"),
        ("shapes --set model.vision.width=190", "width 190 is not a multiple of"),
        ("shapes --set train.steps", "--set 'train.steps' has no value"),
        ("shapes --set train.precision=fp64", "fp32, bf16"),
        ("shapes --epochs 0", "epochs is 0.0, it must be above 0"),
        ("shapes --minutes 0", "minutes is 0.0, it must be above 0"),
        ("shapes --seed -1", "seed is -1, it must not be negative"),
        ("shapes --set train.patience=0", "patience is 0"),
        ("shapes --samples 3", "samples is 3"),
        ("shapes --track clipboard", "no tracker 'clipboard'"),
        ("nowhere", "nowhere"),
        ("", "No data was named"),
        ("--resume", "config.json"),
    ],
)
def test_mistakes_are_found_before_training(words, told, ask, tmp_path):
    code, out, err = ask(*COMMAND, *words.split(), "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_mistyped_setting_does_not_wait_for_lightning(ask, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "chiasm.train.run", None)  # importing it would fail
    assert ask(*COMMAND, "shapes", "--out", tmp_path, "--set", "train.stps=3")[0] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {epochs: 5", "is not YAML: "),
        ("- a\n- b", "holds no settings"),
        ("train: {epoch: 5}", "Did you mean 'epochs'?"),
        ("train: {epochs: many}", "train.epochs is 'many'"),
    ],
)
def test_flawed_files_are_named(text, told, ask, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    code, _, err = ask(*COMMAND, "shapes", "--out", tmp_path / "run", "--config", file)
    assert (code, told in err) == (2, True), err
    if "YAML" in told or "holds" in told:
        assert str(file) in err


def test_a_missing_or_binary_file_is_named(ask, tmp_path):
    code, _, err = ask(*COMMAND, "shapes", "--out", tmp_path / "run", "--config", tmp_path / "none.yaml")
    assert (code, f"{tmp_path / 'none.yaml'} cannot be read" in err) == (2, True)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    code, _, err = ask(*COMMAND, "shapes", "--out", tmp_path / "run", "--config", tmp_path / "binary.yaml")
    assert (code, "is not YAML" in err) == (2, True)


def test_a_folder_that_cannot_be_made(ask, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = ask(*COMMAND, "shapes", "--out", tmp_path / "file" / "run")
    assert (code, "cannot be made" in err) == (2, True)


def test_settings_of_files_are_plain(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"train": {"epochs": 5}}))
    assert train.read_settings(file) == {"train": {"epochs": 5}}


def test_a_fusion_moves_the_depth_of_preset_and_file_and_set_has_the_last_word(settled, tmp_path):
    settings, *_ = settled("shapes", "--preset", "tiny", "--fusion", "early")
    assert (settings.model.fusion, settings.model.vision.depth, settings.model.decoder.depth) == ("early", 0, 4)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"model": {"vision": {"kind": "ConvConfig", "widths": [16]}}}))
    settings, *_ = settled("shapes", "--config", file, "--fusion", "perceiver", "--set", "model.latents=7")
    assert (settings.model.fusion, settings.model.latents, settings.model.vision.widths) == ("perceiver", 7, (16,))
    file.write_text(yaml.safe_dump({"model": {"fusion": "late"}}))
    assert settled("shapes", "--config", file)[0].model.fusion == "late"
