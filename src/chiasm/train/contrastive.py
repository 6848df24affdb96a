"""Training a dual encoder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from chiasm.bundle import Bundle
from chiasm.errors import UserError
from chiasm.evaluate import TOLD, SplitScores, calibrate, draw_calibration, draw_clip, evaluate_clip, write_results
from chiasm.losses import refuse_batch_norm
from chiasm.objectives import Contrastive
from chiasm.predict import ClipPredictor
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run

CANDIDATES = 1000
"""Validation texts among which samples are looked for."""


class ContrastiveTask(Task):
    """InfoNCE or the sigmoid loss; retrieval both ways is what is scored."""

    title = "Clip"
    explained = (
        "image_to_text_r<k>: share of pictures with an own text among the k nearest texts of the split; "
        "text_to_image_r<k>: the other way round; all_texts_r<k>: among all different texts of the data. Things with "
        "the same texts count as one; ties are never hits by luck, so a collapsed model scores chance."
    )

    def __init__(self) -> None:
        self.objective = Contrastive()

    def start(self, run: Run) -> None:
        """The sigmoid loss starts where one pair of a batch's rows is true (2303.15343, with open_clip's #650)."""
        model: Any = run.model
        if run.config.train.accumulate > 1:
            try:
                refuse_batch_norm(model)
            except ValueError as error:
                raise UserError(
                    f"train.accumulate is {run.config.train.accumulate}: {error}", "Set it to 1."
                ) from error
        if model.bias is not None and run.config.start is None:
            share = 1 / max(2, min(run.config.train.batch_size, len(run.loader)))
            with torch.no_grad():
                model.bias.fill_(math.log(share / (1 - share)))

    def samples(self, run: Run) -> list[dict[str, str]]:
        """The nearest of the validation texts."""
        pictures = run.pictures["val"]
        chosen = pictures.good[:SAMPLES]
        examples = [run.source.split("val")[int(i)] for i in pictures.good[:CANDIDATES]]
        texts = list(dict.fromkeys(text for example in examples for text in example.texts))
        predictor = ClipPredictor(run.bundle(run.model))
        cosines = predictor.embed_pixels(pictures.pixels_of(chosen)) @ predictor.embed_texts(texts, truncate=True).T
        found = [texts[at] for at in cosines.argmax(1)]
        return [{"key": e.key, "text": e.texts[0], "said": said} for e, said in zip(examples, found, strict=False)]

    def evaluate(self, run: Run, bundle: Bundle, splits: list[str]) -> tuple[Bundle, list[SplitScores]]:
        """Retrieval on every split, drawings, and what cosines mean, from the validation split."""
        bundle = calibrated(run, bundle)
        predictor = ClipPredictor(bundle)
        results = evaluate_clip(predictor, run.source, splits, max_broken_share=1.0)
        write_results(results, run.folder, TOLD[ClipPredictor])
        draw_clip(predictor, run.source, results, run.folder)
        return bundle, results


def calibrated(run: Run, bundle: Bundle) -> Bundle:
    """The bundle with what cosines mean, from the validation split, which is drawn too; as it is without one."""
    if "val" not in run.pictures or not len(run.pictures["val"].good):
        return bundle
    bundle = replace(bundle, calibration=calibrate(ClipPredictor(bundle), run.source, "val"))
    if bundle.calibration is not None:
        draw_calibration(bundle.calibration, run.folder / "calibration.png")
    return bundle
