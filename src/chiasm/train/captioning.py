"""Training a captioner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.evaluate import TOLD, SplitScores, draw_captions, evaluate_captioner, write_results
from chiasm.generate import GenerateConfig
from chiasm.objectives import Captioning
from chiasm.predict import CaptionPredictor
from chiasm.train.config import TrainConfig
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class CaptioningTask(Task):
    """Next-token prediction; greedy captions are what is scored."""

    title = "Captioner"
    explained = (
        "Scores of greedy captions. exact_match: share of captions that equal one of the picture's texts. "
        "shuffled_rise: by how many nats per token the loss rises when every picture is exchanged for another; near "
        "0, the decoder ignores the picture."
    )

    def __init__(self, config: TrainConfig):
        self.objective = Captioning(label_smoothing=config.label_smoothing)

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Captions."""
        pictures = run.pictures["val"]
        chosen = pictures.good[:SAMPLES]
        predictor = CaptionPredictor(run.bundle(run.model))
        captions = predictor.caption_pixels(pictures.pixels_of(chosen), GenerateConfig())
        examples = [run.source.split("val")[int(i)] for i in chosen]
        return [{"key": e.key, "text": e.texts[0], "said": c.text} for e, c in zip(examples, captions, strict=True)]

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Captions of every picture, their scores, and drawings of some."""
        predictor = CaptionPredictor(bundle)
        results = evaluate_captioner(predictor, run.source, splits, GenerateConfig(), max_broken_share=1.0)
        write_results(results, run.folder, TOLD[CaptionPredictor])
        draw_captions(predictor, run.source, results, run.folder)
        return bundle, results
