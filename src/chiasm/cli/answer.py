"""`chiasm answer`: answers to questions about pictures."""

from __future__ import annotations

from pathlib import Path

from chiasm.cli.classify import check_top, print_answers
from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.predict import ClassifierPredictor


def answer(run: Path, picture: str, questions: tuple[str, ...], *, top: int = 3, json: bool = False) -> int:
    """Answer questions about a picture.

    Prints a line per question: the picture's path, the question, the likeliest answer and its probability; then the
    next answers.

    Args:
        run: the folder of a run or a bundle (of `chiasm train fusion DATA --task answer`)
        picture: a file, or a folder (all pictures in it) or a glob, to ask about each
        questions: the questions, each in quotes
        top: how many answers to print per question
        json: one JSON object per picture and question
    """
    check_top(top)
    predictor = ClassifierPredictor.load(run)
    predictor.check_task("answer")
    for paths, pixels in in_batches(predictor, find_pictures([picture]), "answering"):
        for path, pixel in zip(paths, pixels, strict=True):
            for question, ranked in zip(questions, predictor.ranked(predictor.about(pixel, questions)), strict=True):
                print_answers({"path": str(path), "question": question}, ranked[:top], json)
    return 0
