"""A classifier learns through the command line: which captions belong to the lesson's pictures."""

import json

import pytest

from chiasm import cli

pytestmark = pytest.mark.slow


def test_it_tells_right_captions_from_wrong_ones_and_only_with_the_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    data = ("shapes", "--difficulty", "lesson", "--samples", "400")
    settings = ["train.steps=150", "train.batch_size=64", "train.learning_rate=0.002", "train.precision=fp32"]
    settings += ["train.ema_decay=0.9", "train.label_smoothing=0", "train.validate_every_epochs=5"]
    settings += ["model.vision.width=64", "model.text.width=64", "model.fusion.width=64", "model.fusion.depth=2"]
    task = ("--task", "match", "--fusion", "early", "--preset", "tiny", "--augment", "none")
    assert cli.main(["train", "fusion", *data, *task, "--out", str(run), "--set", *settings]) == 0
    told = json.loads((run / "evaluation.json").read_text())["test"]["scores"]
    assert told["accuracy"]["value"] > 0.7
    assert told["shuffled_drop"]["value"] > 0.15
    assert told["baseline"]["value"] == pytest.approx(0.5, abs=0.05)
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), *data, "--split", "test"]) == 0  # the task is known from the bundle
    assert f"{told['accuracy']['value']:.3f}" in capsys.readouterr().out
