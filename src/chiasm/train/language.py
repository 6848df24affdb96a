"""Training a language model on text alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.evaluate import TOLD, SplitScores, evaluate_lm, write_results
from chiasm.objectives import Captioning
from chiasm.predict import LanguagePredictor
from chiasm.train.config import TrainConfig
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class LanguageTask(Task):
    """Next-token prediction without pictures."""

    title = "Language model"
    explained = (
        "token_loss: mean over all tokens of texts that were not trained on, their ends counted, in nats. perplexity: "
        "its exponential, the number of tokens among which an even choice would be as hard."
    )

    def __init__(self, config: TrainConfig):
        self.objective = Captioning(label_smoothing=config.label_smoothing)

    def samples(self, run: Run) -> list[dict[str, str]]:
        """What the model makes of the first half of some texts."""
        predictor = LanguagePredictor(run.bundle(run.model))
        examples = run.source.split("val")[:SAMPLES]
        halves = [" ".join((words := e.texts[0].split())[: len(words) // 2]) for e in examples]
        return [
            {"key": e.key, "text": e.texts[0], "said": predictor.write(half).text}
            for e, half in zip(examples, halves, strict=True)
        ]

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Perplexities."""
        results = evaluate_lm(LanguagePredictor(bundle), run.source, splits)
        write_results(results, run.folder, TOLD[LanguagePredictor])
        return bundle, results
