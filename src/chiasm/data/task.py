"""What a classifier is asked about the examples of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chiasm.data.source import Source, class_names
from chiasm.errors import UserError

CLIP = "clip:"
"""What stands before the folder of a trained dual encoder that chooses wrong captions."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """match: is this the caption of this picture? answer: the answer to a question. label: the class of an example."""

    name: Literal["match", "answer", "label"]
    negatives: str = "random"
    """Of match, where wrong captions come from: random; text, those with similar words; clip:FOLDER, those that a
    trained dual encoder finds nearest to the picture."""

    def __post_init__(self) -> None:
        if self.negatives not in ("random", "text") and not self.negatives.removeprefix(CLIP):
            raise ValueError("negatives is 'clip:' without the folder of a trained clip")
        if self.negatives not in ("random", "text") and not self.negatives.startswith(CLIP):
            raise ValueError(f"negatives is {self.negatives!r}, it must be random, text, or clip:FOLDER")


def check_labels(source: Source, task: TaskConfig) -> None:
    """UserError where the training examples have no labels (or answers) to learn from, or only one."""
    train = source.split("train")
    names = class_names(train)
    if len(names) > 1:
        return
    what = {"match": "captions", "answer": "answers", "label": "labels"}[task.name]
    hint = {
        "match": "Matching needs pictures with different texts.",
        "answer": "A table needs the columns question and answer; of the built-in data sets, shapes has questions.",
        "label": "A table needs a column label (or class, category); a folder needs a folder per class.",
    }[task.name]
    told = f"only one: {names[0]!r}" if names else f"none, of {len(train):,} examples"
    raise UserError(f"{source.name} has too few different {what} to train on: {told}", f"{hint} {source.understood}")


__all__ = ["CLIP", "TaskConfig", "check_labels"]
