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
from chiasm.types import Example

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"}
SOUND_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif"}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MISSING = "missing"
SPLIT_IN_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?=$|[-_.\d])", re.IGNORECASE)


class Stored(ABC):
    """A picture or a sound inside a larger file (a table, an archive), read when asked for."""

    @abstractmethod
    def read(self) -> bytes | Path:
        """The bytes of the file, or its path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a data set; rows of equal `split` and `key` show one picture. `split` is empty where none is given.

    Rows that are `alone` (questions with answers) stay examples of their own, in the group of their picture.
    """

    image: Path | Stored | None
    key: str
    texts: tuple[str, ...]
    split: str = ""
    label: str = ""
    tags: tuple[str, ...] = ()
    sound: Path | Stored | None = None
    alone: bool = False
    group: str = ""

    @property
    def lacks(self) -> str:
        """Why the row is of no use to a model that needs all of picture and text; empty where it is."""
        if self.alone and not self.label:
            return "without an answer"
        return "without a picture" if self.image is None else "" if self.texts else "without a caption"

    @property
    def is_void(self) -> bool:
        """Whether there is nothing to learn from, even for a model that does without this or that."""
        return (self.alone and not self.label) or (self.image is None and self.sound is None and not self.texts)


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
        return Example(
            image=row.image.read() if isinstance(row.image, Stored) else row.image,
            sound=row.sound.read() if isinstance(row.sound, Stored) else row.sound,
            texts=row.texts,
            key=row.key,
            group=row.group,
            label=row.label,
            tags=row.tags,
        )


def assemble(name: str, reading: Reading, *, partial: bool = False) -> Source:
    """The source of what was read; UserError where no row is of use or not one of the named files exists.

    Rows need a picture and a text, or (`partial`) any of picture, sound and text.
    """
    reasons = [("empty" if row.is_void else "") if partial else row.lacks for row in reading.rows]
    useful = [row for row, reason in zip(reading.rows, reasons, strict=True) if not reason]
    skipped = reading.skipped + Counter(reason for reason in reasons if reason)
    if not useful:
        told = ", ".join(f"{count} {why}" for why, count in skipped.items())
        raise UserError(
            f"{name} has {'nothing to learn from' if partial else 'no picture with a caption'} "
            f"({reading.layout}: {len(reading.rows)} rows{'; skipped: ' + told if told else ''})",
            "Check the captions, or name their column.",
        )
    rows = _merge(useful)
    stamps = [_stamp(row.image) + _stamp(row.sound) for row in rows]
    missing = sum(MISSING in stamp for stamp in stamps)
    if missing == len(rows):
        raise UserError(
            f"None of the {missing} files that {name} names exists, for example {rows[0].image or rows[0].sound}",
            "Put the files beside the table or in a folder below it, or say in which folder they are.",
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
    """One row for each picture, with all that is said of it; where labels of one picture differ, each stays alone."""
    same: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        same.setdefault((row.split, row.key), []).append(row)
    splits_of_key = Counter(key for _, key in same)
    merged = []
    for (split, key), own in same.items():
        key = key if splits_of_key[key] == 1 else f"{split}/{key}"
        if any(row.alone for row in own) or len({row.label for row in own}) > 1:
            merged += [replace(row, key=f"{key}#{number}", group=key) for number, row in enumerate(own)]
        elif len(own) == 1:
            merged.append(own[0] if own[0].key == key else replace(own[0], key=key))
        else:
            texts = tuple(dict.fromkeys(text for row in own for text in row.texts))
            tags = tuple(dict.fromkeys(tag for row in own for tag in row.tags))
            merged.append(replace(own[0], key=key, texts=texts, tags=tags))
    return merged


def _settle_splits(rows: list[Row]) -> tuple[dict[str, np.ndarray], str]:
    names = [row.split or "train" for row in rows]
    given = set(names)
    if given == {"train"}:
        return split_by_hash([row.group or row.key for row in rows]), "by hash of the picture's key"
    splits = splits_by_name(names, order=[name for name in ("train", "val") if name in given])
    if "train" not in given or "val" in given:
        return splits, "as the data says"
    train = splits.pop("train")
    parts = split_by_hash([rows[i].group or rows[i].key for i in train], test_share=0.0)
    carved = {name: train[parts[name]] for name in ("train", "val")}
    return carved | splits, "as the data says, val by hash out of train"


def _sentence(
    layout: str, rows: list[Row], splits: dict[str, np.ndarray], how: str, skipped: Counter[str], missing: int
) -> str:
    counts = ", ".join(f"{name} {len(indices):,}" for name, indices in splits.items())
    notes = [f"{count:,} rows {why} skipped" for why, count in skipped.items() if count]
    notes += [f"{missing:,} files missing"] if missing else []
    return "; ".join([f"{layout}: {_contents(rows)}; {counts} ({how})", *notes])


def _contents(rows: list[Row]) -> str:
    """How much there is of what, as "3 pictures, 5 captions"."""
    alone = sum(row.alone for row in rows)
    counts = {
        "pictures": len({row.group or row.key for row in rows if row.image is not None}),
        "sounds": sum(row.sound is not None for row in rows),
        "captions": sum(len(row.texts) for row in rows if not row.alone),
        "questions with answers": alone,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _stamp(file: Path | Stored | None) -> str:
    if not isinstance(file, Path):
        return ""
    try:
        status = file.stat()
    except OSError:
        return MISSING
    return f"{status.st_size} {status.st_mtime_ns}"


def _fingerprint(rows: list[Row], stamps: list[str], stamp: str) -> str:
    digest = hashlib.sha256(stamp.encode("utf-8", "surrogatepass"))
    for row, row_stamp in zip(rows, stamps, strict=True):
        line = repr((row.key, row.texts, row.split, row.label, row.tags, row_stamp))
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


__all__ = [
    "PICTURE_SUFFIXES",
    "SOUND_SUFFIXES",
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
