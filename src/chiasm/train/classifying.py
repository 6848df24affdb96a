"""Training a classifier: to match pictures with captions, to answer questions, to tell classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.data.columns import label_text
from chiasm.errors import UserError
from chiasm.evaluate import TOLD, SplitScores, draw_answers, evaluate_classifier, write_results
from chiasm.objectives import Classification
from chiasm.predict import ClassifierPredictor
from chiasm.train.config import RunConfig
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run


class ClassificationTask(Task):
    """Cross-entropy over the classes of the training split; accuracy is what is scored."""

    title = "Classifier"
    explained = (
        "accuracy: share of examples whose answer is right. baseline: that of the commonest training answer to the "
        "same words, without the picture. shuffled_drop: by how much accuracy falls when pictures are exchanged; near "
        "0, the picture is ignored. log_loss: in nats. calibration_error: by how much probabilities miss the share of "
        "right answers. unknown_labels: share of examples whose label was never trained on, which count as wrong."
    )

    def __init__(self, config: RunConfig):
        if config.data.task is None:
            raise UserError("A classifier needs a task", "Say what is asked: --task match, answer or label.")
        # A picture's right and wrong caption side by side: what differs is what must be learnt. On emoji, matching then
        # begins to be learnt after about 20 steps; with the two apart, after about 60.
        self.together = 2 if config.data.task.name == "match" else 1
        self.objective = Classification(label_smoothing=config.train.label_smoothing)

    def start(self, run: Run) -> None:
        """UserError where the texts, which the model reads, are the classes' names and so betray the answers."""
        train = run.source.split("train")
        if run.tokenizer is None or not all(e.texts in ((), (label_text(e.label),)) for e in train):
            return
        if any(e.texts for e in train):
            raise UserError(
                f"Every text of {run.source.name} is the name of the example's class: the answer would be read",
                "Add a column of texts, or train on the pictures alone: chiasm train vit, or --inputs picture.",
            )

    def samples(self, run: Run) -> list[dict[str, str]]:
        """The likeliest answers, beside the right ones."""
        assert run.val_loader is not None
        predictor = ClassifierPredictor(run.bundle(run.model))
        batch = next(run.val_loader.in_order(SAMPLES))
        examples = [run.source.split("val")[int(row)] for row in run.pictures["val"].good[:SAMPLES]]
        said = predictor.ranked(predictor.probabilities_of(batch))
        return [
            {"key": e.key, "text": _asked(predictor, e.texts, e.label), "said": ranked[0].label}
            for e, ranked in zip(examples, said, strict=True)
        ]

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Answers to everything, their scores, and drawings of some."""
        predictor = ClassifierPredictor(bundle)
        results = evaluate_classifier(predictor, run.source, splits, max_broken_share=1.0)
        write_results(results, run.folder, TOLD[ClassifierPredictor])
        draw_answers(predictor, run.source, results, run.folder)
        return bundle, results


def _asked(predictor: ClassifierPredictor, texts: tuple[str, ...], label: str) -> str:
    return f"{texts[0]} ({label})" if predictor.reads_texts and texts else label


__all__ = ["ClassificationTask"]
