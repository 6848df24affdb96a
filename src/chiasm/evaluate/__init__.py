"""How good a model is on data: scores with intervals for each split."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_never

from chiasm.data.source import Source
from chiasm.evaluate.captioner import Told, evaluate_captioner
from chiasm.evaluate.classifier import Answered, evaluate_classifier
from chiasm.evaluate.clip import Found, calibrate, evaluate_clip
from chiasm.evaluate.coca import Said, draw_coca, evaluate_coca
from chiasm.evaluate.common import Estimate, SplitScores, beside, scores_table, write_results
from chiasm.evaluate.drawings import draw_answers, draw_calibration, draw_captions, draw_clip
from chiasm.evaluate.flamingo import Shown, evaluate_flamingo
from chiasm.evaluate.lm import Read, evaluate_lm
from chiasm.evaluate.perceiver import Filled, GivenBack, evaluate_masked, evaluate_reconstruction
from chiasm.evaluate.things import things
from chiasm.generate import GenerateConfig
from chiasm.predict import (
    AnyPredictor,
    CaptionPredictor,
    ClassifierPredictor,
    ClipPredictor,
    CocaPredictor,
    FlamingoPredictor,
    LanguagePredictor,
    MaskedPredictor,
    ReconstructionPredictor,
)

TOLD = {
    CaptionPredictor: "captions.jsonl",
    ClipPredictor: "retrieval.jsonl",
    CocaPredictor: "told.jsonl",
    ClassifierPredictor: "answers.jsonl",
    FlamingoPredictor: "shots.jsonl",
    LanguagePredictor: "texts.jsonl",
    MaskedPredictor: "gaps.jsonl",
    ReconstructionPredictor: "rebuilt.jsonl",
}
"""The file of what each kind of model said of every picture."""


def evaluate(
    predictor: AnyPredictor,
    source: Source,
    splits: Sequence[str],
    generate: GenerateConfig | None = None,
    *,
    templates: Sequence[str] = ("{}",),
    max_broken_share: float = 0.05,
) -> list[SplitScores]:
    """The scores that fit the kind of model.

    `generate` is how captions are written (greedily unless said), `templates` make a dual encoder's prompts of labels.
    """
    how = generate or GenerateConfig()
    match predictor:
        case CaptionPredictor():
            return evaluate_captioner(predictor, source, splits, how, max_broken_share=max_broken_share)
        case ClipPredictor():
            return evaluate_clip(
                predictor, source, splits, templates=templates, probe=True, max_broken_share=max_broken_share
            )
        case CocaPredictor():
            return evaluate_coca(
                predictor, source, splits, how, templates=templates, probe=True, max_broken_share=max_broken_share
            )
        case ClassifierPredictor():
            return evaluate_classifier(predictor, source, splits, max_broken_share=max_broken_share)
        case FlamingoPredictor():
            return evaluate_flamingo(predictor, source, splits, how, max_broken_share=max_broken_share)
        case LanguagePredictor():
            return evaluate_lm(predictor, source, splits)
        case MaskedPredictor():
            return evaluate_masked(predictor, source, splits, max_broken_share=max_broken_share)
        case ReconstructionPredictor():
            return evaluate_reconstruction(predictor, source, splits, max_broken_share=max_broken_share)
        case _:
            assert_never(predictor)


__all__ = [
    "TOLD",
    "Answered",
    "Estimate",
    "Filled",
    "Found",
    "GivenBack",
    "Read",
    "Said",
    "Shown",
    "SplitScores",
    "Told",
    "beside",
    "calibrate",
    "draw_answers",
    "draw_calibration",
    "draw_captions",
    "draw_clip",
    "draw_coca",
    "evaluate",
    "evaluate_captioner",
    "evaluate_classifier",
    "evaluate_clip",
    "evaluate_coca",
    "evaluate_flamingo",
    "evaluate_lm",
    "evaluate_masked",
    "evaluate_reconstruction",
    "scores_table",
    "things",
    "write_results",
]
