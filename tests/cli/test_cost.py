"""`chiasm cost`: its figures are those of the model that training would build."""

import re

import pytest

from chiasm.models import build_model
from chiasm.models.presets import captioner_preset
from chiasm.train.config import DataConfig, RunConfig


def figures(out):
    return {line[:22].strip(): line[22:] for line in out.splitlines()}


def test_figures_of_a_preset(ask):
    code, out, err = ask(
        "cost", "captioner", "tiny", "--vocabulary", "50", "--batch-size", "4", "--pictures", "400", "--epochs", "2"
    )
    assert (code, err) == (0, "")
    told = figures(out)
    model = build_model(RunConfig(data=DataConfig(path=""), model=captioner_preset("tiny")).completed(50).model)
    assert told["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert re.fullmatch(r"[\d.]+ GFLOP", told["forward, one picture"])
    assert "(4 pictures)" in told["training step"]
    assert "MiB" in told["memory"]
    assert "pictures/s" in told["fp32 step here"]
    assert "minutes for 400 pictures x 2 epochs (200 steps)" in told["training"]


def test_settings_change_the_figures(ask, tmp_path):
    (tmp_path / "deep.yaml").write_text("model: {vision: {depth: 3}}")
    few = ("cost", "captioner", "tiny", "--batch-size", "2")
    plain, deeper, deepest = (
        int(figures(ask(*few, *more)[1])["parameters"].replace(",", ""))
        for more in ((), ("--config", tmp_path / "deep.yaml"), ("--set", "model.vision.depth=4"))
    )
    assert deepest - deeper == deeper - plain > 0


def test_a_classifier_has_the_classes_that_are_said(ask):
    few = ("--batch-size", "2", "--vocabulary", "50")
    ten, twenty = (
        int(figures(ask("cost", "fusion", "tiny", *few, "--classes", classes)[1])["parameters"].replace(",", ""))
        for classes in (10, 20)
    )
    assert twenty - ten == 10 * (128 + 1)
    told = [figures(ask("cost", "fusion", "tiny", *few, "--fusion", name)[1]) for name in ("late", "early")]
    assert told[0]["parameters"] != told[1]["parameters"]
    code, out, err = ask("cost", "vit", "tiny", *few, "--text-tokens", "99")  # it reads none
    assert (code, err) == (0, "") and "GFLOP" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("huge", "no captioner preset 'huge'"),
        ("tiny --batch-size 0", "--batch-size is 0"),
        ("tiny --text-tokens 1", "--text-tokens is 1"),
        ("tiny --set model.vision.width=13", "width 13 is not a multiple of heads 4"),
        ("tiny --classes 0", "--classes is 0"),
        ("tiny --text-tokens 33", "--text-tokens is 33"),
    ],
)
def test_models_that_cannot_be(words, told, ask):
    code, out, err = ask("cost", "captioner", *words.split())
    assert (code, out) == (2, "")
    assert told in err
