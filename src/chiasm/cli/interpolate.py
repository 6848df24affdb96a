"""`chiasm interpolate`: the models between a model and its fine-tuned version, on new and old data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from chiasm import config as configs
from chiasm.bundle import Bundle
from chiasm.data.shapes import ShapesConfig
from chiasm.data.source import Source
from chiasm.errors import UserError
from chiasm.figures import interpolation_figure
from chiasm.train.config import DataConfig
from chiasm.train.interpolate import calibrated, sweep
from chiasm.train.interpolate import interpolate as mix
from chiasm.train.start import load_start


def interpolate(
    original: str,
    tuned: Path,
    data: str,
    *,
    old: tuple[str, ...],
    out: Path = Path("interpolation"),
    points: int = 11,
    score: str | None = None,
    split: str | None = None,
    old_split: str | None = None,
    save: tuple[str, ...] = (),
    image_column: str | None = None,
    text_column: str | None = None,
    difficulty: Literal["lesson", "easy", "hard"] = "easy",
    samples: int = 10_000,
    seed: int = 0,
) -> int:
    """Score the models between a model and its fine-tuned version, on what it was tuned for and on what it knew.

    Weights are mixed: alpha 0 is the original, 1 the tuned model; between them there often is one that has learnt the
    new and not forgotten the old. Prints a table with 95 % intervals; OUT gets interpolation.json and
    interpolation.png.

    Args:
        original: the folder of a run, a bundle, or published CLIP weights
        tuned: the folder of a run that was trained from it
        data: the new data, as for `chiasm train`
        old: the old data: one set or several, whose scores are averaged
        out: the folder for the results
        points: how many values of alpha, from 0 to 1
        score: the score to compare, one of those in evaluation.json (the first in its table)
        split: of the new data (its first test split, or else validation)
        old_split: of the old data
        save: ALPHA FOLDER: write that model as a bundle; alpha is a number, or best
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        difficulty: of the built-in shapes
        samples: how many of the built-in shapes
        seed: of the built-in shapes
    """
    if points < 2:
        raise UserError(f"--points is {points}", "The original and the tuned model alone are 2.")
    alpha_saved = _saved_alpha(save)
    shapes = configs.from_dict(ShapesConfig, {"difficulty": difficulty, "samples": samples, "seed": seed})
    columns = {"image_column": image_column, "text_column": text_column, "shapes": shapes}
    sources = [DataConfig(path=path, **columns).open() for path in (data, *old)]
    new, *others = [(source, _split(source, split if i == 0 else old_split)) for i, source in enumerate(sources)]
    first, last = load_start(original), Bundle.load(tuned)
    found = sweep(first, last, new, others, [i / (points - 1) for i in range(points)], score=score)
    table = found.table(f"{data} {new[1]}", [f"{path} {s}" for path, (_, s) in zip(old, others, strict=True)])
    print(f"{found.score}\n\n{table}\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / "interpolation.json").write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    interpolation_figure(
        [point.alpha for point in found.points],
        [point.new for point in found.points],
        [point.old_mean for point in found.points],
        out / "interpolation.png",
        score=found.score,
        best=found.best.alpha,
    )
    print(f"results    {out / 'interpolation.json'}\npicture    {out / 'interpolation.png'}")
    if save:
        alpha = found.best.alpha if alpha_saved is None else alpha_saved
        told = f"# {alpha:g} of the way from {original} to {tuned}\n\n{found.score}\n\n{table}\n"
        replace(calibrated(mix(first, last, alpha), new[0]), card=told).save(Path(save[1]))
        print(f"model      {save[1]} (alpha {alpha:g})")
    return 0


def _saved_alpha(save: tuple[str, ...]) -> float | None:
    """The alpha to save, None for the best."""
    if not save:
        return None
    if len(save) != 2:
        raise UserError(f"--save {' '.join(save)} is not an alpha and a folder", "For example: --save best runs/both")
    if save[0] == "best":
        return None
    try:
        alpha = float(save[0])
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise UserError(f"--save {save[0]} is no alpha", "It is a number from 0 to 1, or best.")
    return alpha


def _split(source: Source, name: str | None) -> str:
    found = name or next((s for s in (*source.test_splits, "val", *source.splits) if len(source.splits.get(s, ()))), "")
    source.split(found)
    return found
