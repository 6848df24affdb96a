"""A training run from its settings to its folder: prepare, train, keep, evaluate, describe."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from chiasm import config as configs
from chiasm.bundle import Bundle, fill, own_tensors
from chiasm.data.cache import Broken, Pictures, check_broken, prepare_pictures, write_quarantine
from chiasm.data.interleaved import InterleavedLoader
from chiasm.data.loader import Loader
from chiasm.data.source import class_names
from chiasm.data.texts import in_contexts
from chiasm.errors import UserError
from chiasm.evaluate import SplitScores
from chiasm.machine import using_threads
from chiasm.models import LanguageConfig, build_model
from chiasm.models.brought import load_sources
from chiasm.nn.lora import has_lora, merge_lora
from chiasm.predict.loading import sounds_of
from chiasm.text import Tokenizer
from chiasm.train.calibrate import settled
from chiasm.train.callbacks import Bar, Checkpoints, MetricsLog, Samples, StopOnSignal, Validate
from chiasm.train.coach import Coach, Facts, facts_of
from chiasm.train.config import RunConfig
from chiasm.train.engine import Engine, Steps
from chiasm.train.finetune import tune_only
from chiasm.train.outcome import describe_outcome
from chiasm.train.parts import load_parts, parts_tokenizer
from chiasm.train.start import brought_tokenizer, load_start
from chiasm.train.tasks import task_of
from chiasm.train.trackers import loggers_of


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its folder, the step reached, and the test scores if it went through."""

    folder: Path
    step: int
    finished: bool
    results: list[SplitScores]


