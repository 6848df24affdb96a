"""`chiasm train ...`: from data to a run's folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.cli.settings import ModelName, apply_settings, asked, fused, given, read_settings, start_settings
from chiasm.data.transforms import augment_for
from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerConfig, CaptionerFusion
from chiasm.models.clip import ClipConfig
from chiasm.models.coca import CocaConfig
from chiasm.models.flamingo import FlamingoConfig
from chiasm.models.lm import LanguageConfig
from chiasm.train.config import RunConfig
from chiasm.train.finetune import Tune

DRAWN = "gallery-*.png", "retrieval-*.png", "confusion-*.png", "calibration.png", "gates.png"
"""Pictures that a run leaves, but for the curves."""


def train(
    model: ModelName,
    data: str = "",
    *,
    out: Path,
    preset: str = "small",
    fusion: CaptionerFusion | None = None,
    task: Literal["match", "answer", "label", "reconstruct", "mask"] | None = None,
    negatives: str | None = None,
    inputs: str | None = None,
    from_: str | None = None,
    vision: str | None = None,
    text: str | None = None,
    lm: str | None = None,
    tune: Tune | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    augment: Literal["none", "light", "strong"] | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    sound_column: str | None = None,
    label_column: str | None = None,
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
    pictures. lm: the decoder alone, on texts without pictures. flamingo: a language model that reads pictures
    between its words, and learns from examples in its prompt. perceiver: latents that read any mix of pictures, texts
    and sounds, to tell classes, to give back what is hidden, or to fill the gaps of texts. The folder OUT then holds
    bundle/ (the model), metrics.csv, curves.png, evaluation.json, card.md, and what the model said of every test
    picture.

    Args:
        model: what to train
        data: a folder, a table (CSV, TSV, JSONL, JSON, Parquet), tar shards, a Hub id, or the built-in emoji or shapes;
            for a flamingo also JSON Lines of sequences, or the built-in episodes;
            for an lm also a .txt file or a folder of them, a text per line
        out: the run's folder
        preset: sizes to start from: tiny, small or base of a captioner or lm; lesson, tiny, small, vit-b-32, vit-b-16
            or vit-l-14 of a clip; tiny or small of a coca, flamingo, fusion or perceiver; tiny, small, vit-s-16,
            vit-b-16 or vit-l-16 of a vit
        fusion: how a captioner reads pictures: cross (cross-attention, the preset's), early (the picture's tokens in
            front of the words), late (one token in front of them) or perceiver (cross-attention to latents); and where
            a fusion joins picture and text: cross (each reads the other in between), early (one sequence from the
            start), late (one vector each at the end) or perceiver (latents read both)
        task: of a fusion: match (is this the caption of this picture?), answer (a question's answer; of data with
            questions and answers, or of the built-in shapes), or label (the class); of a perceiver: label (the
            default), reconstruct (give back what is hidden of its inputs) or mask (fill the gaps of texts)
        negatives: where wrong captions for match come from: random (the default), text (captions with similar words),
            or clip:FOLDER (those that a trained clip takes for right)
        inputs: what a fusion sees: both (the default), or picture or text alone, to know what it is worth without; what
            a perceiver takes in: any of picture (the default), text and sound, as in picture,sound
        from_: a trained model to start from instead: the folder of a run or a bundle, or of published weights
        vision: a picture encoder to bring in, locked (model.vision.tune=true unlocks it): hf:FOLDER_OR_ID of
            transformers, or py:package.module:function of your own; for a flamingo or a fusion (there
            model.vision_tune=true unlocks it) clip:RUN, that of a trained clip or captioner
        text: a text encoder to bring in, locked: hf:FOLDER_OR_ID
        lm: a language model for a flamingo, locked: the folder of an lm, or of published GPT-2 weights
        tune: what learns: full (everything), projection (what joins the encoders), last (their last blocks too), or
            lora (low-rank terms of their weights)
        epochs: how often each picture is seen (30, or more for few pictures, where neither this nor --minutes is given)
        minutes: train for about this long instead
        augment: random changes to the pictures: light (the default) suits photos, strong suits icons and drawings
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        sound_column: the column that holds the sounds or their paths, where guessing fails
        label_column: the column that holds the classes, where guessing fails
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
        settings = start_settings(model, preset, from_, vision, text, fusion, lm, task, inputs)
        if config is not None:
            settings = configs.merge(settings, read_settings(config))
        settings = asked(fused(settings, fusion), task, negatives, inputs)
        named = {
            "train": {"epochs": epochs, "minutes": minutes, "seed": seed, "tune": tune},
            "data": {
                "path": data or None,
                "image_column": image_column,
                "text_column": text_column,
                "sound_column": sound_column,
                "label_column": label_column,
                "max_broken_share": max_broken_share,
                "shapes": {"difficulty": difficulty, "samples": samples},
            },
        }
        settings = configs.merge(settings, given(named))
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


def _where_to_look(settings: RunConfig, out: Path) -> str:
    """The files of a finished run that people want to see, and what to type next."""
    from chiasm.evaluate import TOLD
    from chiasm.predict.loading import heard

    run = shlex.quote(str(out))
    following = []
    if isinstance(settings.model, (CaptionerConfig, CocaConfig)):
        blind = isinstance(settings.model, CaptionerConfig) and settings.model.fusion == "late"
        following += [
            f"chiasm caption {run} PICTURE" + ("" if blind else " --attention where.png"),
            f"chiasm caption {run} FOLDER --mode beam --json",
        ]
    if isinstance(settings.model, (ClipConfig, CocaConfig)):
        index = shlex.quote(f"{out}.lance")
        following += [
            f'chiasm classify {run} PICTURE --labels "a dog" "a cat"',
            f"chiasm index {run} {shlex.quote(settings.data.path)} --out {index}",
            f'chiasm search {index} "a dog" --grid hits.png',
        ]
    if isinstance(settings.model, FlamingoConfig):
        following += [f"chiasm caption {run} PICTURE --shots shots.jsonl"]
    if settings.data.task is not None and heard(settings.model) is None:
        following += [_ask(run, settings)]
    elif isinstance(settings.model, LanguageConfig):
        following += [f'chiasm write {run} "how it begins" --mode sample --texts 5']
    following.append(f"chiasm evaluate {run} DATA")
    lines = [
        ("model", str(out / "bundle")),
        *(("told", str(out / name)) for name in TOLD.values() if (out / name).exists()),
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


def _again(model: str, out: Path, track: Sequence[str]) -> str:
    """What to type to go on: the program as it was called, be it `python -m chiasm`."""
    called = Path(sys.argv[0])
    program = [Path(sys.executable).name, "-m", "chiasm"] if called.name == "__main__.py" else [called.name]
    trackers = ["--track", *track] if track else []
    return shlex.join([*program, "train", model, "--out", str(out), "--resume", *trackers])
