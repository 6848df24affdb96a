"""`chiasm classify`: which of some labels, or of its own classes, a model gives each picture."""

from __future__ import annotations

import json as _json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.errors import UserError
from chiasm.predict import Answer, ClassifierPredictor, ClipPredictor, Guess, load


def classify(
    run: Path,
    pictures: tuple[str, ...],
    *,
    labels: tuple[str, ...] = (),
    labels_file: Path | None = None,
    text: str | None = None,
    templates: tuple[str, ...] = (),
    truncate: bool = False,
    top: int = 3,
    json: bool = False,
) -> int:
    """Which label fits each picture: of yours, by a Clip, or of those that a classifier was trained on.

    Prints a line per picture: path, the best label, its share among the labels, and of a Clip the probability that a
    pair of so high a cosine is a true one (where the model was calibrated on held-out pairs); then the next labels. A
    picture that none of your labels fits better than a random one is marked "nothing matches".

    Args:
        run: the folder of a run or a bundle
        pictures: files, folders (all pictures in them) or globs
        labels: the labels, each in quotes where it has spaces; none for a classifier, which has its own
        labels_file: a text file with a label per line, instead
        text: what comes with the picture, for a classifier that was trained on pictures with texts
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
    check_top(top)
    predictor = load(run)
    if isinstance(predictor, ClassifierPredictor):
        return _by_own_classes(predictor, pictures, labels, text, top, json)
    if not isinstance(predictor, ClipPredictor):
        predictor = ClipPredictor(predictor.bundle)  # says what it is instead
    if not labels:
        raise UserError("There are no labels", 'Name them: --labels "a dog" "a cat", or --labels-file FILE.')
    vectors = predictor.embed_labels(labels, templates or ("{}",), truncate=truncate)
    for paths, pixels in in_batches(predictor, find_pictures(pictures), "classifying"):
        guesses = predictor.choose(predictor.embed_pixels(pixels), labels, vectors)
        for path, ranked in zip(paths, guesses, strict=True):
            matches = predictor.matches(ranked[0].cosine, len(labels))
            print(_as_json(path, ranked[:top], matches) if json else _as_line(path, ranked[:top], matches), flush=True)
    return 0


def check_top(top: int) -> None:
    """UserError where no answer would be shown."""
    if top < 1:
        raise UserError(f"--top is {top}", "It must be at least 1.")


def print_answers(about: dict[str, str], ranked: Sequence[Answer], json: bool) -> None:
    """What a classifier was asked about, and its likeliest answers."""
    if json:
        print(_json.dumps(about | {"answers": [asdict(a) for a in ranked]}, ensure_ascii=False), flush=True)
        return
    best, *others = (f"{a.label} {a.probability:.2f}" for a in ranked)
    rest = [f"({', '.join(others)})"] if others else []
    print("\t".join([*about.values(), best, *rest]), flush=True)


def _by_own_classes(
    predictor: ClassifierPredictor,
    pictures: Sequence[str],
    labels: Sequence[str],
    text: str | None,
    top: int,
    json: bool,
) -> int:
    predictor.check_task("label")
    if labels:
        raise UserError("A classifier has its own labels", f"Leave yours away; its: {', '.join(predictor.classes)}.")
    for paths, pixels in in_batches(predictor, find_pictures(pictures), "classifying"):
        texts = None if text is None else [text] * len(paths)
        for path, ranked in zip(paths, predictor.ranked(predictor.probabilities(pixels, texts)), strict=True):
            print_answers({"path": str(path)}, ranked[:top], json)
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
