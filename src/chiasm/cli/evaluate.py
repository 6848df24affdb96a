"""`chiasm evaluate`: a model's scores on data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.data.shapes import ShapesConfig
from chiasm.errors import UserError
from chiasm.evaluate import TOLD, beside, draw_answers, draw_captions, draw_clip, draw_coca, scores_table, write_results
from chiasm.evaluate import evaluate as score
from chiasm.generate import GenerateConfig
from chiasm.predict import CaptionPredictor, ClassifierPredictor, ClipPredictor, CocaPredictor, load
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
    templates: tuple[str, ...] = (),
    negatives: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    difficulty: Literal["lesson", "easy", "hard"] = "easy",
    samples: int = 10_000,
    seed: int = 0,
    max_broken_share: float = 0.05,
    int8: bool = False,
) -> int:
    """Score a trained model on data.

    A captioner: exact match, BLEU, ROUGE-L, CIDEr-D, loss, and its rise with wrong pictures. A Clip: retrieval both
    ways and, where pictures have labels, prompt classification, and a linear probe of the vectors if some of them are
    in a train split. A CoCa: both. A classifier: accuracy, by kind of question too, and its fall with wrong pictures. A
    language model: perplexity. Prints a table with 95 % intervals; OUT gets evaluation.json, evaluation.md, as JSON
    lines what the model said of every picture, drawings, and scores by label where there are some.

    Args:
        run: the folder of a run or a bundle
        data: as for `chiasm train`
        split: the splits to score (all tests where none is named, else all)
        out: a folder for the results
        mode: how captions are written: greedy or beam
        beams: texts kept at each step of a beam search
        length_penalty: beam scores are divided by length to this power
        templates: prompts with {} for a label, whose vectors are averaged, as "a photo of a {}"; the label alone where
            none is given
        negatives: where wrong captions for matching come from, as for `chiasm train` (those of its training)
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
        seed: of the built-in shapes
        max_broken_share: stop where a greater share of the pictures cannot be read
        int8: score the model as it writes with weights of eight bits, and print how far that is from its own scores
    """
    shapes = configs.from_dict(ShapesConfig, {"difficulty": difficulty, "samples": samples, "seed": seed})
    predictor = load(run)
    task = predictor.bundle.task
    if negatives is not None:
        if task is None or task.name != "match":
            raise UserError("Only matching has --negatives", "Leave the option away.")
        task = configs.merge(task, {"negatives": negatives})
    source = DataConfig(path=data, image_column=image_column, text_column=text_column, shapes=shapes, task=task).open()
    splits = split or source.test_splits or list(source.splits)
    config = configs.from_dict(GenerateConfig, {"mode": mode, "beams": beams, "length_penalty": length_penalty})
    prompts = templates or ("{}",)
    rounded = None
    if int8:
        rounded = load(run)
        rounded.write_in_int8()  # before anything is scored: not every model can
    own = results = score(predictor, source, splits, config, templates=prompts, max_broken_share=max_broken_share)
    if not results:
        raise UserError(f"{data} has no pictures in {', '.join(splits)}", source.understood)
    if rounded is not None:
        predictor = rounded
        results = score(predictor, source, splits, config, templates=prompts, max_broken_share=max_broken_share)
    print(scores_table(beside(own, results, "int8") if int8 else results))
    if out is not None:
        told = TOLD[type(predictor)]
        write_results(results, out, told)
        if isinstance(predictor, CaptionPredictor):
            draw_captions(predictor, source, results, out)
        elif isinstance(predictor, ClassifierPredictor):
            draw_answers(predictor, source, results, out)
        elif isinstance(predictor, ClipPredictor):
            draw_clip(predictor, source, results, out)
        elif isinstance(predictor, CocaPredictor):
            draw_coca(predictor, source, results, out)
        print(f"\nresults    {out / 'evaluation.json'}\ntold       {out / told}")
    return 0
