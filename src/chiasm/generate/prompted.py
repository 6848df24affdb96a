"""Writing on from a prompt, with any Writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models import Writer
from chiasm.models.language import TextRules


class Prompted(Writer[Any]):
    """A writer whose every text goes on from one prompt, itself no part of what is then written.

    The prompt is read when a draft is started, but for its last token, which takes the place of the first BOS; no
    other BOS is ever written. ValueError where the prompt leaves no room for a word.
    """

    def __init__(self, writer: Writer[Any], prompt: Sequence[int]):
        self.writer = writer
        self.tokens = [writer.rules.start, *prompt]
        self._rules = replace(writer.rules, context=writer.rules.context - len(prompt))

    @property
    def rules(self) -> TextRules:
        """The writer's, with the room that is left."""
        return self._rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> Any:
        """A draft that has read the prompt."""
        draft = self.writer.start(images, beams)
        for token in self.tokens[:-1]:
            self.writer.step(torch.full((len(images) * beams,), token, device=images.device), draft)
        return draft

    def step(self, ids: Int[Tensor, " r"], draft: Any) -> Float[Tensor, "r v"]:
        """The writer's step, first with the prompt's last token."""
        return self.writer.step(ids.masked_fill(ids == self._rules.start, self.tokens[-1]), draft)

    def reorder(self, draft: Any, rows: Int[Tensor, " r"]) -> None:
        """As the writer does it."""
        self.writer.reorder(draft, rows)