class Run:
    """Everything of one run that is built before its first step."""

    def __init__(self, config: RunConfig, folder: Path, *, resume: bool = False):
        self.folder = folder
        config = self._claim_folder(config, resume)
        # Killed before its first checkpoint, a run has nothing to go on from: it begins again, start weights and all.
        resume = resume and (folder / "checkpoints" / "last.ckpt").exists()
        self.task = task_of(config)
        self.source = config.data.open()
        train = self.source.split("train")
        if not len(train):
            raise UserError(f"{self.source.name} has no training pictures", self.source.understood)
        start = None if config.start is None or resume else load_start(config.start)
        self.tokenizer = self._tokenizer(config, start, resume)
        if isinstance(config.model, LanguageConfig) and self.tokenizer:
            self.source = in_contexts(self.source, self.tokenizer, config.model.rules.context)
        vocabulary, unk = (self.tokenizer.vocab_size, self.tokenizer.unk) if self.tokenizer else (0, None)
        self.config = config.completed(vocabulary, unk, class_names(train) if config.model.classes is not None else ())
        self.pictures = self._pictures()
        self.sounds = {
            name: sounds_of(self.config.model, self.source.split(name), f"{self.source.name} {name}")
            for name in self.pictures
        }
        self.broken = self._quarantine()
        torch.manual_seed(self.config.train.seed)
        self.model = build_model(self.config.model)
        if not resume:
            self._fill(start)
        self._freeze()
        loader = self._loader("train")
        if loader is None:
            raise UserError(f"No training picture of {self.source.name} can be read", "quarantine.jsonl says why.")
        self.loader = loader
        self.val_loader = self._loader("val")
        self.task.start(self)
        settings = settled(
            self.config.train,
            self.model,
            self.task.objective,
            self.loader.batch(0),
            steps_per_epoch=self.loader.steps_per_epoch,
        )
        self.config = replace(self.config, train=settings)
        configs.save(self.config, folder / "config.json")

    def _claim_folder(self, config: RunConfig, resume: bool) -> RunConfig:
        """A new folder for a new run; for a resumed one, the settings that it began with."""
        if resume:
            return configs.load(RunConfig, self.folder / "config.json")
        if (self.folder / "config.json").exists():
            raise UserError(
                f"{self.folder} holds a run already", "Go on with it (--resume), or name another folder with --out."
            )
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made: {error.strerror}", "Name another folder.") from error
        return config

    def _tokenizer(self, config: RunConfig, start: Bundle | None, resume: bool) -> Tokenizer | None:
        """That of the model which the run starts from, or of the text encoder that was brought in, or a new one.

        None for a model that reads no texts.
        """
        if config.model.rules is None:
            return None
        path = self.folder / "checkpoints" / "tokenizer.json"
        if resume:
            return Tokenizer.load(path)
        tokenizer = (
            start.tokenizer if start is not None else brought_tokenizer(config.model) or parts_tokenizer(config.model)
        )
        if tokenizer is None:
            tokenizer = self._new_tokenizer(config)
        tokenizer.save(path)
        return tokenizer

    def _new_tokenizer(self, config: RunConfig) -> Tokenizer:
        texts = [text for example in self.source.split("train") for text in example.texts]
        if not texts:
            raise UserError(f"{self.source.name} has no captions to train on", self.source.understood)
        return Tokenizer.train(texts, kind=config.tokenizer.units, vocab_size=config.tokenizer.vocab_size)

    def _fill(self, start: Bundle | None) -> None:
        """The weights that a new model does not start without: of a trained one, or of encoders brought in."""
        if start is None:
            load_sources(self.model)
            load_parts(self.model)
        else:
            given, classes = own_tensors(start.model), self.config.model.classes
            if classes is not None and start.model.config.classes != classes:  # a head for others is of no use
                given |= {name: t for name, t in own_tensors(self.model).items() if name.startswith("head.")}
            fill(self.model, given, Path(str(self.config.start)))

    def _freeze(self) -> None:
        train = self.config.train
        try:
            tune_only(self.model, train.tune, blocks=train.tune_blocks, rank=train.lora_rank)
        except ValueError as error:
            raise UserError(f"train.tune is {train.tune!r}: {error}", "Change it, or what it applies to.") from error

    def _pictures(self) -> dict[str, Pictures]:
        """The pixels of every split that is used, tests too, so that no flaw of theirs comes up after the training."""
        splits = [n for n in ("train", "val", *self.source.test_splits) if len(self.source.splits.get(n, ()))]
        return {
            name: prepare_pictures(
                self.source.split(name),
                self.config.preprocess,
                name=f"{self.source.name} {name}",
                max_broken_share=None,  # of all splits together: a small one soon has a large share
            )
            for name in splits
        }

    def _quarantine(self) -> list[Broken]:
        """All that cannot be read, written down; UserError where that is too much."""
        pictures = [broken for part in self.pictures.values() for broken in part.broken]
        sounds = [broken for part in self.sounds.values() if part is not None for broken in part.broken]
        write_quarantine([*pictures, *sounds], self.folder / "quarantine.jsonl")
        total = sum(len(part.examples) for part in self.pictures.values())
        for what, broken in {"pictures": pictures, "sounds": sounds}.items():
            if broken:
                check_broken(broken, total, f"{what} of {self.source.name}", self.config.data.max_broken_share)
        return [*pictures, *sounds]

    def _loader(self, split: str) -> Loader | InterleavedLoader | None:
        pictures, train = self.pictures.get(split), self.config.train
        if pictures is None or not len(pictures.good):
            return None
        loader = Loader(
            self.source.split(split),
            pictures,
            self.tokenizer,
            preprocess=self.config.preprocess,
            augment=train.augment if split == "train" else None,
            batch_size=train.batch_size,
            context=self.config.model.rules.context if self.config.model.rules else 0,
            classes=self.config.model.classes or (),
            seed=train.seed,
            truncate=self.config.data.truncate,
            workers=train.workers,
            sounds=self.sounds[split],
            partial=self.config.data.partial or self.source.interleaved,
            together=self.task.together,
        )
        return self.task.batches(self, loader, split)

    @cached_property
    def facts(self) -> Facts:
        """What the coach holds against the log of the steps."""
        return facts_of(self)

    def bundle(self, model: Any) -> Bundle:
        """The model in its present state, with all that it needs elsewhere, low-rank terms as plain weights."""
        if has_lora(model):
            model = copy.deepcopy(model)
            merge_lora(model)
        world = {"tokenizer": self.tokenizer, "preprocess": self.config.preprocess, "task": self.config.data.task}
        return Bundle(model=model, **world)


