"""Training a CoCa."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.evaluate import TOLD, SplitScores, draw_coca, evaluate_coca, write_results
from chiasm.generate import GenerateConfig
from chiasm.objectives import ContrastiveCaptioning
from chiasm.predict import CocaPredictor
from chiasm.train.captioning import CaptioningTask
from chiasm.train.config import TrainConfig
from chiasm.train.contrastive import ContrastiveTask, calibrated
from chiasm.train.task import Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class CocaTask(Task):
    """Contrastive and captioning losses at once; captions and retrieval are what is scored."""

    title = "CoCa"
    explained = f"{CaptioningTask.explained} {ContrastiveTask.explained}"

    def __init__(self, config: TrainConfig):
        self.objective = ContrastiveCaptioning(label_smoothing=config.label_smoothing)
        self.captioning, self.contrastive = CaptioningTask(config), ContrastiveTask()

    def start(self, run: Run) -> None:
        """As for a dual encoder."""
        self.contrastive.start(run)

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Captions."""
        return self.captioning.samples(run)

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Captions and retrieval on every split, drawings, and what cosines mean, from the validation split."""
        bundle = calibrated(run, bundle)
        predictor = CocaPredictor(bundle)
        results = evaluate_coca(predictor, run.source, splits, GenerateConfig(), max_broken_share=1.0)
        write_results(results, run.folder, TOLD[CocaPredictor])
        draw_coca(predictor, run.source, results, run.folder)
        return bundle, results
