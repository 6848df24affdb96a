"""WebDataset: tar files in which key.jpg lies beside key.txt or key.json; read in place, without unpacking."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from chiasm.data.columns import Wanted, choose_columns, label_text, texts_in
from chiasm.data.rows import PICTURE_SUFFIXES, Reading, Row, Stored, file_stamp, split_in_name
from chiasm.data.tables import make_row
from chiasm.errors import UserError
from chiasm.progress import track


@dataclass(frozen=True, slots=True)
class TarPicture(Stored):
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
    """The rows of tar files, one for each key that has a picture; a name such as "train-0000.tar" says the split."""
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    for path in track(files, "reading archives", total=len(files)):
        for key, parts in _samples(path):
            suffix = next((suffix for suffix in parts if suffix in PICTURE_SUFFIXES), None)
            if suffix is None:
                skipped["without a picture"] += 1
                continue
            rows.append(_row(path, key, TarPicture(path, *parts.pop(suffix)), parts, wanted))
    name = files[0].name if len(files) == 1 else f"{len(files)} tar files"
    return Reading(layout=f"WebDataset {name}", rows=rows, skipped=skipped, stamp=file_stamp(files), has_columns=True)


def _row(path: Path, key: str, image: TarPicture, parts: dict[str, tuple[int, int]], wanted: Wanted) -> Row:
    texts = {suffix: TarPicture(path, *place).read().decode("utf-8", "replace") for suffix, place in parts.items()}
    split = split_in_name(path.name)
    label = " ".join(texts.get(".cls", "").split())
    lines = texts_in(texts.get(".txt", texts.get(".caption", "")).splitlines())
    if ".json" not in texts:
        return Row(image=image, key=key, texts=lines or texts_in([label_text(label)]), split=split, label=label)
    where = f"{path}, {key}.json"
    try:
        record: dict[str, Any] = {"image": key} | json.loads(texts[".json"])
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{where} is not a JSON object: {error}", "Write the archive again.") from error
    if lines and wanted.text_column is None:
        record["caption"] = lines
    wanted = Wanted(image_column="image", text_column=wanted.text_column)
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


__all__ = ["TarPicture", "read_tars"]
