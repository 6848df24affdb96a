"""How good a CoCa is: as a captioner and as a dual encoder, on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from chiasm.data.source import Source
from chiasm.evaluate.captioner import Told, evaluate_captioner
from chiasm.evaluate.clip import Found, evaluate_clip
from chiasm.evaluate.common import SplitScores
from chiasm.evaluate.drawings import draw_captions, draw_clip
from chiasm.generate import GenerateConfig
from chiasm.predict import CocaPredictor

COLUMNS = ("exact_match", "cider_d", "perplexity", "shuffled_rise", "image_to_text_r1", "text_to_image_r1",
           "all_texts_r1", "label_top1", "probe_top1")  # fmt: skip


@dataclass(frozen=True)
class Said(Told, Found):
    """What the model wrote about one picture, and which text it found nearest."""


def evaluate_coca(
    predictor: CocaPredictor,
    source: Source,
    splits: Sequence[str],
    config: GenerateConfig,
    *,
    templates: Sequence[str] = ("{}",),
    probe: bool = False,
    max_broken_share: float = 0.05,
) -> list[SplitScores]:
    """The scores of `evaluate_captioner` and of `evaluate_clip`, together."""
    written = evaluate_captioner(predictor.writer, source, splits, config, max_broken_share=max_broken_share)
    found = evaluate_clip(
        predictor.embedder, source, splits, templates=templates, probe=probe, max_broken_share=max_broken_share
    )
    return [_together(*both) for both in zip(written, found, strict=True)]


def draw_coca(predictor: CocaPredictor, source: Source, results: Sequence[SplitScores], folder: Path) -> None:
    """What is drawn of a dual encoder and of a captioner; the gallery is the captioner's."""
    draw_clip(predictor.embedder, source, results, folder)
    draw_captions(predictor.writer, source, results, folder)


def _together(written: SplitScores, found: SplitScores) -> SplitScores:
    scores = written.scores | found.scores
    told = [Said(**(asdict(f) | asdict(w))) for w, f in zip(written.told, found.told, strict=True)]
    return replace(found, scores=scores, columns=tuple(name for name in COLUMNS if name in scores), told=told)


__all__ = ["Said", "draw_coca", "evaluate_coca"]
