"""Predictor: the one door through which the command line, evaluation and applications ask a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8

from chiasm.bundle import Bundle
from chiasm.data.transforms import normalize, read_pixels
from chiasm.generate import GenerateConfig, Written, generate, stream
from chiasm.types import Picture

Pixels = UInt8[np.ndarray, "b height width 3"]
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""How a character looks of whose bytes only the first have been written."""


@dataclass(frozen=True)
class Caption:
    """A generated text, how sure the model is of it (0..1), and each token with its log-probability in nats."""

    text: str
    confidence: float
    tokens: tuple[tuple[str, float], ...]
    complete: bool
    """False where the text reached the longest length without an end."""
    ids: tuple[int, ...]
    others: tuple[Caption, ...] = ()
    """Further captions of the same picture, where several were asked for."""


class Predictor:
    """A trained model that can be asked; it holds no state between calls."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.model = bundle.model.eval()
        self.tokenizer = bundle.tokenizer

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """From the folder of a run or of a bundle; UserError where that is not one."""
        return cls(Bundle.load(folder))

    @overload
    def caption(self, pictures: Picture | str, **settings: Any) -> Caption: ...
    @overload
    def caption(self, pictures: Sequence[Picture | str], **settings: Any) -> list[Caption]: ...
    def caption(self, pictures: Picture | str | Sequence[Picture | str], **settings: Any) -> Caption | list[Caption]:
        """Captions of one picture or several (paths, bytes of files, or uint8 arrays "height width 3").

        Settings are the fields of `GenerateConfig`: `mode`, `captions`, `beams`, … . BrokenPicture, a UserError, where
        a picture cannot be read.
        """
        if isinstance(pictures, (str, bytes, Path, np.ndarray)):
            return self.caption([pictures], **settings)[0]
        return self.caption_pixels(self.read(pictures), GenerateConfig(**settings))

    def read(self, pictures: Sequence[Picture | str]) -> Pixels:
        """Pictures as the model was trained to see them."""
        ready = [Path(picture) if isinstance(picture, str) else picture for picture in pictures]
        pixels = [read_pixels(picture, self.bundle.preprocess) for picture in ready]
        return np.stack(pixels) if pixels else np.empty((0, *self.bundle.preprocess.size, 3), np.uint8)

    @torch.no_grad()
    def caption_pixels(self, pixels: Pixels, config: GenerateConfig) -> list[Caption]:
        """Captions of pictures that `read` (or the cache) prepared."""
        written = generate(self.model, normalize(pixels, self.bundle.preprocess), config)
        return [self._caption(first, [self._caption(w) for w in rest]) for first, *rest in written]

    def stream(self, picture: Picture | str, **settings: Any) -> Iterator[str]:
        """The text of one picture's caption in pieces, as they are written; joined, they are the caption."""
        config = GenerateConfig(**settings)
        if config.captions > 1:
            raise ValueError(f"one caption is streamed at a time, not {config.captions}")
        images = normalize(self.read([picture]), self.bundle.preprocess)
        ids: list[int] = []
        text = told = ""
        for token in stream(self.model, images, config):
            ids.append(token.id)
            text = self.tokenizer.decode(ids)
            if not text.endswith(UNFINISHED):
                yield text[len(told) :]
                told = text
        yield text[len(told) :]

    @torch.no_grad()
    def attention(self, pixels: Pixels, caption: Caption) -> Float[np.ndarray, "l rows columns"]:
        """Where the decoder looked in one picture before it wrote each of the caption's tokens (shares that sum to 1
        over the grid, or to less where the encoder's pooled token took its part)."""
        ids = torch.tensor([[self.model.rules.bos, *caption.ids]])[:, : len(caption.tokens)]
        return self.model.attention_maps(normalize(pixels, self.bundle.preprocess), ids)[0].numpy()

    def _caption(self, written: Written, others: Sequence[Caption] = ()) -> Caption:
        pieces = [self.tokenizer.token(i) for i in written.ids] + ["(end)"] * written.complete
        return Caption(
            text=self.tokenizer.decode(written.ids),
            confidence=written.confidence,
            tokens=tuple(zip(pieces, written.log_probs, strict=True)),
            complete=written.complete,
            ids=written.ids,
            others=tuple(others),
        )
