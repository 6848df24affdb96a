"""From a source to an index: every picture embedded once, what is new added, what is gone dropped."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chiasm import config as configs
from chiasm.data.cache import Broken, write_quarantine
from chiasm.data.picture import BrokenPicture, picture_of, read_picture
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig, read_pixels
from chiasm.errors import UserError
from chiasm.index import table as tables
from chiasm.index.table import About, Embedder, in_words
from chiasm.machine import available_cores
from chiasm.progress import counting
from chiasm.types import Example, Picture

BLOCK = 256
"""Pictures that are looked at together."""
COMMIT_SECONDS = 2.0
"""Time between two commits: what a killed process has to do again."""
COMMITS_BETWEEN_TIDYING = 200
"""A commit writes a file, and a list of all files: a thousand small ones would cost more than the pictures."""
THUMBNAIL_PIXELS = 160
DELETE_ROWS = 1000
"""Rows named in one condition."""


@dataclass(frozen=True)
class Built:
    """What a run of `build_index` did, in pictures."""

    embedded: int
    updated: int
    """The picture is the same, but its words, class or file are not."""
    unchanged: int
    removed: int
    broken: tuple[Broken, ...]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A picture on its way into the table; `pixels` are None where the table has its vector."""

    columns: dict[str, Any]
    pixels: np.ndarray | None
    known: bool


def build_index(
    embedder: Embedder,
    source: Source,
    uri: str,
    *,
    batch_size: int = 64,
    bundle: str | Path = "",
    ann_rows: int = tables.ANN_ROWS,
) -> Built:
    """Bring the index at `uri` (a folder, or an address of object storage) up to date with all pictures of a source.

    New and changed pictures are embedded, `batch_size` at a time; those that are gone or broken are dropped. What was
    committed before the process was killed is kept. `bundle` is the model's folder, for `open_index` to find it. From
    `ann_rows` vectors on, searching is approximate. Broken pictures are listed in the index's quarantine.jsonl.
    UserError where the index holds another model's vectors, or no picture can be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, it must be at least 1")
    if not len(source.examples):
        raise UserError(f"{source.name} has no pictures", "Check the path.")
    table = _table_for(embedder, uri, str(Path(bundle).absolute()) if bundle else "")
    with in_words(uri):
        known = _Known(table)
    writer = _Writer(embedder, table, uri, batch_size)
    broken = []
    for seen in _look_at_all(source.examples, embedder.preprocess, known):
        if isinstance(seen, Broken):
            broken.append(seen)
        elif seen is not None:
            writer.put(seen)
    writer.finish()
    gone = known.gone()
    with in_words(uri):
        for start in range(0, len(gone), DELETE_ROWS):
            table.delete(f"id IN ({', '.join(map(_quoted, gone[start : start + DELETE_ROWS]))})")
        tables.tidy(table, ann_rows)
    if tables.is_local(uri):
        write_quarantine(broken, Path(uri) / "quarantine.jsonl")
    if len(broken) == len(source.examples):
        raise UserError(f"None of the {len(broken)} pictures of {source.name} can be read", f"{broken[0].reason}, ...")
    unchanged = len(source.examples) - len(broken) - writer.embedded - writer.updated
    return Built(writer.embedded, writer.updated, unchanged, len(gone), tuple(broken))


def _table_for(embedder: Embedder, uri: str, bundle: str) -> Any:
    """The table to add to, made where there is none."""
    about = About(
        fingerprint=embedder.fingerprint,
        embed_width=embedder.embed_width,
        preprocess=embedder.preprocess,
        bundle=bundle,
    )
    found = tables.read_index(uri)
    if found is None:
        return tables.create_index(uri, about)
    old, table = found
    old.check(embedder, uri, f"Name another place for the index, or delete {uri} to make it anew.")
    if table is None:
        return tables.create_index(uri, about)
    if bundle not in ("", old.bundle):
        with in_words(uri):
            tables.describe(uri, about)
    return table


class _Known:
    """What the table has of each picture, and which of them are still there."""

    def __init__(self, table: Any):
        columns = ["id", "path", "stamp", "digest", "said"]
        self._columns = table.search().select(columns).to_arrow().combine_chunks()
        self._rows = {key: row for row, key in enumerate(self._columns["id"].to_pylist())}
        self._present = np.zeros(len(self._rows), dtype=bool)

    def of(self, key: str) -> dict[str, str] | None:
        """The columns of one picture."""
        row = self._rows.get(key)
        return None if row is None else {name: column[row].as_py() for name, column in self._items()}

    def keep(self, key: str) -> None:
        """This picture is in the source, and sound."""
        if key in self._rows:
            self._present[self._rows[key]] = True

    def gone(self) -> list[str]:
        """The ids of the pictures that nobody kept."""
        return [key for key, row in self._rows.items() if not self._present[row]]

    def _items(self) -> list[tuple[str, Any]]:
        return list(zip(self._columns.column_names, self._columns.columns, strict=True))


def _look_at_all(
    examples: Sequence[Example], preprocess: PreprocessConfig, known: _Known
) -> Iterator[_Row | Broken | None]:
    """Each picture as a row to be written, as broken, or None where the table has it as it is."""
    keys: set[str] = set()
    with ThreadPoolExecutor(available_cores()) as pool, counting("Embedding pictures", len(examples)) as advance:
        for start in range(0, len(examples), BLOCK):
            # Examples are made here, in one thread: a source need not be safe with several. Pillow frees the GIL.
            part = [examples[row] for row in range(start, min(start + BLOCK, len(examples)))]
            for row, (key, seen) in enumerate(pool.map(partial(_look, preprocess, known), part), start):
                if key in keys:
                    raise ValueError(f"two pictures of the source have the key {key!r}")
                keys.add(key)
                if isinstance(seen, BrokenPicture):
                    yield Broken(row=row, key=key, reason=seen.reason)
                else:
                    known.keep(key)
                    yield seen
                advance(1)


def _look(preprocess: PreprocessConfig, known: _Known, example: Example) -> tuple[str, _Row | BrokenPicture | None]:
    """A picture's id, and what there is to be done; a file of the same size and time of change is not read again."""
    key = _unicode(example.key)
    old = known.of(key)
    try:
        picture = picture_of(example)
        columns: dict[str, Any] = {
            "id": key,
            "path": _unicode(str(picture.absolute())) if isinstance(picture, Path) else "",
            "said": configs.fingerprint([example.texts, example.tags, example.label, example.group]),
            "stamp": _stamp(picture),
        }
        if old is not None and columns["stamp"] and all(old[name] == value for name, value in columns.items()):
            return key, None
        content = _content(picture)
        columns["digest"] = _digest(content)
        if old == columns:
            return key, None
        columns |= {name: list(map(_unicode, getattr(example, name))) for name in ("texts", "tags")}
        columns |= {name: _unicode(getattr(example, name)) for name in ("label", "group")}
        if old is not None and old["digest"] == columns["digest"]:
            return key, _Row(columns=columns, pixels=None, known=True)
        columns["thumbnail"] = b"" if columns["path"] else _thumbnail(content)
        return key, _Row(columns=columns, pixels=read_pixels(content, preprocess), known=old is not None)
    except BrokenPicture as error:
        return key, error


