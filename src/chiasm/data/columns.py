"""Which column of a table means what: guessed from names, or named by the user, and said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiasm.errors import UserError

# fmt: off
IMAGE_NAMES = [
    "image", "img", "picture", "photo", "file_name", "filename", "image_file", "image_path", "img_path", "image_name",
    "filepath", "file", "path", "jpg", "jpeg", "png", "webp", "url", "image_url",
]
TEXT_NAMES = [
    "caption", "captions", "text", "texts", "sentence", "sentences", "comment", "comments", "description", "title",
    "prompt", "alt_text", "txt", "raw", "name",
]
# fmt: on
LABEL_NAMES = ["label", "labels", "class", "class_name", "category", "fine_label"]
SPLIT_NAMES = ["split"]
KEY_NAMES = ["key", "__key__", "image_id", "img_id", "imgid", "id", "file_name", "filename"]
TAG_NAMES = ["tags", "keywords"]
NUMBERED_TEXT = re.compile(r"(caption|text|sentence|comment)_?\d+", re.IGNORECASE)
TEXT_IN_OBJECT = ("raw", "caption", "text", "sentence")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user said about the data: columns by name, and the folder in which named pictures lie."""

    image_column: str | None = None
    text_column: str | None = None
    picture_folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that are read; empty names where a table has no such column."""

    image: str
    texts: tuple[str, ...]
    label: str
    split: str
    key: str
    tags: str

    @property
    def names(self) -> list[str]:
        """The columns other than the picture's."""
        return list(dict.fromkeys(name for name in (*self.texts, self.label, self.split, self.key, self.tags) if name))

    def __str__(self) -> str:
        parts = [f"picture in {self.image!r}", "captions in " + ", ".join(map(repr, self.texts or (self.label,)))]
        optional = {"class": self.label if self.texts else "", "split": self.split, "tags": self.tags}
        return ", ".join(parts + [f"{what} in {name!r}" for what, name in optional.items() if name])


def choose_columns(names: Sequence[str], wanted: Wanted, where: str, pictures: Sequence[str] = ()) -> Columns:
    """The columns to read, as the user named them, else by their names; UserError listing the columns where unclear.

    `pictures` are the columns that are known to hold pictures, whatever their names.
    """
    known = _first(pictures, IMAGE_NAMES) or next(iter(pictures), "")
    image = _named(names, wanted.image_column, where) or known or _first(names, IMAGE_NAMES)
    if not image:
        raise _unclear("picture", "image_column", names, where)
    rest = [name for name in names if name != image]
    named_text = _named(names, wanted.text_column, where)
    text = named_text or _first(rest, TEXT_NAMES)
    numbered = tuple(name for name in rest if NUMBERED_TEXT.fullmatch(name))
    label = _first(rest, LABEL_NAMES)
    if not (text or numbered or label):
        raise _unclear("caption", "text_column", names, where)
    return Columns(
        image=image,
        texts=(text,) if text else numbered,
        label="" if label == text else label,
        split=_first(rest, SPLIT_NAMES),
        key=_first(names, KEY_NAMES),
        tags=_first([name for name in rest if name != text], TAG_NAMES),
    )


def texts_in(values: Iterable[Any]) -> tuple[str, ...]:
    """The captions in a row's cells: texts, lists of texts, or objects that hold one; white space is made single."""
    found: list[str] = []
    for value in values:
        if isinstance(value, Mapping):
            found += texts_in([next((value[name] for name in TEXT_IN_OBJECT if name in value), None)])
        elif isinstance(value, (list, tuple)):
            found += texts_in(value)
        elif value is not None:
            found.append(" ".join(str(value).split()))
    return tuple(dict.fromkeys(text for text in found if text))


def label_text(label: str) -> str:
    """The caption that a class's name makes: "hot_dog" is "hot dog"."""
    return " ".join(label.replace("_", " ").split())


def _named(names: Sequence[str], wanted: str | None, where: str) -> str:
    if wanted is None:
        return ""
    if wanted not in names:
        raise UserError(f"{where} has no column {wanted!r}", f"Its columns: {', '.join(names)}.")
    return wanted


def _first(names: Sequence[str], known: Sequence[str]) -> str:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def _unclear(what: str, option: str, names: Sequence[str], where: str) -> UserError:
    listed = ", ".join(names) or "none"
    return UserError(
        f"{where}: which column holds the {what}? None has a usual name", f"Name it ({option}). Columns: {listed}."
    )


__all__ = ["Columns", "Wanted", "choose_columns", "label_text", "texts_in"]
