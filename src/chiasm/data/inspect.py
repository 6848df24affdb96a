"""What is in a data set and what is wrong with it: formats, broken and repeated pictures, captions, leaks."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.data.findings import Broken, Findings, Place, Spread
from chiasm.data.picture import BrokenPicture, read_picture
from chiasm.data.source import Source, picture_key
from chiasm.progress import track
from chiasm.types import Example, Picture

WORD = re.compile(r"\w+|[^\w\s]")
"""A word or one mark: what a word-level tokenizer makes one token of."""
MARKS_AROUND = 2
"""The tokens before and after a text: BOS and EOT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What one picture file is; `broken` is the reason where it cannot be read."""

    broken: str = ""
    format: str = ""
    mode: str = ""
    width_pixels: int = 0
    height_pixels: int = 0
    pixels: bytes = b""


def inspect_source(source: Source, *, tokenizer_context: int | None = None) -> Findings:
    """Read every picture of every split once, and report what is there; broken pictures are listed, never fatal.

    Pictures are equal when their upright RGB pixels are, in whatever file format. Captions are held against
    `tokenizer_context`, the tokens a model has room for, as words and marks, BOS and EOT.
    """
    wanted = [(name, int(row)) for name, rows in source.splits.items() for row in rows]
    with ThreadPoolExecutor() as pool:
        examined = pool.map(lambda row: _examine(source.examples[row]), [row for _, row in wanted])
        parts = list(track(examined, "reading pictures", total=len(wanted)))
    examples = [example for example, _ in parts]
    pictures = {
        Place(split=name, key=picture_key(example), group=example.group): look
        for (name, _), (example, look) in zip(wanted, parts, strict=True)
        if look is not None
    }
    places, looks = list(pictures), list(pictures.values())
    sound = [look for look in looks if not look.broken]
    words = Counter(len(WORD.findall(text)) for example in examples for text in example.texts)
    room = None if tokenizer_context is None else tokenizer_context - MARKS_AROUND
    return Findings(
        name=source.name,
        understood=source.understood,
        fingerprint=source.fingerprint,
        pictures={name: sum(place.split == name for place in places) for name in source.splits},
        unused_pictures=len(source.examples) - len({row for _, row in wanted}),
        formats=_common(look.format for look in sound),
        modes=_common(look.mode for look in sound),
        width_pixels=Spread.of([look.width_pixels for look in sound]),
        height_pixels=Spread.of([look.height_pixels for look in sound]),
        captions_per_picture=dict(sorted(Counter(len(example.texts) for example in examples).items())),
        words_per_caption=dict(sorted(words.items())),
        context_tokens=tokenizer_context,
        captions_beyond_context=0 if room is None else sum(n for length, n in words.items() if length > room),
        distinct_captions=len({text for example in examples for text in example.texts}),
        pictures_sharing_a_caption=_sharing(examples),
        broken=[
            Broken(split=place.split, key=place.key, reason=look.broken)
            for place, look in zip(places, looks, strict=True)
            if look.broken
        ],
        duplicates=_duplicates(places, looks),
        groups_across_splits=_across(places),
    )


def _examine(example: Example) -> tuple[Example, _Look | None]:
    """The example without its picture, which need not stay in memory, and what the picture is; None without one."""
    about = Example(image=None, texts=example.texts, key=example.key, group=example.group)
    if example.image is None:
        return about, None
    try:
        rgb = read_picture(example.image)
        kind, mode, width, height = _header(example.image)
    except BrokenPicture as error:
        return about, _Look(broken=error.reason)
    pixels = hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest()
    return about, _Look(format=kind, mode=mode, width_pixels=width, height_pixels=height, pixels=pixels)


def _header(picture: Picture) -> tuple[str, str, int, int]:
    if isinstance(picture, np.ndarray):
        return "array", "RGB" if picture.ndim == 3 else "L", picture.shape[1], picture.shape[0]
    with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as image:
        return image.format or "unknown", image.mode, image.width, image.height


def _common(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _sharing(examples: Sequence[Example]) -> int:
    """How many pictures have a caption that another picture has too."""
    pictures_with = Counter(text for example in examples for text in set(example.texts))
    return sum(any(pictures_with[text] > 1 for text in example.texts) for example in examples)


def _duplicates(places: Sequence[Place], looks: Sequence[_Look]) -> list[list[Place]]:
    same: dict[bytes, list[Place]] = defaultdict(list)
    for place, look in zip(places, looks, strict=True):
        if not look.broken:
            same[look.pixels].append(place)
    return [group for group in same.values() if len(group) > 1]


def _across(places: Sequence[Place]) -> list[str]:
    """Groups ("shows the same thing") with members in several splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for place in places:
        if place.group:
            splits[place.group].add(place.split)
    return sorted(group for group, found in splits.items() if len(found) > 1)


__all__ = ["inspect_source"]
