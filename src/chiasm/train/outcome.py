"""What a finished run leaves in its folder: the bundle, scores, a card, and pictures to look at."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import chiasm
from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.evaluate import SplitScores, evaluate_captioner, scores_table, write_results
from chiasm.figures import attention_figure, curves_figure, gallery_figure
from chiasm.generate import GenerateConfig
from chiasm.predict import Predictor
from chiasm.train.callbacks import read_metrics

if TYPE_CHECKING:
    from chiasm.train.run import Run

GALLERY = 40
LOOKED_AT = 4


def describe_outcome(run: Run, bundle: Bundle, best_step: int) -> list[SplitScores]:
    """Score the model on every test split (on validation where there is none), and write all that describes it."""
    folder = run.folder
    rows = read_metrics(folder / "metrics.csv")
    curves_figure(rows, folder / "curves.png")
    predictor = Predictor(bundle)
    readable = [name for name, pictures in run.pictures.items() if len(pictures.good)]
    tests = [name for name in readable if name in run.source.test_splits]
    splits = tests or [name for name in readable if name == "val"]
    results = evaluate_captioner(predictor, run.source, splits, GenerateConfig(), max_broken_share=1.0)
    write_results(results, folder)
    for result in results:
        _draw(run, predictor, result)
    card = _card(run, results, best_step, minutes=rows[-1]["seconds"] / 60 if rows else 0.0)
    (folder / "card.md").write_text(card, encoding="utf-8")
    replace(bundle, card=card).save(folder / "bundle")
    return results


def _draw(run: Run, predictor: Predictor, result: SplitScores) -> None:
    """`gallery-SPLIT.png`: pictures from all over the split, right captions green; `attention-SPLIT/` for a few."""
    pictures = run.pictures[result.split]
    every = max(1, len(result.captions) // GALLERY)
    places = range(0, len(result.captions), every)[:GALLERY]
    told = [result.captions[place] for place in places]
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


def _card(run: Run, results: list[SplitScores], best_step: int, minutes: float) -> str:
    train = run.config.train
    sizes = {name: len(indices) for name, indices in run.source.splits.items()}
    broken = sum(len(p.broken) for p in run.pictures.values())
    parameters = sum(p.numel() for p in run.model.parameters())
    kept = f"the best by validation loss, of step {best_step}" if train.keep == "best" else "the last"
    lines = [
        f"# Captioner trained on {run.source.name}",
        "",
        f"- data: {run.source.understood} (fingerprint {run.source.fingerprint})",
        f"- splits: {', '.join(f'{name} {count:,}' for name, count in sizes.items())}; {broken} broken left out",
        f"- model: {parameters:,} parameters; settings in config.json, fingerprint {configs.fingerprint(run.config)}",
        f"- training: {train.steps:,} steps of {train.batch_size} pictures, {train.precision}, {minutes:.1f} minutes; "
        f"weights kept: {kept}",
        f"- chiasm {chiasm.__version__}, torch {torch.__version__}",
        "",
        "Scores of greedy captions, with 95 % bootstrap intervals over pictures:",
        "",
        scores_table(results),
        "",
        "exact_match: share of captions that equal one of the picture's texts. shuffled_rise: by how many nats per "
        "token the loss rises when every picture is exchanged for another; near 0, the decoder ignores the picture.",
    ]
    return "\n".join(lines) + "\n"


__all__ = ["describe_outcome"]
