"""`chiasm classify`: which of some labels fits each picture."""

from __future__ import annotations

import json as _json
from dataclasses import asdict
from pathlib import Path

from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.errors import UserError
from chiasm.predict import ClipPredictor, Guess


def classify(
    run: Path,
    pictures: tuple[str, ...],
    *,
    labels: tuple[str, ...] = (),
    labels_file: Path | None = None,
    templates: tuple[str, ...] = (),
    truncate: bool = False,
    top: int = 3,
    json: bool = False,
) -> int:
    """Which of your labels fits each picture.

    Prints a line per picture: path, the best label, its share among the labels, and the probability that a pair of so
    high a cosine is a true one (where the model was calibrated on held-out pairs); then the next labels. A picture that
    no label fits better than a random one is marked "nothing matches".

    Args:
        run: the folder of a run or a bundle
        pictures: files, folders (all pictures in them) or globs
        labels: the labels, each in quotes where it has spaces
        labels_file: a text file with a label per line, instead
        templates: prompts with {} for the label, whose vectors are averaged, as "a photo of a {}"; the label alone
            where none is given
        truncate: cut prompts that are longer than the model's context
        top: how many labels to print per picture
        json: one JSON object per picture
    """
    if labels_file is not None:
        try:
            lines = labels_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{labels_file} cannot be read: {error}", "It is a text file, a label per line.") from error
        labels = (*labels, *(line.strip() for line in lines if line.strip()))
    if not labels:
        raise UserError("There are no labels", 'Name them: --labels "a dog" "a cat", or --labels-file FILE.')
    if top < 1:
        raise UserError(f"--top is {top}", "It must be at least 1.")
    predictor = ClipPredictor.load(run)
    vectors = predictor.embed_labels(labels, templates or ("{}",), truncate=truncate)
    for paths, pixels in in_batches(predictor, find_pictures(pictures), "classifying"):
        guesses = predictor.choose(predictor.embed_pixels(pixels), labels, vectors)
        for path, ranked in zip(paths, guesses, strict=True):
            matches = predictor.matches(ranked[0].cosine, len(labels))
            print(_as_json(path, ranked[:top], matches) if json else _as_line(path, ranked[:top], matches), flush=True)
    return 0


def _as_line(path: Path, guesses: list[Guess], matches: bool | None) -> str:
    best, *others = (f"{guess.label} {guess.share:.2f}" for guess in guesses)
    probability = "" if guesses[0].probability is None else f"\t{guesses[0].probability:.2f}"
    rest = f"\t({', '.join(others)})" if others else ""
    note = "\tnothing matches" if matches is False else ""
    return f"{path}\t{best}{probability}{rest}{note}"


def _as_json(path: Path, guesses: list[Guess], matches: bool | None) -> str:
    data = {"path": str(path), "matches": matches, "labels": [asdict(guess) for guess in guesses]}
    return _json.dumps(data, ensure_ascii=False)