@dataclass(frozen=True)
class Fitted:
    """Where the steps ended: the kept model (None where the run was asked to stop) and the step of the best one."""

    step: int
    bundle: Bundle | None
    best_step: int
    val_loss: float | None
    """Of the best one; None where nothing was validated."""


def train(config: RunConfig, folder: Path, *, resume: bool = False, trackers: tuple[str, ...] = ()) -> RunResult:
    """Train what `config` describes into `folder`, or go on with the run there; then score it on every test split.

    UserError where data, settings or folder do not allow it, or where the loss stops being finite.
    """
    loggers = loggers_of(trackers, folder)
    run = Run(config, folder, resume=resume)
    fitted = fit(run, loggers=loggers, resume=resume)
    if fitted.bundle is None:
        return RunResult(folder, fitted.step, False, [])
    return RunResult(folder, fitted.step, True, describe_outcome(run, fitted.bundle, fitted.best_step))


def fit(run: Run, *, loggers: Sequence[Any] = (), resume: bool = False) -> Fitted:
    """Take the steps of a run, from its last checkpoint if it is resumed."""
    train = run.config.train
    assert train.steps is not None and train.threads is not None
    engine = Engine(run.model, run.task.objective, train, train.steps)
    checkpoints = run.folder / "checkpoints"
    every_steps = max(1, round(train.validate_every_epochs * run.loader.steps_per_epoch))

    def keep_best() -> None:
        with engine.averaged() as model:
            run.bundle(model).save(checkpoints / "best")

    validate = Validate(run.val_loader, every_steps, keep_best, train.patience)
    metrics = MetricsLog(
        run.folder / "metrics.csv", run.task.objective.columns, run.loader.steps_per_epoch, max(1, min(10, every_steps))
    )
    last = checkpoints / "last.ckpt"
    start = last if resume and last.exists() else None
    bar = Bar(validate)
    coach = Coach(run.facts, metrics.path, bar.say)
    callbacks = [validate, metrics, StopOnSignal(), bar, coach]
    if run.val_loader is not None:
        callbacks.append(Samples(run.folder / "samples.jsonl", lambda: run.task.samples(run), bar.say))
    # The last one: a run that is killed goes on behind its checkpoint, and does not write again what is before it.
    callbacks.append(Checkpoints(last, train.checkpoint_every_seconds))
    with _quiet(), using_threads(train.threads):
        trainer = _trainer(engine, callbacks, loggers)
        try:
            trainer.fit(engine, Steps(run.loader, engine), ckpt_path=start, weights_only=False)
        except SystemExit as error:  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from error
    step = trainer.global_step
    finished = step >= train.steps or validate.since_best >= (train.patience or math.inf)
    kept = _kept(run, engine, checkpoints / "best") if finished else None
    return Fitted(step, kept, validate.best_step, validate.best if validate.best_step else None)


def _trainer(engine: Engine, callbacks: list[Any], loggers: Sequence[Any]) -> pl.Trainer:
    """Lightning's trainer with all that we do ourselves turned off."""
    return pl.Trainer(
        max_steps=engine.total_steps,
        max_epochs=-1,  # a stopped run counts as an epoch, and its resumption as another
        precision="bf16-mixed" if engine.config.precision == "bf16" else "32-true",
        accelerator="auto",
        devices=1,
        logger=list(loggers),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _kept(run: Run, engine: Engine, best: Path) -> Bundle:
    """The weights that the run keeps, as `train.keep` says."""
    if run.config.train.keep == "best" and best.exists():
        return Bundle.load(best)
    with engine.averaged() as model:
        run.bundle(model).save(run.folder / "bundle")
    return Bundle.load(run.folder / "bundle")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners and tips; its errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(does not have many workers|tensorboardX|LeafSpec|isinstance).*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
