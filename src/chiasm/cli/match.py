"""`chiasm match`: whether captions belong to pictures."""

from __future__ import annotations

import json as _json
from pathlib import Path

from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.data.matching import YES
from chiasm.predict import ClassifierPredictor


def match(run: Path, picture: str, captions: tuple[str, ...], *, json: bool = False) -> int:
    """Tell whether captions belong to a picture.

    Prints a line per caption, the likeliest first: the picture's path, the probability that it is the picture's
    caption, and the caption. Each is judged by itself, so several may be true, or none.

    Args:
        run: the folder of a run or a bundle (of `chiasm train fusion DATA --task match`)
        picture: a file, or a folder (all pictures in it) or a glob, to judge each
        captions: the captions, each in quotes
        json: one JSON object per picture and caption
    """
    predictor = ClassifierPredictor.load(run)
    predictor.check_task("match")
    for paths, pixels in in_batches(predictor, find_pictures([picture]), "matching"):
        for path, pixel in zip(paths, pixels, strict=True):
            found = predictor.about(pixel, captions)[:, predictor.classes.index(YES)].tolist()
            for probability, caption in sorted(zip(found, captions, strict=True), reverse=True):
                told = {"path": str(path), "caption": caption, "probability": round(probability, 5)}
                line = f"{path}\t{probability:.2f}\t{caption}"
                print(_json.dumps(told, ensure_ascii=False) if json else line, flush=True)
    return 0
