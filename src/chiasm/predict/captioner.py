"""Asking a trained captioner: captions, streams of words, and where it looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float

from chiasm.generate import GenerateConfig, Written, generate, stream
from chiasm.models import Captioner, Coca, Flamingo
from chiasm.predict.base import Pixels, Predictor
from chiasm.text import Tokenizer
from chiasm.types import Picture

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


class CaptionPredictor(Predictor):
    """A trained captioner that can be asked."""

    model_class = Captioner, Coca, Flamingo
    model: Captioner | Coca | Flamingo

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

    @torch.no_grad()
    def caption_pixels(self, pixels: Pixels, config: GenerateConfig) -> list[Caption]:
        """Captions of pictures that `read` (or the cache) prepared."""
        written = generate(self._writer, self.images(pixels), config)
        return [self._caption(first, list(map(self._caption, rest))) for first, *rest in written]

    def stream(self, picture: Picture | str, **settings: Any) -> Iterator[str]:
        """The text of one picture's caption in pieces, as they are written; joined, they are the caption."""
        config = GenerateConfig(**settings)
        if config.captions > 1:
            raise ValueError(f"one caption is streamed at a time, not {config.captions}")
        images = self.images(self.read([picture]))
        ids: list[int] = []
        text = told = ""
        for token in stream(self._writer, images, config):
            ids.append(token.id)
            text = self.tokenizer.decode(ids)
            if not text.endswith(UNFINISHED):
                yield text[len(told) :]
                told = text
        yield text[len(told) :]

    @property
    def looks(self) -> bool:
        """Whether there is anything to see of where it looked."""
        return self.model.looks

    @torch.no_grad()
    def attention(self, pixels: Pixels, caption: Caption) -> Float[np.ndarray, "l rows columns"]:
        """Where the decoder looked in one picture before it wrote each of the caption's tokens (shares that sum to 1
        over the grid, or to less: see `Captioner.attention_maps`); ValueError where `looks` is False."""
        if isinstance(self.model, Flamingo):
            raise ValueError("a Flamingo looks at latents, which are no places of the picture")
        ids = torch.tensor([[self.model.rules.bos, *caption.ids]], device=self.device)[:, : len(caption.tokens)]
        return self.model.attention_maps(self.images(pixels), ids)[0].cpu().numpy()

    def _caption(self, written: Written, others: Sequence[Caption] = ()) -> Caption:
        return caption_of(written, self.tokenizer, text=self.tokenizer.decode(written.ids), others=others)


def caption_of(written: Written, tokenizer: Tokenizer, *, text: str, others: Sequence[Caption] = ()) -> Caption:
    """What generation returned, in words."""
    pieces = [tokenizer.token(i) for i in written.ids] + ["(end)"] * written.complete
    return Caption(
        text=text,
        confidence=written.confidence,
        tokens=tuple(zip(pieces, written.log_probs, strict=True)),
        complete=written.complete,
        ids=written.ids,
        others=tuple(others),
    )
