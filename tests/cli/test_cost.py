"""`chiasm cost`: its figures are those of the model that training would build."""

import re
from importlib import import_module
from itertools import pairwise

import pytest
from PIL import Image

from chiasm.models import build_model
from chiasm.models.presets import captioner_preset
from chiasm.train.config import DataConfig, RunConfig


def figures(out):
    return {line[:20].strip(): line[20:] for line in out.splitlines()}


@pytest.fixture
def ask(ask):
    """`ask` with a short calibration."""

    def quickly(verb, *words):
        return ask(verb, *words, "--seconds", "0.05")

    return quickly


@pytest.fixture
def timed(ask, monkeypatch):
    """`ask` where memory is not looked at: following that of a step takes seconds."""
    monkeypatch.setattr("chiasm.cli.cost._memory", lambda *_: [])
    return ask


@pytest.fixture
def counted(timed, monkeypatch):
    """`ask` for what is only counted: timing a step takes seconds, too."""
    monkeypatch.setattr("chiasm.cli.cost._time", lambda *_: [])
    return timed


def columns(text):
    return re.split(r" {2,}", text.strip())


@pytest.mark.slow
def test_figures_of_a_preset(ask):
    code, out, err = ask(
        "cost", "captioner", "tiny", "--vocabulary", "50", "--batch-size", "4", "--pictures", "400", "--epochs", "2"
    )
    assert (code, err) == (0, "")
    told = figures(out)
    model = build_model(RunConfig(data=DataConfig(path=""), model=captioner_preset("tiny")).completed(50).model)
    assert told["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert columns(told["forward, one row"])[1] == "of 32 x 32 pixels and 12 tokens"
    assert columns(told["training step"])[1] == "4 rows, forward and backward"
    assert columns(told[""]) == ["fp32", "bf16"]
    assert all(re.fullmatch(r"\d+ MiB", size) for size in columns(told["memory at the peak"])[:2])
    assert all(int(rows.replace(",", "")) > 100 for rows in columns(told["largest batch"])[:2])
    assert "free now" in told["largest batch"]
    seconds = [float(value.removesuffix(" s")) for value in columns(told["a step here"])[:2] if value != "-"]
    speeds = [float(value.replace(",", "")) for value in columns(told["pictures/s"])[:2] if value != "-"]
    assert speeds == pytest.approx([4 / s for s in seconds], rel=0.02, abs=1)
    assert columns(told["training"])[2] == "200 steps: 400 pictures x 2 epochs"
    assert all(len(line) <= 120 for line in out.splitlines())


def test_bf16_is_timed_only_where_it_can_be_faster(timed, monkeypatch):
    few = ("cost", "vit", "tiny", "--batch-size", "2")
    for worthwhile, measured in ((("fp32", "bf16"), True), (("fp32",), False)):
        monkeypatch.setattr("chiasm.cli.cost.worthwhile_precisions", lambda found=worthwhile: found)
        told = figures(timed(*few)[1])
        for row in ("a step here", "pictures/s", "training"):
            assert (columns(told[row])[1] != "-") == measured
        assert ("bf16 is slower on this processor" in told["pictures/s"]) != measured


def test_what_does_not_fit_here_is_not_measured(ask):
    huge = ("model.vision.width=65536", "model.vision.depth=2", "model.vision.heads=32")
    code, out, err = ask("cost", "vit", "tiny", "--batch-size", "1", "--set", *huge)
    assert (code, err) == (0, "")
    assert figures(out)["largest batch"].startswith("none")
    assert "not measured: Weights, gradients, moments and average take" in figures(out)["a step here"]


def test_minutes_are_those_of_all_steps(timed):
    told = figures(timed("cost", "vit", "tiny", "--batch-size", "2", "--pictures", "20000", "--epochs", "10")[1])
    seconds = float(columns(told["a step here"])[0].removesuffix(" s"))
    value, unit = columns(told["training"])[0].split()
    assert float(value) * {"minutes": 60, "hours": 3600, "days": 86_400}[unit] == pytest.approx(1e5 * seconds, rel=0.1)


def test_settings_change_the_figures(counted, tmp_path):
    (tmp_path / "deep.yaml").write_text("model: {vision: {depth: 3}}")
    few = ("cost", "captioner", "tiny", "--batch-size", "2")
    plain, deeper, deepest = (
        int(figures(counted(*few, *more)[1])["parameters"].replace(",", ""))
        for more in ((), ("--config", tmp_path / "deep.yaml"), ("--set", "model.vision.depth=4"))
    )
    assert deepest - deeper == deeper - plain > 0


def test_the_optimizer_that_is_asked_for_is_the_one_whose_cost_is_told(ask, monkeypatch):
    monkeypatch.setattr("chiasm.cli.cost.largest_batch", lambda *_, **__: 1)
    few = ("cost", "fusion", "tiny", "--batch-size", "2", "--set")
    adamw, muon = (figures(ask(*few, f"train.optimizer={name}")[1]) for name in ("adamw", "muon"))
    assert "muon" in muon["a step here"] and "adamw" in adamw["a step here"]
    held = [told["memory at the peak"].split("of it ")[1].split()[0].replace(",", "") for told in (adamw, muon)]
    assert int(held[1]) < int(held[0])


def test_a_classifier_has_the_classes_that_are_said(counted):
    few = ("--batch-size", "2", "--vocabulary", "50")
    ten, twenty = (
        int(figures(counted("cost", "fusion", "tiny", *few, "--classes", classes)[1])["parameters"].replace(",", ""))
        for classes in (10, 20)
    )
    assert twenty - ten == 10 * (128 + 1)
    code, out, err = counted("cost", "vit", "tiny", *few, "--text-tokens", "99")  # it reads none
    assert (code, err) == (0, "") and "tokens" not in out


@pytest.mark.parametrize(
    ("words", "row"),
    [
        ("lm tiny --batch-size 2", "12 tokens"),
        ("flamingo tiny --batch-size 2", "5 times 32 x 32 pixels and 12 tokens"),
        ("perceiver tiny --batch-size 2 --task mask", "of 12 tokens"),
        ("perceiver tiny --batch-size 2 --task reconstruct --inputs picture,sound", "32 x 32 pixels"),
    ],
)
def test_kinds_whose_rows_are_no_captioned_pictures(words, row, timed):
    code, out, err = timed("cost", *words.split())
    assert (code, err) == (0, "")
    assert row in figures(out)["forward, one row"]
    assert "steps: 10,000 " + ("texts" if "32 x" not in row else "pictures") in out


@pytest.mark.slow
def test_more_memory_makes_larger_batches(ask):
    few = ("cost", "vit", "tiny", "--batch-size", "2", "--memory-gib")
    one, two, none = (columns(figures(ask(*few, gib)[1])["largest batch"]) for gib in (1, 2, 0.01))
    rows = [int(told[0].replace(",", "")) for told in (one, two)]
    assert 1.9 < rows[1] / rows[0] < 2.3
    assert none[:3] == ["none", "none", "in 10 MiB given"]


@pytest.mark.slow
def test_how_each_fusion_grows_is_told_and_drawn(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("chiasm.cost.growth"), "TEXT_TOKENS", (8, 1024))  # it has a function's name
    drawn = tmp_path / "grow.png"
    code, out, err = counted("cost", "fusion", "tiny", "--batch-size", "2", "--grow", "--picture", drawn)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("pictures of ... pixels, texts of 12"))
    assert lines[start].split()[-4:] == ["late", "early", "cross", "perceiver"]
    table = [[float(value.replace(",", "")) for value in line.split()] for line in lines[start + 1 : start + 6]]
    assert [row[0] for row in table] == [16, 32, 64, 128, 256]
    assert all(later > before for a, b in pairwise(table) for before, later in zip(a, b, strict=True))
    assert str(drawn) in lines[-1]
    with Image.open(drawn) as picture:
        assert picture.width > 800


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("captioner huge", "no captioner preset 'huge'"),
        ("captioner tiny --batch-size 0", "--batch-size is 0"),
        ("captioner tiny --text-tokens 1", "--text-tokens is 1"),
        ("captioner tiny --set model.vision.width=13", "width 13 is not a multiple of heads 4"),
        ("captioner tiny --classes 0", "--classes is 0"),
        ("captioner tiny --memory-gib 0", "--memory-gib is 0"),
        ("captioner tiny --text-tokens 33", "at most 32: the model's context is 32"),
        ("flamingo tiny --text-tokens 64", "at most 63: the model's context is 64"),
        ("captioner tiny --task mask", "Only a perceiver has --task"),
        ("vit tiny --grow", "has no fusions to compare"),
        ("clip tiny --set train.tune=lora", "train.tune is lora"),
    ],
)
def test_models_that_cannot_be(words, told, ask):
    code, out, err = ask("cost", *words.split())
    assert (code, out) == (2, "")
    assert told in err
