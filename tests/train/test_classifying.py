"""A classifier's run: what it leaves, that kills change nothing, what its data must have."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from chiasm.data.shapes import ShapesConfig
from chiasm.data.source import Source
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import augment_for
from chiasm.errors import UserError
from chiasm.evaluate import drawings
from chiasm.models import FusionClassifierConfig, PictureClassifierConfig
from chiasm.models.fusion import CrossConfig
from chiasm.models.language import TextConfig
from chiasm.models.vision import VitConfig
from chiasm.predict import ClassifierPredictor, ClipPredictor
from chiasm.train import outcome, preparing
from chiasm.train.callbacks import read_metrics
from chiasm.train.config import DataConfig, RunConfig, TrainConfig
from chiasm.train.engine import Engine
from chiasm.train.preparing import prepared
from chiasm.train.run import Run, train
from chiasm.types import Example
from clip_files import write_clip

SIZES = {"width": 32, "depth": 1, "heads": 2}
VIT = VitConfig(size=(32, 32), **SIZES, dropout=0.1)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it."""


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than these runs."""
    for name in ("confusion_figure", "gallery_figure"):
        monkeypatch.setattr(drawings, name, lambda *_, **__: None)
    monkeypatch.setattr(outcome, "curves_figure", lambda *_, **__: None)


def fusion_settings(task="answer", *, path="shapes", inputs="both", samples=60, **training):
    """A run of six steps with everything random turned on."""
    settings = {"steps": 6, "batch_size": 16, "precision": "fp32", "ema_decay": 0.9, "augment": augment_for("strong")}
    settings |= {"validate_every_epochs": 0.34, "checkpoint_every_seconds": 0.0} | training
    shapes = ShapesConfig(difficulty="easy", samples=samples, questions_per_picture=2 * (task == "answer"))
    return RunConfig(
        data=DataConfig(path=str(path), shapes=shapes, task=TaskConfig(name=task)),
        model=FusionClassifierConfig(
            vision=VIT,
            text=TextConfig(**SIZES, causal=False, pool="mean", dropout=0.1),
            fusion=CrossConfig(**SIZES),
            inputs=inputs,
        ),
        train=TrainConfig(**settings),
    )


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder of pictures by class, with a label of the test split that training does not know."""
    folder = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for split, classes in (("train", ("cat", "dog")), ("val", ("cat", "dog")), ("test", ("cat", "fox"))):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_a_run_leaves_all_that_was_promised(tmp_path, capfd):
    result = train(fusion_settings(), tmp_path / "run")
    assert (result.finished, result.step) == (True, 6)
    assert [r.split for r in result.results] == ["test", "test-combinations"]
    assert capfd.readouterr() == ("", "")
    wanted = {"metrics.csv", "curves.png", "config.json", "card.md", "samples.jsonl", "answers.jsonl"}
    wanted |= {"evaluation.json", "gallery-test.png", "confusion-test.png", "classes-test.csv"}
    wanted |= {f"bundle/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "card.md")}
    files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert wanted <= files, wanted - files
    predictor = ClassifierPredictor.load(tmp_path / "run")
    assert predictor.bundle.task == TaskConfig(name="answer")
    assert {"yes", "no", "red"} <= set(predictor.classes)
    card = (tmp_path / "run/card.md").read_text()
    for told in ("# Classifier trained on", "would be chance", "accuracy", "baseline", "shuffled_drop"):
        assert told in card, told


def test_metrics_and_samples_tell_how_it_goes(tmp_path, no_figures):
    config = fusion_settings()
    train(config, tmp_path / "run")
    row = read_metrics(tmp_path / "run/metrics.csv")[-1]
    assert 0 <= row["accuracy"] <= 1 and row["class_loss"] > 0 and row["chance"] > 0 and row["val_loss"] > 0
    source = config.data.open()
    asked = {example.key: example for example in source.split("val")}
    classes = {example.label for example in source.split("train")}
    for line in (tmp_path / "run/samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        example = asked[sample["key"]]
        assert sample["text"] == f"{example.texts[0]} ({example.label})" and sample["said"] in classes


@pytest.mark.parametrize("accumulate", [1, 2])
def test_killed_and_resumed_ends_the_same_to_the_bit(accumulate, tmp_path, no_figures, monkeypatch):
    config = fusion_settings("match", accumulate=accumulate)
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
    for file in ("bundle/model.safetensors", "bundle/config.json", "samples.jsonl", "answers.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes(), file


def test_a_class_folder_trains_a_vit_and_its_unknown_labels_are_told(shelf, tmp_path, no_figures):
    fusion = fusion_settings()
    config = dataclasses.replace(
        fusion,
        data=DataConfig(path=str(shelf), task=TaskConfig(name="label")),
        model=PictureClassifierConfig(vision=dataclasses.replace(VIT, pool="mean")),
    )
    (result,) = train(config, tmp_path / "run").results
    predictor = ClassifierPredictor.load(tmp_path / "run")
    assert predictor.classes == ("cat", "dog") and not (tmp_path / "run/bundle/tokenizer.json").exists()
    assert result.scores["unknown_labels"].value == 0.5 and result.pictures == 12
    assert {told.label for told in result.told} == {"cat", "fox"}
    assert {told.answer for told in result.told} <= {"cat", "dog"}
    assert "unknown_labels" in (tmp_path / "run/card.md").read_text()


@pytest.mark.parametrize("inputs", ["picture", "text"])
def test_baselines_of_one_modality_train(inputs, tmp_path, no_figures):
    result = train(fusion_settings(inputs=inputs, steps=2), tmp_path / "run")
    scores = result.results[0].scores
    assert ("shuffled_drop" in scores) == (inputs == "picture")
    assert (tmp_path / "run/bundle/tokenizer.json").exists() == (inputs == "text")


def test_a_classifier_without_a_task_is_refused_at_once(tmp_path):
    config = fusion_settings()
    with pytest.raises(UserError, match="needs a task"):
        Run(dataclasses.replace(config, data=dataclasses.replace(config.data, task=None)), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def source_of(labels):
    examples = [Example(image=b"", texts=(f"text {i}",), key=str(i), label=label) for i, label in enumerate(labels)]
    splits = {"train": np.arange(len(labels)), "val": np.arange(0)}
    return Source(name="mine", examples=examples, splits=splits, understood="a table of words", fingerprint="f")


@pytest.mark.parametrize(
    ("task", "labels", "told"),
    [
        ("answer", ["", ""], "for the task 'answer': none among 2 training examples (a table of words)"),
        ("label", ["cat", "cat", ""], "for the task 'label': only 'cat' among 3 training examples"),
    ],
)
def test_data_with_nothing_to_tell_apart_are_refused(task, labels, told):
    with pytest.raises(UserError) as error:
        prepared(source_of(labels), TaskConfig(name=task))
    assert told in error.value.message
    assert ("question and answer" if task == "answer" else "column label") in error.value.hint
    assert prepared(source_of(["a", "b"]), TaskConfig(name=task)).splits


@pytest.mark.parametrize("negatives", ["nearest", "clip:", ""])
def test_negatives_that_cannot_be(negatives):
    with pytest.raises(ValueError, match="it must be random, text, or clip:FOLDER"):
        TaskConfig(name="match", negatives=negatives)


def test_wrong_captions_by_a_clip_go_by_its_vectors(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip")
    seen = {}

    def matching_source(source, negatives):
        examples = source.split("val")
        broken = Example(image=b"junk", texts=("a",), key="broken")
        seen["found"] = negatives([*examples, broken], ["a red circle", "a circle"])
        seen["images"] = [example.image for example in examples]
        return source

    monkeypatch.setattr(preparing, "matching_source", matching_source)
    data = DataConfig(path=str(write_captions(tmp_path)), task=TaskConfig(name="match", negatives=f"clip:{clip}"))
    with pytest.raises(UserError, match="too few different answers"):  # the pairs were not made
        data.open()
    images, texts = seen["found"]
    predictor = ClipPredictor.load(clip)
    assert images[:-1] == pytest.approx(predictor.embed_images(seen["images"]), abs=1e-6)
    assert (images[-1] == 0).all()
    assert texts == pytest.approx(predictor.embed_texts(["a red circle", "a circle"]), abs=1e-6)


def test_matching_by_words_by_a_clip_and_at_random_are_different_data(tmp_path):
    clip, folder = write_clip(tmp_path / "clip"), write_captions(tmp_path)
    kinds = ("random", "text", f"clip:{clip}")
    sources = [DataConfig(path=str(folder), task=TaskConfig(name="match", negatives=kind)).open() for kind in kinds]
    assert len({source.fingerprint for source in sources}) == 3
    for source in sources:
        assert {example.label for example in source.split("train")} == {"yes", "no"}
    with pytest.raises(UserError, match="There is no"):
        DataConfig(path=str(folder), task=TaskConfig(name="match", negatives="clip:nowhere")).open()


def write_captions(folder):
    """Sixty pictures of noise, each with three words of its own."""
    random, lines = np.random.default_rng(0), ["image,caption"]
    for i in range(60):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{'abcdefghij'[i % 10]} {'klmnop'[i % 6]} {'qrstuvwxyz'[i // 6]}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def test_class_names_as_texts_are_no_question(tmp_path):
    for number in range(24):
        path = tmp_path / "data" / ("cat", "hot_dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 10 * number, np.uint8)).save(path)
    with pytest.raises(UserError, match="the answer would be read"):
        Run(fusion_settings("label", path=tmp_path / "data"), tmp_path / "leaky")
    assert Run(fusion_settings("label", path=tmp_path / "data", inputs="picture"), tmp_path / "blind").tokenizer is None