class _Writer:
    """Embeds rows by the batch and commits them every few seconds."""

    def __init__(self, embedder: Embedder, table: Any, uri: str, batch_size: int):
        self.embedder = embedder
        self.table = table
        self.uri = uri
        self.batch_size = batch_size
        self.embedded = 0
        self.updated = 0
        self._batch: list[_Row] = []
        self._ready: list[_Row] = []
        self._commits = 0
        self._committed_at = time.monotonic()

    def put(self, row: _Row) -> None:
        """Write this row now or later."""
        if row.pixels is None:
            self._ready.append(row)
        else:
            self._batch.append(row)
            if len(self._batch) == self.batch_size:
                self._embed()
        if self._ready and time.monotonic() - self._committed_at > COMMIT_SECONDS:
            self._commit()

    def finish(self) -> None:
        """Write all that is left."""
        if self._batch:
            self._embed()
        self._commit()

    def _embed(self) -> None:
        vectors = self.embedder.embed_pixels(np.stack([row.pixels for row in self._batch if row.pixels is not None]))
        self._ready += [
            replace(row, columns=row.columns | {"vector": vector})
            for row, vector in zip(self._batch, vectors, strict=True)
        ]
        self.embedded += len(self._batch)
        self._batch = []

    def _commit(self) -> None:
        """New rows are added; known ones, which must not be there twice, replaced in one step each."""
        new = [row.columns for row in self._ready if not row.known]
        changed = [row.columns for row in self._ready if row.known and row.pixels is not None]
        retold = [row.columns for row in self._ready if row.pixels is None]
        with in_words(self.uri):
            if new:
                self.table.add(self._arrow(new))
            for rows in filter(None, (changed, retold)):
                self.table.merge_insert("id").when_matched_update_all().execute(self._arrow(rows))
            self._commits += 1
            if self._commits % COMMITS_BETWEEN_TIDYING == 0:
                self.table.optimize()
        self.updated += len(retold)
        self._ready = []
        self._committed_at = time.monotonic()

    def _arrow(self, rows: list[dict[str, Any]]) -> Any:
        import pyarrow as pa

        schema = pa.schema([field for field in self.table.schema if field.name in rows[0]])
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in schema.names}
        if "vector" in columns:
            values = np.stack(columns["vector"])  # at once: number by number takes as long as embedding
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        return pa.table(columns, schema=schema)


def _content(picture: Picture) -> bytes | np.ndarray:
    if not isinstance(picture, Path):
        return picture
    try:
        return picture.read_bytes()
    except OSError as error:
        raise BrokenPicture(error.strerror or str(error)) from error


def _stamp(picture: Picture) -> str:
    """Of a file its size and time of change, of which both stay only if it stays; else nothing."""
    if not isinstance(picture, Path):
        return ""
    try:
        status = picture.stat()
    except OSError as error:
        raise BrokenPicture(error.strerror or str(error)) from error
    return f"{status.st_size} {status.st_mtime_ns}"


def _digest(picture: bytes | np.ndarray) -> str:
    if isinstance(picture, bytes):
        return hashlib.blake2b(picture, digest_size=16).hexdigest()
    digest = hashlib.blake2b(repr((picture.shape, str(picture.dtype))).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _thumbnail(picture: bytes | np.ndarray) -> bytes:
    image = Image.fromarray(read_picture(picture, at_least_pixels=(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)))
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _unicode(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # file names may be no Unicode, Arrow's texts are


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


__all__ = ["Built", "build_index"]
