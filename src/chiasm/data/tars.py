"""WebDataset: tar files in which key.jpg lies beside key.txt or key.json; read in place, without unpacking."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from chiasm.data.columns import Wanted, choose_columns, label_text, texts_in
from chiasm.data.rows import PICTURE_SUFFIXES, SOUND_SUFFIXES, Reading, Row, Stored, file_stamp, split_in_name
from chiasm.data.tables import make_row
from chiasm.errors import UserError
from chiasm.progress import track


@dataclass(frozen=True, slots=True)
class TarFile(Stored):
    """The bytes of one file in an uncompressed tar, by their place."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The file's bytes."""
        with self.path.open("rb") as archive:
            archive.seek(self.offset)
            return archive.read(self.size)


def read_tars(files: Sequence[Path], wanted: Wanted) -> Reading:
    """The rows of tar files, one for each key; a name such as "train-0000.tar" says the split."""
    rows: list[Row] = []
    for path in track(files, "reading archives", total=len(files)):
        for key, parts in _samples(path):
            image, sound = (
                next((TarFile(path, *parts.pop(suffix)) for suffix in list(parts) if suffix in suffixes), None)
                for suffixes in (PICTURE_SUFFIXES, SOUND_SUFFIXES)
            )
            rows.append(replace(_row(path, key, image, parts, wanted), sound=sound))
    name = files[0].name if len(files) == 1 else f"{len(files)} tar files"
    return Reading(layout=f"WebDataset {name}", rows=rows, stamp=file_stamp(files), has_columns=True)


def _row(path: Path, key: str, image: TarFile | None, parts: dict[str, tuple[int, int]], wanted: Wanted) -> Row:
    texts = {suffix: TarFile(path, *place).read().decode("utf-8", "replace") for suffix, place in parts.items()}
    split = split_in_name(path.name)
    label = " ".join(texts.get(".cls", "").split())
    lines = texts_in(texts.get(".txt", texts.get(".caption", "")).splitlines())
    if ".json" not in texts:
        texts = lines or (() if wanted.partial else texts_in([label_text(label)]))
        return Row(image=image, key=key, texts=texts, split=split, label=label)
    where = f"{path}, {key}.json"
    try:
        record: dict[str, Any] = {"image": key} | json.loads(texts[".json"])
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{where} is not a JSON object: {error}", "Write the archive again.") from error
    if lines and wanted.text_column is None:
        record["caption"] = lines
    wanted = replace(wanted, image_column="image", sound_column=None)
    return make_row(record, choose_columns(list(record), wanted, where), image=image, key=key, split=split)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Each key and, by suffix, the place and size of its files."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    name = PurePosixPath(member.name)
                    stem, dot, suffix = name.name.partition(".")
                    key = str(name.with_name(stem)) if stem else ""
                    if key and dot:
                        samples.setdefault(key, {})["." + suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a tar file: {error}", "It must be whole, and not compressed (.tar, not .tar.gz)."
        ) from error
    yield from samples.items()


__all__ = ["TarFile", "read_tars"]
