"""The way from a layout's rows to a Source: rows of one picture are merged, splits settled, the counts said."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.data.source import Source, View, split_by_hash, splits_by_name
from chiasm.errors import UserError
from chiasm.types import Example, Picture

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_IN_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?=$|[-_.\d])", re.IGNORECASE)


class Stored(ABC):
    """A picture inside a larger file (a table, an archive), read when asked for."""

    @abstractmethod
    def read(self) -> Picture:
        """The picture's bytes, or its path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a data set; rows of equal `split` and `key` show one picture. `split` is empty where none is given."""

    image: Path | Stored
    key: str
    texts: tuple[str, ...]
    split: str = ""
    label: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the reader of a layout found; `stamp` changes when the larger files that hold the pictures do."""

    layout: str
    rows: list[Row]
    skipped: Counter[str] = field(default_factory=Counter)
    stamp: str = ""
    has_columns: bool = False


class Rows(Sequence[Example]):
    """The examples of merged rows, each built when asked for."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return View(self, np.arange(len(self))[index])
        row = self.rows[index]
        image = row.image.read() if isinstance(row.image, Stored) else row.image
        return Example(image=image, texts=row.texts, key=row.key, label=row.label, tags=row.tags)


def assemble(name: str, reading: Reading) -> Source:
    """The source of what was read; UserError where no row has a caption or not one picture file exists."""
    captioned = [row for row in reading.rows if row.texts]
    if not captioned:
        reasons = ", ".join(f"{count} {why}" for why, count in reading.skipped.items())
        raise UserError(
            f"{name} has no picture with a caption ({reading.layout}: {len(reading.rows)} rows, all without a caption"
            f"{'; skipped: ' + reasons if reasons else ''})",
            "Check the captions, or name their column.",
        )
    skipped = reading.skipped + Counter({"without a caption": len(reading.rows) - len(captioned)})
    rows = _merge(captioned)
    stamps = [_stamp(row.image) for row in rows]
    missing = sum(stamp == "missing" for stamp in stamps)
    if missing == len(rows):
        raise UserError(
            f"None of the {missing} pictures that {name} names exists, for example {rows[0].image}",
            "Put the pictures beside the table or in a folder below it, or say in which folder they are.",
        )
    splits, how = _settle_splits(rows)
    return Source(
        name=name,
        examples=Rows(rows),
        splits=splits,
        understood=_sentence(reading.layout, rows, splits, how, skipped, missing),
        fingerprint=_fingerprint(rows, stamps, reading.stamp),
    )


def split_in_name(name: str) -> str:
    """The split that a file's or folder's name speaks of ("captions_train2017" is "train"), or an empty text."""
    found = SPLIT_IN_NAME.search(name)
    return SPLIT_NAMES[found[1].lower()] if found else ""


def canonical_split(name: str) -> str:
    """Our name of a split that the data names: "validation" is "val"; unknown names stay, "test_x" becomes "test-x"."""
    name = name.strip().lower().replace("_", "-")
    return SPLIT_NAMES.get(name, name)


def is_split(folder: str) -> bool:
    """Whether a folder of this name holds a split: train, val2017, test-style."""
    return bool(SPLIT_IN_NAME.match(folder))


def split_of_folder(folder: str) -> str:
    """The split of a folder for which `is_split` holds; "test-style" keeps its name, "val2017" is "val"."""
    return canonical_split(folder) if folder.lower().startswith("test-") else split_in_name(folder)


def file_stamp(files: Sequence[Path]) -> str:
    """A text that changes when one of the files does: names, sizes and times of change."""
    return "\n".join(f"{path.name} {_stamp(path)}" for path in sorted(files))


def _merge(rows: list[Row]) -> list[Row]:
    merged: dict[tuple[str, str], Row] = {}
    more: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        place = (row.split, row.key)
        if merged.setdefault(place, row) is not row:
            more.setdefault(place, []).append(row)
    for place, others in more.items():
        same = [merged[place], *others]
        merged[place] = replace(
            same[0],
            texts=tuple(dict.fromkeys(text for row in same for text in row.texts)),
            tags=tuple(dict.fromkeys(tag for row in same for tag in row.tags)),
        )
    splits_of_key = Counter(key for _, key in merged)
    return [
        row if splits_of_key[key] == 1 else replace(row, key=f"{split}/{key}") for (split, key), row in merged.items()
    ]


def _settle_splits(rows: list[Row]) -> tuple[dict[str, np.ndarray], str]:
    names = [row.split or "train" for row in rows]
    given = set(names)
    if given == {"train"}:
        return split_by_hash([row.key for row in rows]), "by hash of the picture's key"
    splits = splits_by_name(names, order=[name for name in ("train", "val") if name in given])
    if "train" not in given or "val" in given:
        return splits, "as the data says"
    train = splits.pop("train")
    parts = split_by_hash([rows[i].key for i in train], test_share=0.0)
    carved = {name: train[parts[name]] for name in ("train", "val")}
    return carved | splits, "as the data says, val by hash out of train"


def _sentence(
    layout: str, rows: list[Row], splits: dict[str, np.ndarray], how: str, skipped: Counter[str], missing: int
) -> str:
    texts = sum(len(row.texts) for row in rows)
    counts = ", ".join(f"{name} {len(indices):,}" for name, indices in splits.items())
    notes = [f"{count:,} rows {why} skipped" for why, count in skipped.items() if count]
    notes += [f"{missing:,} picture files missing"] if missing else []
    return "; ".join([f"{layout}: {len(rows):,} pictures, {texts:,} captions; {counts} ({how})", *notes])


def _stamp(image: Path | Stored) -> str:
    if isinstance(image, Stored):
        return ""
    try:
        status = image.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _fingerprint(rows: list[Row], stamps: list[str], stamp: str) -> str:
    digest = hashlib.sha256(stamp.encode("utf-8", "surrogatepass"))
    for row, row_stamp in zip(rows, stamps, strict=True):
        line = repr((row.key, row.texts, row.split, row.label, row.tags, row_stamp))
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


__all__ = [
    "PICTURE_SUFFIXES",
    "Reading",
    "Row",
    "Rows",
    "Stored",
    "assemble",
    "canonical_split",
    "file_stamp",
    "is_split",
    "split_in_name",
    "split_of_folder",
]
