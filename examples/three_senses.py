"""Pictures, sounds and texts as files, whose label takes all three; and how well a trained Perceiver does without one.

    python examples/three_senses.py write senses
    chiasm train perceiver senses/rows.csv --config examples/three-senses.yaml --inputs picture,text,sound --out run
    python examples/three_senses.py score run senses/rows.csv

The label is the parity of a colour, a pitch and a word: any two of them say nothing about it.
"""

from __future__ import annotations

import argparse
import csv
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLOURS = ((200, 60, 60), (60, 90, 200))
HERTZ = (330.0, 990.0)
WORDS = (("calm", "quiet", "still"), ("merry", "lively", "cheerful"))
KINDS = len(WORDS)
RATE_HERTZ, SECONDS = 4000, 0.25


def main() -> None:
    """Write the files, or score a run on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "score"))
    parser.add_argument("paths", type=Path, nargs="+", help="the folder to write, or the run and the table")
    parser.add_argument("--rows", type=int, default=3000)
    args = parser.parse_args()
    if args.what == "write":
        args.paths[0].mkdir(parents=True, exist_ok=True)
        print(write_senses(args.paths[0], args.rows))
        return
    for name, accuracy in scores(*args.paths).items():
        print(f"{name:<20}{accuracy:.3f}")


def scores(run: Path, table: Path) -> dict[str, float]:
    """Accuracy on the test split with everything, and without each of the modalities."""
    from chiasm.data.cache import prepare_pictures
    from chiasm.data.layouts import open_source
    from chiasm.models.inputs import Given, given
    from chiasm.predict import ClassifierPredictor
    from chiasm.predict.loading import loader_of

    predictor = ClassifierPredictor.load(run)
    examples = open_source(table, partial=True).split("test")
    pictures = prepare_pictures(examples, predictor.preprocess, name="test", max_broken_share=0.0)
    right: dict[str, list[bool]] = {}
    labels = {example.key: example.label for example in examples}
    for batch in loader_of(predictor.bundle, examples, pictures, "test").in_order(128):
        truths = [labels[key] for key in batch.keys]
        everything = given(batch, predictor.model.config.inputs)
        for masked in ("nothing", *everything):
            seen = dict(everything)
            if masked in seen:
                seen[masked] = Given(seen[masked].values, _nothing(seen[masked].values))
            with torch.no_grad():
                answers = predictor.model(seen).argmax(-1).tolist()
            said = [predictor.classes[answer] for answer in answers]
            right.setdefault(f"without {masked}", []).extend(a == b for a, b in zip(said, truths, strict=True))
    return {name: float(np.mean(values)) for name, values in right.items()}


def _nothing(values: torch.Tensor) -> torch.Tensor:
    """Masks a modality: pictures by row, texts and sounds by value."""
    return torch.zeros(values.shape[: 1 if values.ndim == 4 else 2], dtype=torch.bool)


def write_senses(folder: Path, rows: int, seed: int = 0, test_share: float = 0.2) -> Path:
    """A table with the columns image, sound, text, label and split, and its files."""
    random = np.random.default_rng(seed)
    table = []
    for row in range(rows):
        colour, pitch, word = (int(kind) for kind in random.integers(KINDS, size=3))
        _picture(folder / f"{row}.png", colour, random)
        _sound(folder / f"{row}.wav", pitch, random)
        said = str(random.choice(WORDS[word]))
        text = str(random.choice([f"a {said} day", f"it was {said} there", f"the {said} one"]))
        label = "xy"[(colour + pitch + word) % KINDS]
        split = "test" if row < rows * test_share else "train"
        table.append({"image": f"{row}.png", "sound": f"{row}.wav", "text": text, "label": label, "split": split})
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return folder / "rows.csv"


def _picture(path: Path, colour: int, random: np.random.Generator) -> None:
    pixels = np.full((16, 16, 3), 235.0)
    top, left = random.integers(2, 8, size=2)
    pixels[top : top + 7, left : left + 7] = COLOURS[colour]
    noisy = pixels + random.normal(0, 10, pixels.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def _sound(path: Path, pitch: int, random: np.random.Generator) -> None:
    seconds = np.arange(round(RATE_HERTZ * SECONDS * random.uniform(0.6, 1.0))) / RATE_HERTZ
    hertz = HERTZ[pitch] * random.uniform(0.97, 1.03)
    values = 0.5 * np.sin(2 * np.pi * hertz * seconds + random.uniform(0, 6)) + random.normal(0, 0.03, len(seconds))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HERTZ)
        file.writeframes((values.clip(-1, 1) * 32767).astype(np.int16).tobytes())


if __name__ == "__main__":
    main()
