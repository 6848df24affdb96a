"""Real PNG, WAV and text files whose label takes all three: a colour, a pitch and a word, each one of several."""

import csv
import wave

import numpy as np
from PIL import Image

COLOURS = ((200, 60, 60), (60, 90, 200))
HERTZ = (330.0, 990.0)
WORDS = (("calm", "quiet", "still"), ("merry", "lively", "cheerful"))
KINDS = len(WORDS)
RATE_HERTZ, SECONDS = 4000, 0.25


def write_tri_modal(folder, rows, seed=0, test_share=0.2):
    """A table with the columns image, sound, text, label and split, and its files.

    The label is the sum of the three kinds, modulo their number: any two of them say nothing about it.
    """
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


def _picture(path, colour, random):
    pixels = np.full((16, 16, 3), 235.0)
    top, left = random.integers(2, 8, size=2)
    pixels[top : top + 7, left : left + 7] = COLOURS[colour]
    noisy = pixels + random.normal(0, 10, pixels.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def _sound(path, pitch, random):
    seconds = np.arange(round(RATE_HERTZ * SECONDS * random.uniform(0.6, 1.0))) / RATE_HERTZ
    hertz = HERTZ[pitch] * random.uniform(0.97, 1.03)
    values = 0.5 * np.sin(2 * np.pi * hertz * seconds + random.uniform(0, 6)) + random.normal(0, 0.03, len(seconds))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HERTZ)
        file.writeframes((values.clip(-1, 1) * 32767).astype(np.int16).tobytes())
