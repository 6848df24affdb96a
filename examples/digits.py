"""scikit-learn's 1,797 handwritten digits as picture files in folders of classes, a fifth of them for the test.

python examples/digits.py digits
chiasm train perceiver digits --preset tiny --set model.inputs.picture.size=[8,8] --augment none --out run
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def write_digits(folder: Path) -> None:
    """8 x 8 pixels each, as FOLDER/train/3/123.png."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for place, row in enumerate(order):
        split = "test" if place < len(order) // 5 else "train"
        path = folder / split / str(digits.target[row]) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[row] * 255 / 16).astype(np.uint8)).save(path)


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
