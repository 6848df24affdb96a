"""`chiasm evaluate`: a model's scores on data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.data.shapes import ShapesConfig
from chiasm.errors import UserError
from chiasm.evaluate import evaluate_captioner, scores_table, write_results
from chiasm.generate import GenerateConfig
from chiasm.predict import Predictor
from chiasm.train.config import DataConfig


def evaluate(
    run: Path,
    data: str,
    *,
    split: tuple[str, ...] = (),
    out: Path | None = None,
    mode: Literal["greedy", "beam"] = "greedy",
    beams: int = 4,
    length_penalty: float = 1.0,
    image_column: str | None = None,
    text_column: str | None = None,
    difficulty: Literal["lesson", "easy", "hard"] = "easy",
    samples: int = 10_000,
    seed: int = 0,
    max_broken_share: float = 0.05,
) -> int:
    """Score a trained captioner: exact match, BLEU, ROUGE-L, CIDEr-D, loss, and its rise with wrong pictures.

    Prints a table with 95 % intervals; OUT gets evaluation.json, evaluation.md and captions.jsonl.

    Args:
        run: the folder of a run or a bundle
        data: as for `chiasm train captioner`
        split: the splits to score (all tests where none is named, else all)
        out: a folder for the results
        mode: greedy or beam
        beams: texts kept at each step of a beam search
        length_penalty: beam scores are divided by length to this power
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
        seed: of the built-in shapes
        max_broken_share: stop where a greater share of the pictures cannot be read
    """
    shapes = configs.from_dict(ShapesConfig, {"difficulty": difficulty, "samples": samples, "seed": seed})
    source = DataConfig(path=data, image_column=image_column, text_column=text_column, shapes=shapes).open()
    predictor = Predictor.load(run)
    splits = split or source.test_splits or list(source.splits)
    config = configs.from_dict(GenerateConfig, {"mode": mode, "beams": beams, "length_penalty": length_penalty})
    results = evaluate_captioner(predictor, source, splits, config, max_broken_share=max_broken_share)
    if not results:
        raise UserError(f"{data} has no pictures in {', '.join(splits)}", source.understood)
    print(scores_table(results))
    if out is not None:
        write_results(results, out)
        print(f"\nresults    {out / 'evaluation.json'}\ncaptions   {out / 'captions.jsonl'}")
    return 0
