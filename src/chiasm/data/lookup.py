"""Finds the picture files that a table or an annotation file names, beside it or in the folders below."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from chiasm.data.rows import split_in_name
from chiasm.errors import UserError

DEEPEST_FOLDER = 3


class PictureLookup:
    """Paths of the pictures that lie in `root` or up to three folders below it."""

    def __init__(self, root: Path):
        self.root = root

    def find(self, name: str, split: str = "") -> Path:
        """The file called `name`, of several the one in a folder of `split`; root / name where there is none."""
        direct = self.root / name
        if direct.is_file():
            return direct
        parts = PurePosixPath(name.replace("\\", "/")).parts
        found = [path for path in self._below.get(parts[-1], []) if path.parts[-len(parts) :] == parts]
        if len(found) > 1:
            found = [path for path in found if split and split in map(split_in_name, path.parent.parts)] or found
        if len(found) > 1:
            raise UserError(
                f"Which picture is {name!r}? There are {found[0]} and {found[1]}",
                "Write the picture's folder in front of its name, or say in which folder the pictures are.",
            )
        return found[0] if found else direct

    @cached_property
    def _below(self) -> dict[str, list[Path]]:
        places: dict[str, list[Path]] = {}
        for path in files_below(self.root, DEEPEST_FOLDER):
            places.setdefault(path.name, []).append(path)
        return places


def files_below(root: Path, deepest: int = 99) -> Iterator[Path]:
    """All files in `root` and its folders, sorted, without hidden ones."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).parts) - len(root.parts)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and depth < deepest)
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


__all__ = ["PictureLookup", "files_below"]
