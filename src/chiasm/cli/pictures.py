"""Pictures as the command line names them: files, folders and globs, read in batches, broken ones told at the end."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from chiasm.data.picture import BrokenPicture
from chiasm.data.rows import PICTURE_SUFFIXES
from chiasm.errors import UserError
from chiasm.predict import Pixels, Predictor
from chiasm.progress import track

ROWS = 64


def find_pictures(words: Sequence[str]) -> list[Path]:
    """The files that the words on the command line mean."""
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise UserError(
                    f"The folder {word} holds no pictures", f"Known: {', '.join(sorted(PICTURE_SUFFIXES))}."
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            matches = sorted(Path(match) for match in glob.glob(word, recursive=True))
            if not matches:
                raise UserError(f"There is no {word}", "Name a picture, a folder, or a glob in quotes.")
            found += matches
    return found


def in_batches(
    predictor: Predictor, paths: Sequence[Path], doing: str, rows: int = ROWS
) -> Iterator[tuple[list[Path], Pixels]]:
    """The pictures in batches as the model sees them; those that cannot be read raise one UserError after the last."""
    broken = []
    starts = range(0, len(paths), rows)
    for start in track(starts, doing, total=len(starts)):
        some = paths[start : start + rows]
        seen = list(zip(some, predictor.read_each(some), strict=True))
        broken += [f"{path}: {one.message}" for path, one in seen if isinstance(one, BrokenPicture)]
        good = [(path, one) for path, one in seen if not isinstance(one, BrokenPicture)]
        if good:
            yield [path for path, _ in good], np.stack([one for _, one in good])
    if broken:
        told = "\n  ".join(broken)
        raise UserError(f"{len(broken)} of {len(paths)} pictures cannot be read:\n  {told}", "The others were done.")
