"""`chiasm train ...`: from data to a run's folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from chiasm import config as configs
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import augment_for
from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerConfig, CaptionerFusion, with_fusion
from chiasm.models.classifier import FusionClassifierConfig
from chiasm.models.clip import ClipConfig
from chiasm.models.coca import CocaConfig
from chiasm.models.lm import LanguageConfig
from chiasm.models.presets import captioner_preset, clip_preset, coca_preset, fusion_preset, lm_preset, vit_preset
from chiasm.train.config import DataConfig, RunConfig, TokenizerConfig
from chiasm.train.finetune import Tune

DRAWN = "gallery-*.png", "retrieval-*.png", "confusion-*.png", "calibration.png"
"""Pictures that a run leaves, but for the curves."""

TOLD = "captions.jsonl", "retrieval.jsonl", "told.jsonl", "answers.jsonl", "texts.jsonl"
"""What a model said of every example."""


def train(
    model: Literal["captioner", "clip", "coca", "fusion", "vit", "lm"],
    data: str = "",
    *,
    out: Path,
    preset: str = "small",
    fusion: CaptionerFusion | None = None,
    task: Literal["match", "answer", "label"] | None = None,
    negatives: str | None = None,
    inputs: Literal["both", "picture", "text"] | None = None,
    from_: str | None = None,
    vision: str | None = None,
    text: str | None = None,
    tune: Tune | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    augment: Literal["none", "light", "strong"] | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    max_broken_share: float | None = None,
    difficulty: Literal["lesson", "easy", "hard"] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    config: Path | None = None,
    set: tuple[str, ...] = (),
    track: tuple[str, ...] = (),
    resume: bool = False,
) -> int:
    """Train a model on pictures with texts.

    captioner: a picture encoder and a causal decoder, which writes captions. clip: a picture and a text encoder that
    meet in one space, for search and classification. coca: both in one model. fusion: a classifier of pictures with
    texts, which answers questions, says whether a caption belongs to a picture, or tells classes. vit: a classifier of
    pictures. lm: the decoder alone, on texts without pictures. The folder OUT then holds bundle/ (the model),
    metrics.csv, curves.png, evaluation.json, card.md, and what the model said of every test picture.

    Args:
        model: what to train
        data: a folder, a table (CSV, TSV, JSONL, JSON, Parquet), tar shards, a Hub id, or the built-in emoji or shapes;
            for an lm also a .txt file or a folder of them, a text per line
        out: the run's folder
        preset: sizes to start from: tiny, small or base of a captioner or lm; lesson, tiny, small, vit-b-32, vit-b-16
            or vit-l-14 of a clip; tiny or small of a coca or fusion; tiny, small, vit-s-16, vit-b-16 or vit-l-16 of a
            vit
        fusion: how a captioner reads pictures: cross (cross-attention, the preset's), early (the picture's tokens in
            front of the words), late (one token in front of them) or perceiver (cross-attention to latents); and where
            a fusion joins picture and text: cross (each reads the other in between), early (one sequence from the
            start), late (one vector each at the end) or perceiver (latents read both)
        task: of a fusion: match (is this the caption of this picture?), answer (a question's answer; of data with
            questions and answers, or of the built-in shapes), or label (the class)
        negatives: where wrong captions for match come from: random (the default), text (captions with similar words),
            or clip:FOLDER (those that a trained clip takes for right)
        inputs: what a fusion sees: both (the default), or picture or text alone, to know what it is worth without
        from_: a trained model to start from instead: the folder of a run or a bundle, or of published CLIP weights
        vision: a picture encoder to bring in, locked (model.vision.tune=true unlocks it): hf:FOLDER_OR_ID of
            transformers, or py:package.module:function of your own
        text: a text encoder to bring in, locked: hf:FOLDER_OR_ID
        tune: what learns: full (everything), projection (what joins the encoders), last (their last blocks too), or
            lora (low-rank terms of their weights)
        epochs: how often each picture is seen (30, or more for few pictures, where neither this nor --minutes is given)
        minutes: train for about this long instead
        augment: random changes to the pictures: light (the default) suits photos, strong suits icons and drawings
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        max_broken_share: stop where a greater share of the pictures than this (0.05) cannot be read
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
        seed: of everything random (0)
        config: a YAML or JSON file of settings, nested as a run's config.json; other options win over it
        set: any setting by its path, as model.vision.width=192 (see a run's config.json)
        track: also log to tensorboard or wandb
        resume: go on with the run in OUT where it stopped
    """
    if resume:
        settings = configs.load(RunConfig, out / "config.json")
    else:
        settings = start_settings(model, preset, from_, vision, text, fusion)
        if config is not None:
            settings = configs.merge(settings, read_settings(config))
        settings = asked(fused(settings, fusion), task, negatives, inputs)
        named = {
            "train": {"epochs": epochs, "minutes": minutes, "seed": seed, "tune": tune},
            "data": {
                "path": data or None,
                "image_column": image_column,
                "text_column": text_column,
                "max_broken_share": max_broken_share,
                "shapes": {"difficulty": difficulty, "samples": samples},
            },
        }
        settings = configs.merge(settings, _given(named))
        if epochs is not None and minutes is None:  # what is asked for here is meant, not the file's time
            settings = replace(settings, train=replace(settings.train, minutes=None))
        if augment is not None:
            changes = None if augment == "none" else augment_for(augment)
            settings = replace(settings, train=replace(settings.train, augment=changes))
        settings = apply_settings(settings, set)
        if not settings.data.path:
            raise UserError("No data was named", f"chiasm train {model} DATA --out FOLDER (try: emoji, or shapes)")
    from chiasm.train import run  # Lightning takes seconds: a mistyped setting should not wait for it

    result = run.train(settings, out, resume=resume, trackers=track)
    if not result.finished:
        print(f"stopped at step {result.step}; to go on, type:\n  {_again(model, out, track)}", file=sys.stderr)
        return 130
    print((out / "card.md").read_text(encoding="utf-8"))
    print(_where_to_look(settings, out))
    return 0


def start_settings(
    model: str,
    preset: str,
    source: str | None = None,
    vision: str | None = None,
    text: str | None = None,
    fusion: CaptionerFusion | None = None,
) -> RunConfig:
    """A run's settings before anything else is said: the preset's sizes, what suits the kind of model, and weights."""
    presets = {
        "captioner": captioner_preset,
        "clip": clip_preset,
        "coca": coca_preset,
        "fusion": lambda name: fusion_preset(name, fusion or "cross"),
        "vit": vit_preset,
        "lm": lm_preset,
    }
    settings = RunConfig(data=DataConfig(path=""), model=presets[model](preset))
    if model == "vit":
        settings = replace(settings, data=replace(settings.data, task=TaskConfig(name="label")))
    if model in ("clip", "coca", "fusion"):
        words = TokenizerConfig(units="bpe", vocab_size=4096)  # people search with words that no caption had
        settings = replace(settings, tokenizer=words)
    if source is None and vision is None and text is None:
        return settings
    from chiasm.train.start import started_from, with_brought

    if source is not None and (vision is not None or text is not None):
        raise UserError("--from brings its own encoders", "Leave out --vision and --text, or --from.")
    return started_from(settings, source) if source is not None else with_brought(settings, vision, text)


def fused(settings: RunConfig, fusion: CaptionerFusion | None) -> RunConfig:
    """The settings with the fusion that was asked for, at the same depth; UserError where there is nothing to fuse."""
    if fusion is None or isinstance(settings.model, FusionClassifierConfig):  # whose depths go by its fusion
        return settings
    if not isinstance(settings.model, CaptionerConfig):
        raise UserError("Only a captioner or a fusion has a --fusion", "chiasm train captioner ... --fusion early")
    try:
        return replace(settings, model=with_fusion(settings.model, fusion))
    except ValueError as error:
        raise UserError(f"--fusion {fusion}: {error}", "Start from a captioner with cross.") from error


def asked(settings: RunConfig, task: str | None, negatives: str | None, inputs: str | None) -> RunConfig:
    """The settings with what a classifier is asked and sees; UserError for a model that has no such choice."""
    if isinstance(settings.model, FusionClassifierConfig):
        if task is None and settings.data.task is None:
            raise UserError("A fusion needs a task", "Say what is asked: --task match, answer or label.")
        changes = {"task": _given({"name": task, "negatives": negatives}) or None}
        return configs.merge(settings, _given({"data": changes, "model": {"inputs": inputs}}))
    for option, value in (("task", task), ("negatives", negatives), ("inputs", inputs)):
        if value is not None:
            raise UserError(f"Only a fusion has --{option}", f"chiasm train fusion ... --{option} {value}")
    return settings


def _where_to_look(settings: RunConfig, out: Path) -> str:
    """The files of a finished run that people want to see, and what to type next."""
    run = shlex.quote(str(out))
    following = []
    if isinstance(settings.model, (CaptionerConfig, CocaConfig)):
        following += [
            f"chiasm caption {run} PICTURE --attention where.png",
            f"chiasm caption {run} FOLDER --mode beam --json",
        ]
    if isinstance(settings.model, (ClipConfig, CocaConfig)):
        index = shlex.quote(f"{out}.lance")
        following += [
            f'chiasm classify {run} PICTURE --labels "a dog" "a cat"',
            f"chiasm index {run} {shlex.quote(settings.data.path)} --out {index}",
            f'chiasm search {index} "a dog" --grid hits.png',
        ]
    if settings.data.task is not None:
        following += [_ask(run, settings)]
    elif isinstance(settings.model, LanguageConfig):
        following += [f'chiasm write {run} "how it begins" --mode sample --texts 5']
    following.append(f"chiasm evaluate {run} DATA")
    lines = [
        ("model", str(out / "bundle")),
        *(("told", str(out / name)) for name in TOLD if (out / name).exists()),
        *(("pictures", str(path)) for path in sorted(path for name in DRAWN for path in out.glob(name))),
        *(("attention", str(path) + "/") for path in sorted(out.glob("attention-*"))),
        ("curves", str(out / "curves.png")),
        *(("" if row else "next", command) for row, command in enumerate(following)),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in lines)


def _ask(run: str, settings: RunConfig) -> str:
    """How a trained classifier is asked."""
    assert settings.data.task is not None
    text = "" if settings.model.rules is None else ' --text "what is written with it"'
    return {
        "match": f'chiasm match {run} PICTURE "a caption" "another"',
        "answer": f'chiasm answer {run} PICTURE "a question?"',
        "label": f"chiasm classify {run} PICTURE{text}",
    }[settings.data.task.name]


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings without those that nobody gave."""
    nested = {name: _given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None}


def apply_settings(settings: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The settings with those of `--set` in place of their own."""
    pairs = {}
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise UserError(
                f"--set {change!r} has no value", "Write it as PATH=VALUE, for example train.batch_size=64."
            )
        pairs[path] = value
    settings = configs.override(settings, pairs)
    return replace(settings, preprocess=replace(settings.preprocess, size=settings.model.size))


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a YAML file (JSON is YAML too)."""
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}", "Mend the line that it names.") from error
    if not isinstance(data, dict):
        raise UserError(
            f"{file} holds no settings", "It must be nested as a run's config.json, e.g. train: {epochs: 5}."
        )
    return data


def _again(model: str, out: Path, track: Sequence[str]) -> str:
    """What to type to go on: the program as it was called, be it `python -m chiasm`."""
    called = Path(sys.argv[0])
    program = [Path(sys.executable).name, "-m", "chiasm"] if called.name == "__main__.py" else [called.name]
    trackers = ["--track", *track] if track else []
    return shlex.join([*program, "train", model, "--out", str(out), "--resume", *trackers])
