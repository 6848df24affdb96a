"""Which column of a table means what: guessed from names, or named by the user, and said."""

from __future__ import annotations

import re
from collections import Counter
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
SURE_NAMES = [*IMAGE_NAMES[:4], "image_file", "image_path", "img_path", "image_name"]
"""Names of a picture's column in a table that has sounds too: there a mere "path" may be the sound's."""
TEXT_NAMES = [
    "caption", "captions", "text", "texts", "sentence", "sentences", "comment", "comments", "description", "title",
    "prompt", "alt_text", "txt", "raw", "name",
]
SOUND_NAMES = [
    "audio", "sound", "audio_path", "audio_file", "sound_path", "sound_file", "wav", "flac", "ogg",
]
# fmt: on
QUESTION_NAMES = ["question", "questions"]
ANSWER_NAMES = ["answer", "answers", "multiple_choice_answer"]
SHORT_NAMES = ["q", "a"]
"""Question and answer where a table has both; alone such a letter says nothing."""
LABEL_NAMES = ["label", "labels", "class", "class_name", "category", "fine_label"]
SPLIT_NAMES = ["split"]
KEY_NAMES = ["key", "__key__", "image_id", "img_id", "imgid", "id", "file_name", "filename"]
TAG_NAMES = ["tags", "keywords"]
NUMBERED_TEXT = re.compile(r"(caption|text|sentence|comment)_?\d+", re.IGNORECASE)
TEXT_IN_OBJECT = ("raw", "caption", "text", "sentence")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user said about the data: columns by name, the folder in which named files lie, what rows may lack."""

    image_column: str | None = None
    text_column: str | None = None
    sound_column: str | None = None
    label_column: str | None = None
    picture_folder: Path | None = None
    partial: bool = False
    """Rows may lack a picture, a sound or a text, and a class makes no caption: for models that do without."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that are read; empty names where a table has no such column."""

    image: str
    texts: tuple[str, ...]
    label: str
    split: str
    key: str
    tags: str
    sound: str = ""
    asks: bool = False
    """Each text belongs to its label alone, as a question to its answer: rows of one picture are not merged."""
    captions_are_labels: bool = False
    """There are no texts: a class makes the caption."""

    @property
    def media(self) -> list[str]:
        """The columns that hold pictures or sounds."""
        return [name for name in (self.image, self.sound) if name]

    @property
    def names(self) -> list[str]:
        """The other columns."""
        return list(dict.fromkeys(name for name in (*self.texts, self.label, self.split, self.key, self.tags) if name))

    def __str__(self) -> str:
        texts = ", ".join(map(repr, self.texts)) or (repr(self.label) if self.captions_are_labels else "")
        label = "" if self.captions_are_labels else self.label
        parts = {
            "picture": self.image and repr(self.image),
            "sound": self.sound and repr(self.sound),
            "question" if self.asks else "captions": texts,
            "answer" if self.asks else "class": label and repr(label),
            "split": self.split and repr(self.split),
            "tags": self.tags and repr(self.tags),
        }
        return ", ".join(f"{what} in {name}" for what, name in parts.items() if name)


def choose_columns(
    names: Sequence[str], wanted: Wanted, where: str, pictures: Sequence[str] = (), sounds: Sequence[str] = ()
) -> Columns:
    """The columns to read, as the user named them, else by their names; UserError listing the columns where unclear.

    `pictures` and `sounds` are the columns that are known to hold such, whatever their names.
    """
    known = _first(pictures, IMAGE_NAMES) or next(iter(pictures), "")
    heard = _first(sounds, SOUND_NAMES) or next(iter(sounds), "")
    sound = _named(names, wanted.sound_column, where) or heard or _first(names, SOUND_NAMES)
    rest = [name for name in names if name != sound]
    image = _named(names, wanted.image_column, where) or known or _first(rest, IMAGE_NAMES if not sound else SURE_NAMES)
    if not image and not wanted.partial:
        raise _unclear("picture", "image_column", names, where)
    rest = [name for name in rest if name != image]
    question, answer = _asked(rest)
    text = _named(names, wanted.text_column, where) or question or _first(rest, TEXT_NAMES)
    numbered = tuple(name for name in rest if NUMBERED_TEXT.fullmatch(name))
    texts = (text,) if text else numbered
    is_question = bool(text) and (text == question or text.lower() in QUESTION_NAMES)
    label = _named(names, wanted.label_column, where) or (answer if is_question else _first(rest, LABEL_NAMES))
    if is_question and not label:
        raise _unclear(f"answer to {text!r}", "label_column", names, where)
    if not (texts or label or (wanted.partial and (image or sound))):
        raise _unclear("caption", "text_column", names, where)
    return Columns(
        image=image,
        sound=sound,
        texts=texts,
        label="" if label == text else label,
        split=_first(rest, SPLIT_NAMES),
        key=_first(names, KEY_NAMES),
        tags=_first([name for name in rest if name != text], TAG_NAMES),
        asks=is_question or bool(texts and wanted.label_column),
        captions_are_labels=not texts and not wanted.partial,
    )


def _asked(names: Sequence[str]) -> tuple[str, str]:
    """The columns of questions and of answers; empty where there is none."""
    short = [_first(names, [name]) for name in SHORT_NAMES]
    question, answer = _first(names, QUESTION_NAMES), _first(names, ANSWER_NAMES)
    return (question or short[0], answer or short[1]) if all(short) else (question, answer)


def answer_in(value: Any) -> str:
    """The answer in a cell: a text or number, or the most frequent of several, the first of equals, as VQA has them."""
    answers = Counter(_answers(value))
    return answers.most_common(1)[0][0] if answers else ""


def _answers(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return _answers(value.get("answer", value.get("text")))
    if isinstance(value, (list, tuple)):
        return [answer for item in value for answer in _answers(item)]
    return [text] if value is not None and (text := " ".join(str(value).split())) else []


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


__all__ = ["Columns", "Wanted", "answer_in", "choose_columns", "label_text", "texts_in"]
