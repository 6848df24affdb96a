"""Predictor: the one door through which the command line, evaluation and applications ask a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from chiasm.bundle import Bundle
from chiasm.data.picture import BrokenPicture
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig, normalize, read_pixels
from chiasm.errors import UserError
from chiasm.machine import best_device, has_compiler
from chiasm.models.decoder import CausalDecoder
from chiasm.models.graphed import GRAPHED, Graphed
from chiasm.nn import LEAST_WEIGHTS, quantize_int8
from chiasm.predict.cores import on_cores
from chiasm.text import Tokenizer
from chiasm.types import Picture

P = TypeVar("P", bound="Predictor")
Pixels = UInt8[np.ndarray, "b height width 3"]


class Predictor:
    """A trained model that can be asked; it holds no state between calls. Each kind of model has its own.

    The model works on a GPU if there is one (CUDA_VISIBLE_DEVICES= hides it), and is moved there for good.
    """

    model_class: ClassVar[type | tuple[type, ...]]

    def __init__(self, bundle: Bundle):
        if not isinstance(bundle.model, self.model_class):
            wanted = self.model_class if isinstance(self.model_class, tuple) else (self.model_class,)
            raise UserError(
                f"The model is a {type(bundle.model).__name__}, and a {' or '.join(kind.__name__ for kind in wanted)} "
                "is needed here",
                "A captioner writes captions, a language model texts; a Clip classifies by your labels, embeds and "
                "searches; a classifier answers, matches, or tells the classes that it was trained on.",
            )
        self.bundle = bundle
        self.device = best_device()
        self.model = bundle.model.to(self.device).eval()
        self._writer: Any = self.model
        if isinstance(self.model, GRAPHED) and self.device.type != "cpu":  # there calls outlast what they compute
            self._writer = Graphed(self.model)

    @classmethod
    def load(cls: type[P], folder: str | Path) -> P:
        """From the folder of a run or of a bundle; UserError where that is not one, or holds another kind of model."""
        return cls(Bundle.load(folder))

    def write_in_int8(self) -> None:
        """Let the decoder's large layers work in int8 from now on: faster, and nearly the same.

        How nearly, `chiasm evaluate --int8` tells. UserError for a model without a decoder, or where all its layers are
        too small to become faster.
        """
        if self.device.type != "cpu":
            raise UserError(
                "Layers in int8 are for CPUs, and the model works on a GPU",
                "Leave the option away, or hide the GPU: CUDA_VISIBLE_DEVICES= chiasm ...",
            )
        decoder = getattr(self.model, "decoder", None)
        if not isinstance(decoder, CausalDecoder):
            raise UserError(
                f"A {type(self.model).__name__} has no decoder that could work in int8",
                "Leave the option away; captioners, language models, CoCas and Flamingos have it.",
            )
        if not quantize_int8(decoder, LEAST_WEIGHTS):
            raise UserError(
                f"No layer of the decoder has {LEAST_WEIGHTS:,} weights, so none would be faster in int8",
                "Leave the option away.",
            )

    def compile_writing(self) -> None:
        """Let torch.compile make kernels of a step of writing, at the first one of each number of texts at a time.

        UserError for a model that cannot, or where there is no compiler.
        """
        if not isinstance(self.model, GRAPHED):
            raise UserError(
                f"How a {type(self.model).__name__} writes is not compiled",
                "Leave the option away; captioners, CoCas and language models have it.",
            )
        if not has_compiler():
            raise UserError(
                "Compiling needs a C++ compiler, and there is none", "Install g++, or leave the option away."
            )
        self._writer = Graphed(self.model, compile=True)

    @property
    def tokenizer(self) -> Tokenizer:
        """That of a model which reads or writes texts."""
        assert self.bundle.tokenizer is not None
        return self.bundle.tokenizer

    @property
    def preprocess(self) -> PreprocessConfig:
        """How pictures become what the model sees."""
        return self.bundle.preprocess

    def read(self, pictures: Sequence[Picture | str]) -> Pixels:
        """Pictures as the model was trained to see them."""
        if self.preprocess.size == NO_PICTURES:
            return np.empty((len(pictures), 0, 0, 3), np.uint8)
        pixels = []
        for seen in self.read_each(pictures):
            if isinstance(seen, BrokenPicture):
                raise seen
            pixels.append(seen)
        return np.stack(pixels) if pixels else np.empty((0, *self.preprocess.size, 3), np.uint8)

    def read_each(self, pictures: Sequence[Picture | str]) -> list[UInt8[np.ndarray, "height width 3"] | BrokenPicture]:
        """Each picture as the model was trained to see it, or why it cannot be read; on all cores."""
        return on_cores(self._read, pictures)

    def _read(self, picture: Picture | str) -> UInt8[np.ndarray, "height width 3"] | BrokenPicture:
        try:
            return read_pixels(Path(picture) if isinstance(picture, str) else picture, self.preprocess)
        except BrokenPicture as error:
            return error

    def images(self, pixels: Pixels) -> Float[Tensor, "b 3 height width"]:
        """Pictures that `read` (or the cache) prepared, as the model takes them, where it works."""
        return normalize(torch.from_numpy(pixels).to(self.device), self.preprocess)

    def text_lengths(self, texts: Sequence[str], *, truncate: bool = False) -> list[int]:
        """Tokens of each text; UserError for an empty one, or one that is longer than the model's context.

        With `truncate` a long one is no error.
        """
        rules = self.bundle.model.config.rules
        assert rules is not None
        lengths = self.tokenizer.lengths(texts)
        for number, (text, length) in enumerate(zip(texts, lengths, strict=True), 1):
            if not text.strip():
                which = f"Text {number} of {len(texts)}" if len(texts) > 1 else "The text"
                raise UserError(f"{which} is empty", "Say something in it, or leave it out.")
            if length > rules.context and not truncate:
                raise UserError(
                    f"The text has {length} tokens, more than the model's {rules.context}: {text[:80]!r}",
                    "Shorten it, or have it cut (truncate).",
                )
        return lengths
