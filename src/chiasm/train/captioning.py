"""Training a captioner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chiasm.bundle import Bundle
from chiasm.evaluate import SplitScores, evaluate_captioner, write_results
from chiasm.figures import attention_figure, gallery_figure
from chiasm.generate import GenerateConfig
from chiasm.objectives import Captioning
from chiasm.predict import CaptionPredictor
from chiasm.train.config import TrainConfig
from chiasm.train.task import SAMPLES, Task

if TYPE_CHECKING:
    from chiasm.train.run import Run

GALLERY = 40
LOOKED_AT = 4


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
        write_results(results, run.folder, "captions.jsonl")
        for result in results:
            _draw(run, predictor, result)
        return bundle, results


def _draw(run: Run, predictor: CaptionPredictor, result: SplitScores) -> None:
    """`gallery-SPLIT.png`: pictures from all over the split, right captions green; `attention-SPLIT/` for a few."""
    pictures = run.pictures[result.split]
    every = max(1, len(result.told) // GALLERY)
    places = range(0, len(result.told), every)[:GALLERY]
    told = [result.told[place] for place in places]
    pixels = pictures.pixels_of(pictures.good[list(places)])
    right = [item.caption in item.texts for item in told]
    texts = [t.caption if r else f"{t.caption}\n({t.texts[0]})" for t, r in zip(told, right, strict=True)]
    colours = ["darkgreen" if r else "firebrick" for r in right]
    gallery_figure(list(pixels), texts, run.folder / f"gallery-{result.split}.png", colours=colours)
    chosen = sorted(range(len(told)), key=lambda place: (not right[place], place))[:LOOKED_AT]  # right ones first
    for caption, place in zip(predictor.caption_pixels(pixels[chosen], GenerateConfig()), chosen, strict=True):
        words = [word for word, _ in caption.tokens]
        maps = predictor.attention(pixels[place : place + 1], caption)
        name = re.sub(r"[^\w.-]+", "-", told[place].key)
        attention_figure(pixels[place], words, maps, run.folder / f"attention-{result.split}" / f"{name}.png")
