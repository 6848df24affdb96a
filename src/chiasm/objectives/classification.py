"""Tell which class an example is of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.losses import cross_entropy
from chiasm.models import Classifier
from chiasm.objectives.base import STUCK_SHARE, Objective, Rows, mean_of
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """Tell which class an example is of: cross-entropy, over the examples that have a label.

    Sums and not means, so that a batch that is run in parts has exactly the whole batch's mean over labelled examples.
    """

    label_smoothing: float = 0.0
    unit: ClassVar[str] = "loss per example, nats"
    columns: ClassVar[tuple[str, ...]] = ("class_loss", "accuracy", "chance")

    def __call__(self, model: Classifier, batch: Batch) -> dict[str, Tensor]:
        """`loss` (smoothed) and `class_loss` (plain), summed over labelled examples, in nats, and how many are `right`.

        ValueError for a batch without labels.
        """
        return self._losses(*_labelled(model.classify(batch), batch))

    def backward(
        self, model: Classifier, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the mean over the whole batch's labelled examples; zero where there are none."""
        count = max(1, int((_labels(batch) >= 0).sum()))
        sums = {"loss": 0.0, "class_loss": 0.0, "accuracy": 0.0}
        seen = []
        for part in batch.split(math.ceil(len(batch) / parts)):
            logits, labels = _labelled(model.classify(part), part)
            losses = self._losses(logits, labels)
            backward(losses["loss"] / count)
            for name, value in zip(sums, losses.values(), strict=True):
                sums[name] += float(value.detach()) / count
            seen.append((logits.detach(), labels))
        logits, labels = (torch.cat(side) for side in zip(*seen, strict=True))
        return sums | {"chance": _chance(logits, labels)}

    def plain(self, model: Classifier, batch: Batch) -> Tensor:
        """Every example is of the first class."""
        return -model.classify(batch).float().log_softmax(-1)[:, 0].sum()

    def validate(self, model: Classifier, batch: Batch) -> tuple[float, int]:
        """The plain loss, by labelled examples."""
        logits, labels = _labelled(model.classify(batch), batch)
        return float(self._losses(logits.detach(), labels)["class_loss"]), len(labels)

    def advice(self, rows: Rows) -> str | None:
        """What to try where the loss stays at `chance`: 98 % of it or more."""
        loss, chance = mean_of(rows, "class_loss"), mean_of(rows, "chance")
        if loss < STUCK_SHARE * chance:
            return None
        return (
            f"The loss, {loss:.3f}, is that of a model that answers every example alike ({chance:.3f}); try a lower or "
            "higher train.learning_rate, a longer train.warmup, more steps, and check that the labels belong to what "
            "the model sees."
        )

    def ending(self, model: Any, rows: Rows) -> list[str]:
        """Where loss and accuracy ended."""
        return [
            f"the training loss ended at {mean_of(rows, 'class_loss'):.3f}; {mean_of(rows, 'chance'):.3f} would be "
            f"chance; {100 * mean_of(rows, 'accuracy'):.1f} % of the last training examples were answered right"
        ]

    def _losses(self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> dict[str, Tensor]:
        smoothed, plain = cross_entropy(logits, labels, self.label_smoothing)
        return {"loss": smoothed, "class_loss": plain, "right": (logits.argmax(-1) == labels).sum()}


def _labels(batch: Batch) -> Int[Tensor, " b"]:
    if batch.labels is None:
        raise ValueError("the batch has no labels")
    return batch.labels


def _labelled(logits: Float[Tensor, "b classes"], batch: Batch) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
    labels = _labels(batch)
    there = labels >= 0
    return logits[there], labels[there]


def _chance(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> float:
    """The loss of the model's own average answer, in nats: that of the model, where it answers every example alike.

    Unlike the entropy of a batch's labels, it is not too small where classes are many and the batch is not.
    """
    if not len(labels):
        return 0.0
    average = logits.float().log_softmax(-1).logsumexp(0) - math.log(len(labels))
    return -float(average[labels].mean())
