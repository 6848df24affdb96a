"""Arms as people type them become settings; what is no arm is told."""

import json

import pytest

from chiasm.cli.arms import arms_from
from chiasm.cli.settings import apply_settings, asked, fused, start_settings
from chiasm.errors import UserError
from chiasm.models import CaptionerConfig, ClipConfig, FusionClassifierConfig, PictureClassifierConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.vision import ConvConfig

FUSIONS = "late", "early", "cross", "perceiver"
KINDS = LateConfig, EarlyConfig, CrossConfig, PerceiverFusionConfig


def settings_of(task, *specs, **options):
    return {arm.name: arm.settings for arm in arms_from(task, specs, **options)}


def complaint(task, *specs, **options):
    with pytest.raises(UserError) as caught:
        arms_from(task, specs, **options)
    assert caught.value.hint
    return caught.value


def test_captioners_of_all_fusions_are_those_that_train_would_make():
    made = settings_of("caption", preset="tiny")
    assert list(made) == list(FUSIONS)
    for fusion, settings in made.items():
        assert settings == apply_settings(fused(start_settings("captioner", "tiny"), fusion), ())
        assert isinstance(settings.model, CaptionerConfig) and settings.model.fusion == fusion
    assert made["early"].model.vision.depth == 0 < made["late"].model.vision.depth


@pytest.mark.parametrize(("task", "name"), [("match", "match"), ("answer", "answer"), ("classify", "label")])
def test_classifiers_of_named_fusions_are_asked_the_task(task, name):
    made = settings_of(task, *FUSIONS, preset="tiny")
    for (fusion, settings), kind in zip(made.items(), KINDS, strict=True):
        start = fused(start_settings("fusion", "tiny", fusion=fusion), fusion)
        assert settings == apply_settings(asked(start, name, None, None), ())
        assert isinstance(settings.model.fusion, kind) and settings.data.task.name == name


def test_without_a_fusion_pictures_are_classified_and_pairs_are_retrieved():
    specs = "cls=model.vision.pool=cls", "mean=model.vision.pool=mean"
    for task, kind in (("classify", PictureClassifierConfig), ("retrieve", ClipConfig)):
        made = settings_of(task, *specs)
        assert all(isinstance(settings.model, kind) for settings in made.values())
        assert [settings.model.vision.pool for settings in made.values()] == ["cls", "mean"]
    made = settings_of("classify", "late", "picture=model.vision.depth=2")
    assert [type(s.model) for s in made.values()] == [FusionClassifierConfig, PictureClassifierConfig]


def test_an_arm_s_changes_may_start_from_a_fusion_and_hold_lists_and_none():
    made = settings_of(
        "caption",
        "small=early,model.vision.size=[32,32],model.vision.patch_pixels=4,model.decoder.depth=3",
        "none=model.vision.pool=none",
    )
    small = made["small"]
    assert small.model.fusion == "early" and small.model.decoder.depth == 3
    assert small.model.vision.size == (32, 32) == small.preprocess.size and small.model.vision.patch_pixels == 4
    assert made["none"].model.vision.pool == "none" and made["none"].model.fusion == "cross"


def test_what_is_said_later_wins(tmp_path):
    (tmp_path / "all.yaml").write_text("train: {epochs: 1, batch_size: 1, warmup: 0.1, weight_decay: 0.5, minutes: 5}")
    (tmp_path / "own.json").write_text(json.dumps({"train": {"warmup": 0.2, "batch_size": 2}, "data": {"path": "no"}}))
    made = settings_of(
        "match",
        f"a={tmp_path}/own.json",
        f"b={tmp_path}/own.json,train.learning_rate=0.5",
        "late",
        config=tmp_path / "all.yaml",
        data={"path": "emoji", "image_column": None, "shapes": {"difficulty": None, "samples": 90}},
        epochs=4.0,
        negatives="text",
        set=("train.batch_size=64", "train.learning_rate=0.1"),
    )
    for settings in made.values():
        assert (settings.train.epochs, settings.train.minutes, settings.train.weight_decay) == (4, None, 0.5)
        assert settings.train.batch_size == 64
        assert (settings.data.path, settings.data.shapes.samples, settings.data.task.negatives) == ("emoji", 90, "text")
    assert [s.train.warmup for s in made.values()] == [0.2, 0.2, 0.1]
    assert [s.train.learning_rate for s in made.values()] == [0.1, 0.5, 0.1]


def test_a_file_may_bring_another_kind_of_encoder(tmp_path):
    (tmp_path / "cnn.yml").write_text("model: {vision: {kind: ConvConfig, size: [16, 16], pool: mean}}")
    made = settings_of("classify", f"cnn={tmp_path}/cnn.yml", "vit=model.vision.pool=cls")
    assert isinstance(made["cnn"].model.vision, ConvConfig) and made["cnn"].preprocess.size == (16, 16)


@pytest.mark.parametrize(
    ("task", "specs", "told"),
    [
        ("caption", ["lat", "early"], "There is no fusion 'lat'"),
        ("caption", ["late", "late"], "Two arms are called late"),
        ("caption", ["late"], "There is nothing to compare late with"),
        ("caption", ["=late", "early"], "'' cannot be its name"),
        ("caption", ["../x=late", "early"], "'../x' cannot be its name"),
        ("caption", ["x=", "early"], "'' is neither a fusion, nor a file, nor PATH=VALUE"),
        ("caption", ["x=lat", "early"], "'lat' is neither a fusion"),
        ("caption", ["x=nowhere.yaml", "early"], "Arm x: nowhere.yaml cannot be read"),
        ("caption", ["x=late,model.vision.dept=3", "early"], "Arm x: Unknown setting 'model.vision.dept'"),
        ("match", ["early", "x=model.vision.pool=cls"], "Arm x: model: this fusion reads tokens"),
        ("retrieve", ["late", "early"], "Arm late: retrieve compares dual encoders"),
        ("retrieve", ["a=model.embed_dim=8", "x=late"], "Arm x: retrieve compares dual encoders"),
        ("classify", [], "No arms were named"),
        ("retrieve", [], "No arms were named"),
    ],
)
def test_what_is_no_arm_is_told(task, specs, told):
    assert told in complaint(task, *specs).message


def test_settings_for_all_that_fit_one_fusion_only_are_told(tmp_path):
    (tmp_path / "all.yaml").write_text("model: {fusion: {kind: EarlyConfig, depth: 3}}")
    error = complaint("match", config=tmp_path / "all.yaml")
    assert error.message == "Arm late: the settings for all arms do not fit fusion late"
    (tmp_path / "all.yaml").write_text("model: {fusion: early}")
    assert "do not fit fusion late" in complaint("caption", config=tmp_path / "all.yaml").message
    assert "no captioner preset 'huge'" in complaint("caption", preset="huge").message
