"""Perceiver IO: latents read any inputs, think, and are read by queries of what is wanted; here, a class.

Letters: b batch · n input tokens · m latents · d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.abilities import Classifier
from chiasm.models.adapters import Multimodal
from chiasm.models.inputs import Given, Inputs, given
from chiasm.models.language import TextRules
from chiasm.nn import Block, CrossRead, init_weights
from chiasm.types import Batch, Encoded

C = TypeVar("C", bound="PerceiverConfig")


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Sizes of a cross-attention: of latents that read the inputs, or of queries that read the latents."""

    heads: int = 1
    key_width: int | None = None
    value_width: int | None = None
    """Both are the width of the queries unless given."""
    mlp_ratio: float = 4.0
    residual: bool = True
    """Add what is read to the queries."""


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Sizes of the latents and of their thinking: `stages` times `depth` transformer blocks.

    The first `reads` stages begin with a look at the inputs: one is Perceiver IO, as many as there are stages the first
    Perceiver. `shared` stages have the same weights, all but the first look (2103.03206, section 3.1).
    """

    latents: int = 64
    width: int = 128
    stages: int = 1
    depth: int = 4
    reads: int = 1
    shared: bool = True
    heads: int = 4
    key_width: int | None = None
    value_width: int | None = None
    mlp_ratio: float = 4.0
    read: ReadConfig = field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if min(self.latents, self.width, self.stages) < 1 or self.depth < 0:
            raise ValueError("latents, width and stages must be at least 1, and depth at least 0")
        if not 1 <= self.reads <= self.stages:
            raise ValueError(f"reads is {self.reads}, it must be from 1 to {self.stages}, the number of stages")


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig:
    """What all Perceivers have: inputs, latents, and how queries read the latents."""

    inputs: Inputs
    latents: LatentConfig = field(default_factory=LatentConfig)
    decoder: ReadConfig = field(default_factory=ReadConfig)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels; (0, 0) where none is seen."""
        return (0, 0) if self.inputs.picture is None else self.inputs.picture.size

    @property
    def rules(self) -> TextRules | None:
        """The ids and the length that texts keep to; None where none is read."""
        return None if self.inputs.text is None else self.inputs.text.rules

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return 0 if self.inputs.text is None else self.inputs.text.vocabulary

    @property
    def classes(self) -> tuple[str, ...] | None:
        """None: it knows no classes."""

    def completed(self: C, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> C:
        """With what the tokenizer knows."""
        return replace(self, inputs=self.inputs.completed(vocabulary, unk))


@dataclass(frozen=True, kw_only=True)
class PerceiverClassifierConfig(PerceiverConfig):
    """A Perceiver that says which of its classes its inputs are of."""

    classes: tuple[str, ...] = ()  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def completed(self, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> PerceiverClassifierConfig:
        """With what the tokenizer and the data know."""
        return replace(self, inputs=self.inputs.completed(vocabulary, unk), classes=classes)


class PerceiverEncoder(nn.Module):
    """Latents that look at a context and think, in turn (2103.03206, section 3.1; 2107.14795, section 3.1).

    A look costs latents × context, linear in the context's length; a block latents × latents, whatever the context.
    """

    def __init__(self, config: LatentConfig, context_width: int):
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
        looks = min(config.reads, 2) if config.shared else config.reads
        self.reads = nn.ModuleList(build_read(config.read, config.width, context_width) for _ in range(looks))
        stages = 1 if config.shared else config.stages
        self.stages = nn.ModuleList(nn.ModuleList(self._block() for _ in range(config.depth)) for _ in range(stages))

    def forward(self, context: Encoded) -> Encoded:
        """The latents after the last block."""
        x = self.latents.expand(len(context.tokens), -1, -1)
        for stage in range(self.config.stages):
            if stage < self.config.reads:
                x = self.reads[min(stage, len(self.reads) - 1)](x, context)
            for block in cast(nn.ModuleList, self.stages[min(stage, len(self.stages) - 1)]):
                x = block(x)
        return Encoded(tokens=x)

    def _block(self) -> Block:
        config = self.config
        return Block(
            config.width,
            config.heads,
            key_width=config.key_width,
            value_width=config.value_width,
            mlp_ratio=config.mlp_ratio,
        )


class PerceiverClassifier(nn.Module, Classifier):
    """One learned query reads the latents; a linear layer makes of it what speaks for each class."""

    def __init__(self, config: PerceiverClassifierConfig):
        super().__init__()
        self.config = config
        self.input = Multimodal(config.inputs)
        self.encoder = PerceiverEncoder(config.latents, self.input.width)
        width = config.latents.width
        self.query = nn.Parameter(torch.randn(1, width) * 0.02)
        self.decoder = build_read(config.decoder, width, width)
        self.head = nn.Linear(width, len(config.classes))
        init_weights(self, depth_of(config))

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.config.classes

    def classify(self, batch: Batch) -> Float[Tensor, "b classes"]:
        """Logits of the configuration's classes."""
        return self(given(batch, self.config.inputs))

    def forward(self, values: Mapping[str, Given]) -> Float[Tensor, "b classes"]:
        """Logits, of inputs by name."""
        latents = self.encoder(self.input(values))
        queries = self.query.expand(len(latents.tokens), -1, -1)
        return self.head(self.decoder(queries, latents)[:, 0])


def build_read(config: ReadConfig, width: int, context_width: int) -> CrossRead:
    """Queries of this width that read a context of that width."""
    return CrossRead(
        width,
        config.heads,
        context_width=context_width,
        key_width=config.key_width,
        value_width=config.value_width,
        residual=config.residual,
        mlp_ratio=config.mlp_ratio,
    )


def depth_of(config: PerceiverConfig) -> int:
    """How many layers add to a latent: blocks, looks, and the last read."""
    return config.latents.stages * config.latents.depth + config.latents.reads + 1


__all__ = [
    "LatentConfig",
    "PerceiverClassifier",
    "PerceiverClassifierConfig",
    "PerceiverConfig",
    "PerceiverEncoder",
    "ReadConfig",
    "build_read",
    "depth_of",
]
