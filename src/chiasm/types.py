"""The legend of letters, and the values that rooms hand to each other: Example, Batch, Encoded.

Letters, used in every shape: b batch · n tokens of context · l text length · m latents · d width · h heads ·
e embedding width · v vocabulary · c channels · k top-k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Picture = bytes | Path | np.ndarray
"""A picture as a source holds it: the bytes of a file, the path of one, or decoded uint8 values "height width 3"."""
Sound = bytes | Path | np.ndarray
"""A sound as a source holds it: the bytes of a file, the path of one, or one channel's values in [-1, 1], fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture and what is said of it (or a text alone, or a sound), whatever file it came from.

    `texts` are captions of equal standing, the preferred one first; `tags` are words that are not captions (keywords,
    synonyms). `key` names the picture uniquely within its source. Examples of one `group` show the same thing: they
    stay on one side of every split and count as hits for each other. `label` is a class, or the answer to the question
    that is the text.
    """

    image: Picture | None
    texts: tuple[str, ...]
    key: str
    group: str = ""
    label: str = ""
    tags: tuple[str, ...] = ()
    sound: Sound | None = None
    given: bool = False
    """In a sequence of examples: its text is shown, and not to be predicted."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """All that crosses from data into torch; equal `image_ids` or `text_ids` mean the same picture or text.

    What a model does not read is empty: pictures of no pixels, texts of no tokens.
    """

    images: Float[Tensor, "b c height width"]
    ids: Int[Tensor, "b l"]
    """Token ids: BOS, the text, EOT, then pads."""
    keep: Bool[Tensor, "b l"]
    """False at pads."""
    image_ids: Int[Tensor, " b"]
    text_ids: Int[Tensor, " b"]
    keys: tuple[str, ...]
    labels: Int[Tensor, " b"] | None = None
    """Places in the model's classes, -1 for a row without a label or with one that is none of them."""
    sounds: Float[Tensor, "b samples"] | None = None
    sound_keep: Bool[Tensor, "b samples"] | None = None
    """False at padding."""
    image_keep: Bool[Tensor, " b"] | None = None
    """False for rows without a picture, whose `images` are zeros; None where every row has one."""
    media: Float[Tensor, "b t frames c rows columns"] | None = None
    """The pictures of interleaved texts, in the order of their `<image>` in `ids`, where `keep` is False too; no
    `images` then."""

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: v.to(device, non_blocking=True) for n, v in held.items() if isinstance(v, Tensor)}
        return Batch(**held | moved)

    def split(self, rows: int) -> Iterator[Batch]:
        """The batch in consecutive parts of at most `rows` rows, their texts still padded to one length."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
            cut: dict[str, Any] = {name: None if value is None else value[part] for name, value in held.items()}
            yield Batch(**cut)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What every encoder returns and every fusion maps: tokens, which of them are real, and one pooled vector."""

    tokens: Float[Tensor, "b n d"]
    keep: Bool[Tensor, "b n"] | None = None
    """False at padding; None when every token is real."""
    pooled: Float[Tensor, "b d"] | None = None

    def mean(self) -> Float[Tensor, "b d"]:
        """The mean over real tokens; zeros for a row without any."""
        if self.keep is None:
            return self.tokens.mean(1)
        weights = self.keep.to(self.tokens.dtype)[..., None]
        return (self.tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


__all__ = ["Batch", "Encoded", "Example", "Picture", "Sound"]
