"""The settings of a run as the command line makes them: a preset, a file, options, and single settings by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from chiasm import config as configs
from chiasm.data.task import TaskConfig
from chiasm.errors import UserError
from chiasm.models.captioner import CaptionerConfig, CaptionerFusion, with_fusion
from chiasm.models.classifier import FusionClassifierConfig
from chiasm.models.fusion import CrossConfig, EarlyConfig, LateConfig, PerceiverFusionConfig
from chiasm.models.perceiver import PerceiverConfig
from chiasm.models.presets import (
    captioner_preset,
    clip_preset,
    coca_preset,
    flamingo_preset,
    fusion_preset,
    lm_preset,
    perceiver_preset,
    vit_preset,
)
from chiasm.train.config import DataConfig, RunConfig, TokenizerConfig

ModelName = Literal["captioner", "clip", "coca", "fusion", "vit", "lm", "flamingo", "perceiver"]
"""What can be trained."""

FUSIONS = {"late": LateConfig, "early": EarlyConfig, "cross": CrossConfig, "perceiver": PerceiverFusionConfig}
PERCEIVER_TASKS = "label", "reconstruct", "mask"
PERCEIVER_INPUTS = "picture", "text", "sound"


def start_settings(
    model: str,
    preset: str,
    source: str | None = None,
    vision: str | None = None,
    text: str | None = None,
    fusion: CaptionerFusion | None = None,
    lm: str | None = None,
    task: str | None = None,
    inputs: str | None = None,
) -> RunConfig:
    """A run's settings before anything else is said: the preset's sizes, what suits the kind of model, and weights."""
    presets = {
        "captioner": captioner_preset,
        "clip": clip_preset,
        "coca": coca_preset,
        "flamingo": flamingo_preset,
        "fusion": lambda name: fusion_preset(name, fusion or "cross"),
        "vit": vit_preset,
        "lm": lm_preset,
        "perceiver": lambda name: perceiver_preset(name, task or "label", _inputs(inputs, task)),
    }
    settings = RunConfig(data=DataConfig(path=""), model=presets[model](preset))
    if model == "vit" or (model == "perceiver" and task in (None, "label")):
        settings = replace(settings, data=replace(settings.data, task=TaskConfig(name="label")))
    if model == "perceiver":
        settings = replace(settings, data=replace(settings.data, partial=True))
    if settings.model.classes is not None:  # whose probabilities are told, and shall be true
        settings = replace(settings, train=replace(settings.train, label_smoothing=0.0))
    if model in ("clip", "coca", "fusion"):
        words = TokenizerConfig(units="bpe", vocab_size=4096)  # people search with words that no caption had
        settings = replace(settings, tokenizer=words)
    if model == "flamingo":  # so many sequences, of several pictures each
        settings = replace(settings, train=replace(settings.train, batch_size=32))
    elif lm is not None:
        raise UserError("Only a flamingo has --lm", f"chiasm train flamingo ... --lm {lm}")
    if source is None and vision is None and text is None and lm is None:
        return settings
    from chiasm.train.parts import with_parts, with_trained_vision
    from chiasm.train.start import started_from, with_brought

    if source is not None and (vision is not None or text is not None or lm is not None):
        raise UserError("--from brings its own encoders", "Leave out --vision, --text and --lm, or --from.")
    if model == "flamingo" and source is None:
        if text is not None:
            raise UserError("A flamingo has no --text encoder", "Its language model is --lm.")
        return with_parts(settings, lm, vision)
    if model == "fusion" and vision is not None:
        if text is not None:
            raise UserError("A fusion's --text encoder is its own", "Leave the option away.")
        return with_trained_vision(settings, vision)
    return started_from(settings, source) if source is not None else with_brought(settings, vision, text)


def fused(settings: RunConfig, fusion: CaptionerFusion | None) -> RunConfig:
    """The settings with the fusion that was asked for, at the same depth; UserError where there is nothing to fuse."""
    if fusion is None:
        return settings
    if isinstance(settings.model, FusionClassifierConfig):  # its preset was made for the fusion
        if not isinstance(settings.model.fusion, FUSIONS[fusion]):
            raise UserError(f"--fusion {fusion} does not fit the model to start from", "Leave the option away.")
        return settings
    if not isinstance(settings.model, CaptionerConfig):
        raise UserError("Only a captioner or a fusion has a --fusion", "chiasm train captioner ... --fusion early")
    try:
        return replace(settings, model=with_fusion(settings.model, fusion))
    except ValueError as error:
        raise UserError(f"--fusion {fusion}: {error}", "Start from a captioner with cross.") from error


def asked(settings: RunConfig, task: str | None, negatives: str | None, inputs: str | None) -> RunConfig:
    """The settings with what a classifier is asked and sees; UserError for a model that has no such choice."""
    if isinstance(settings.model, PerceiverConfig):  # its preset was made for both
        if negatives is not None or task not in (None, *PERCEIVER_TASKS):
            raise UserError(
                f"A perceiver has no task {task}" if negatives is None else "A perceiver has no --negatives",
                f"Its tasks are {', '.join(PERCEIVER_TASKS)}; a fusion matches and answers.",
            )
        return settings
    if isinstance(settings.model, FusionClassifierConfig):
        if task is None and settings.data.task is None:
            raise UserError("A fusion needs a task", "Say what is asked: --task match, answer or label.")
        changes = {"task": given({"name": task, "negatives": negatives}) or None}
        return configs.merge(settings, given({"data": changes, "model": {"inputs": inputs}}))
    for option, value in (("task", task), ("negatives", negatives), ("inputs", inputs)):
        if value is not None:
            raise UserError(f"Only a fusion has --{option}", f"chiasm train fusion ... --{option} {value}")
    return settings


def _inputs(named: str | None, task: str | None) -> list[str]:
    """The inputs of a Perceiver; UserError for one that there is not, or that its task does not read."""
    if task == "mask" and named not in (None, "text"):
        raise UserError(
            f"--task mask reads texts alone, not {named}", "With other inputs: --task reconstruct or label."
        )
    found = [name.strip() for name in (named or PERCEIVER_INPUTS[0]).split(",")]
    for name in found:
        if name not in PERCEIVER_INPUTS:
            raise UserError(f"There is no input {name!r}", f"A perceiver takes any of {', '.join(PERCEIVER_INPUTS)}.")
    return found


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


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Nested settings without those that nobody gave."""
    nested = {name: given(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in nested.items() if value is not None}


__all__ = ["ModelName", "apply_settings", "asked", "fused", "given", "read_settings", "start_settings"]
