"""Asking a trained CoCa: it is a captioner and a dual encoder on the same weights."""

from __future__ import annotations

from chiasm.bundle import Bundle
from chiasm.models import Coca
from chiasm.predict.base import Predictor
from chiasm.predict.captioner import CaptionPredictor
from chiasm.predict.clip import ClipPredictor


class CocaPredictor(Predictor):
    """A trained CoCa that can be asked for captions (`writer`), and for vectors (`embedder`)."""

    model_class = Coca
    model: Coca

    def __init__(self, bundle: Bundle):
        super().__init__(bundle)
        self.writer, self.embedder = CaptionPredictor(bundle), ClipPredictor(bundle)
        self.caption, self.stream = self.writer.caption, self.writer.stream
        self.embed_images, self.embed_texts = self.embedder.embed_images, self.embedder.embed_texts
        self.classify, self.similarity = self.embedder.classify, self.embedder.similarity


__all__ = ["CocaPredictor"]
