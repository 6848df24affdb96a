"""The settings of a run: data, pictures, words, model, training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from chiasm.data.episodes import EpisodesConfig
from chiasm.data.layouts import open_source
from chiasm.data.shapes import ShapesConfig
from chiasm.data.source import Source, with_less
from chiasm.data.task import TaskConfig
from chiasm.data.transforms import AugmentConfig, PreprocessConfig
from chiasm.models import ModelConfig
from chiasm.nn import OptimizerName
from chiasm.text import UNK
from chiasm.train.finetune import Tune
from chiasm.train.preparing import prepared

EPOCHS, FEWEST_STEPS = 30, 600
"""How long a run is for which nothing was said: so many epochs, or so many steps if those are more."""
QUESTIONS = 4
"""Of each picture of the built-in `shapes`, where it is not said."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures and captions are, and what to do about flaws in them."""

    path: str
    image_column: str | None = None
    text_column: str | None = None
    sound_column: str | None = None
    label_column: str | None = None
    partial: bool = False
    """Examples may lack a picture, a sound or a text, and a class is no text: for models that do without."""
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    """For the built-in `shapes` only."""
    episodes: EpisodesConfig = field(default_factory=EpisodesConfig)
    """For the built-in `episodes` only."""
    pictures_per_sequence: int | None = None
    """How many captioned pictures a Flamingo reads by turns; None: as many as its context surely holds, up to five."""
    max_broken_share: float = 0.05
    """Stop where more pictures than this cannot be read."""
    truncate: bool = False
    """Cut captions that are longer than the model's context; otherwise they are an error."""
    task: TaskConfig | None = None
    """What a classifier is to tell; None for other models."""
    share: float = 1.0
    """Train on about this share of the training data only, to see what more of them are worth."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, it must be above 0 and at most 1")

    def open(self) -> Source:
        """The data, as the task asks about them; UserError where they are not what can be read, or not of the task."""
        shapes, asked = self.shapes, self.task is not None and self.task.name == "answer"
        if asked and not shapes.questions_per_picture:
            shapes = replace(shapes, questions_per_picture=QUESTIONS)
        source = open_source(
            self.path,
            image_column=self.image_column,
            text_column=self.text_column,
            sound_column=self.sound_column,
            label_column=self.label_column,
            partial=self.partial,
            shapes=shapes,
            episodes=self.episodes,
        )
        return with_less(source if self.task is None else prepared(source, self.task), self.share)


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Words (for captions with few different ones) or byte-level BPE (knows every text)."""

    units: Literal["word", "bpe"] = "word"
    vocab_size: int = 8192


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train. `steps`, `precision` and `threads` are settled, and written down, before the first step."""

    epochs: float | None = None
    """None: 30, or as many as make 600 steps where those are more: what few pictures need to be learnt at all."""
    minutes: float | None = None
    """Train for about this long instead of so many epochs."""
    steps: int | None = None
    """Optimizer steps; overrides both."""
    batch_size: int = 128
    accumulate: int = 1
    """Run each batch in this many parts: less memory, the same gradient."""
    checkpointing: bool = False
    """Keep no more than each block's input, and compute the block again for its gradient: far less memory, the same
    gradient, about a third more work."""
    compile: bool = False
    """torch.compile joins each block's operators: for GPUs. On a CPU it gains little, and the first step is slow."""
    optimizer: OptimizerName = "adamw"
    """muon: the matrices of transformer blocks move in all directions alike; fewer steps to the same loss, at the same
    learning rate, and each step longer, as if the batch had some four times a block's width more tokens."""
    learning_rate: float = 1e-3
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises; it then falls along a cosine to a hundredth."""
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    tune: Tune = "full"
    """What learns: everything; the projections and the scale; the last blocks too; or low-rank terms of the weights."""
    tune_blocks: int = 1
    """How many blocks of each encoder learn with tune=last."""
    lora_rank: int = 8
    layer_decay: float = 1.0
    """Each block's learning rate is that of the block above times this: below 1 for fine-tuning."""
    label_smoothing: float = 0.1
    ema_decay: float = 0.998
    """Decay per step of the moving average of the weights, which is what is validated and kept; 0 turns it off."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    """That compute a step; None: as many as are fastest in a measurement."""
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    validate_every_epochs: float = 1.0
    keep: Literal["best", "last"] = "best"
    """Which weights become the bundle: those of the lowest validation loss, or the last."""
    patience: int | None = None
    """Stop after this many validations without a better one."""
    checkpoint_every_seconds: float = 60.0
    """The most work that a killed run loses; 0 saves after every step."""
    workers: int = 0
    """Processes that prepare batches; 0 is a thread, enough for pictures that fit the cache."""
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "minutes", "steps", "batch_size", "accumulate", "learning_rate", "clip_norm")
        positive = (*positive, "tune_blocks", "lora_rank", "layer_decay", "threads")
        for name in (*positive, "validate_every_epochs", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, it must be above 0")
        for name in ("weight_decay", "checkpoint_every_seconds", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must not be negative")
        if self.layer_decay > 1:
            raise ValueError(f"layer_decay is {self.layer_decay}, it must be at most 1")
        for name in ("warmup", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 0 and below 1")

    def steps_of(self, steps_per_epoch: int) -> int:
        """How many steps a run takes whose length is told in steps or epochs, or not at all."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return max(FEWEST_STEPS, EPOCHS * steps_per_epoch)
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run; `config.json` in its folder."""

    data: DataConfig
    model: ModelConfig
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    start: str | None = None
    """A trained model to start from: the folder of a run or a bundle, or published weights."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def completed(self, vocabulary: int, unk: int | None = UNK, classes: tuple[str, ...] = ()) -> RunConfig:
        """With what the tokenizer, the data and the model know: the vocabulary, the classes, the pictures' size."""
        return replace(
            self,
            model=self.model.completed(vocabulary, unk, classes),
            preprocess=replace(self.preprocess, size=self.model.size),
        )
