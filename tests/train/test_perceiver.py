"""Runs of Perceivers on real files: three senses at once, gaps of texts, what is hidden of pictures."""

import json
from pathlib import Path

import pytest
import three_senses
from three_senses import scores, write_senses

from chiasm import cli
from chiasm.errors import UserError
from chiasm.evaluate import evaluate
from chiasm.predict import ClassifierPredictor, MaskedPredictor, ReconstructionPredictor, load

TINY = ("--set", "model.latents.width=32", "--set", "model.latents.depth=1", "--set", "model.latents.latents=8")
QUICK = ("--augment", "none", "--set", "train.precision=fp32", "--set", "train.batch_size=16")


def train(out, *arguments, steps):
    argv = ["train", "perceiver", *map(str, arguments), "--preset", "tiny", *QUICK, "--out", str(out),
            "--set", f"train.steps={steps}"]  # fmt: skip
    assert cli.main(argv) == 0


@pytest.mark.slow
def test_a_label_that_takes_three_senses_is_learnt_and_lost_without_any_one(tmp_path, capsys):
    table = write_senses(tmp_path, 1200)
    config = str(Path(three_senses.__file__).with_name("three-senses.yaml"))
    argv = ["train", "perceiver", str(table), "--config", config, "--inputs", "picture,text,sound",
            "--out", str(tmp_path / "run"), "--set", "train.steps=450"]  # fmt: skip
    assert cli.main(argv) == 0
    found = scores(tmp_path / "run", table)
    assert found.pop("without nothing") >= 0.95
    assert set(found) == {"without picture", "without text", "without sound"}
    assert all(abs(accuracy - 0.5) < 3 * 0.5 / 240**0.5 for accuracy in found.values()), found
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]["scores"]
    assert told["accuracy"]["value"] >= 0.95


def test_gaps_of_texts(tmp_path, capsys):
    train(tmp_path / "run", "shapes", "--task", "mask", "--samples", 200, "--difficulty", "lesson", *TINY, steps=60)
    predictor = load(tmp_path / "run")
    assert isinstance(predictor, MaskedPredictor) and predictor.preprocess.size == (0, 0)
    (guesses,) = predictor.fill("a red ___ on white background", 3)
    assert len(guesses) == 3 and guesses[0].probability >= guesses[1].probability > 0
    assert len(predictor.fill("a ___ ___ on white background")) == 2
    told = [json.loads(line) for line in (tmp_path / "run" / "gaps.jsonl").read_text().splitlines()]
    assert all(len(row["right"]) == len(row["filled"]) == row["text"].count("___") >= 1 for row in told)
    assert "gap_accuracy" in (tmp_path / "run" / "card.md").read_text()
    with pytest.raises(UserError, match="no gap"):
        predictor.fill("a red circle")
    with pytest.raises(UserError, match="more than the model's"):
        predictor.fill("___ " * 80)


def test_what_is_hidden_of_pictures_and_texts(tmp_path, capsys):
    train(tmp_path / "run", "shapes", "--task", "reconstruct", "--inputs", "picture,text", "--samples", 200,
          "--difficulty", "lesson", *TINY, steps=30)  # fmt: skip
    predictor = load(tmp_path / "run")
    assert isinstance(predictor, ReconstructionPredictor)
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (split,) = [name for name in told if name == "test"]
    assert set(told[split]["scores"]) == {
        "picture_explained", "text_explained", "picture_from_others", "text_from_others"
    }  # fmt: skip
    assert all(score["low"] <= score["value"] <= score["high"] <= 1 for score in told[split]["scores"].values())


def test_broken_sounds_are_left_out_listed_and_counted(tmp_path, capsys):
    table = write_senses(tmp_path, 60)
    sounds = sorted(tmp_path.rglob("*.wav"))
    for sound in sounds[:2]:
        sound.write_bytes(b"no sound")
    options = ["--inputs", "sound", *TINY, "--set", "model.inputs.sound.rate_hertz=4000"]
    options += ["model.inputs.sound.seconds=0.25", "model.inputs.sound.mels=16"]
    train(tmp_path / "run", table, *options, steps=3)
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all(json.loads(line)["reason"] for line in lines)
    assert "; 2 broken left out" in (tmp_path / "run" / "card.md").read_text()
    for sound in sounds[2:6]:
        sound.write_bytes(b"no sound")
    argv = ["train", "perceiver", str(table), "--preset", "tiny", *QUICK, *options, "--out", str(tmp_path / "more")]
    assert cli.main(argv) == 2
    assert "6 of the 60 sounds of" in capsys.readouterr().err


def test_sounds_alone(tmp_path, capsys):
    table = write_senses(tmp_path, 60)
    train(tmp_path / "run", table, "--inputs", "sound", *TINY, "--set", "model.inputs.sound.rate_hertz=4000",
          "--set", "model.inputs.sound.seconds=0.25", "--set", "model.inputs.sound.mels=16", steps=3)  # fmt: skip
    predictor = load(tmp_path / "run")
    assert isinstance(predictor, ClassifierPredictor) and predictor.model.config.inputs.named().keys() == {"sound"}
    with pytest.raises(UserError, match="hears sounds"):
        predictor.classify([tmp_path / "0.png"])
    from chiasm.data.layouts import open_source

    (found,) = evaluate(predictor, open_source(table, partial=True), ["test"])
    assert found.pictures == 12


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--task", "match"], "A perceiver has no task match"),
        (["--inputs", "smell"], "There is no input 'smell'"),
        (["--negatives", "text"], "no --negatives"),
        (["--task", "mask", "--inputs", "picture,text"], "--task mask reads texts alone, not picture,text"),
    ],
)
def test_what_a_perceiver_cannot_do_is_told(tmp_path, capsys, arguments, told):
    assert cli.main(["train", "perceiver", "shapes", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
