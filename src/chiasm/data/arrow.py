"""Tables that hold the files themselves, through Hugging Face `datasets`: Parquet, saved data sets, the Hub."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.data.columns import Columns, Wanted, choose_columns
from chiasm.data.lookup import PictureLookup
from chiasm.data.rows import Reading, Row, Stored, canonical_split, file_stamp, split_in_name
from chiasm.data.tables import file_name, make_row
from chiasm.errors import UserError
from chiasm.progress import track, waiting

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 256
SKETCH_BYTES = 64
UNNAMED = "unnamed"
"""What `datasets` calls the split of files that name none; it must have a name there."""


@dataclass(frozen=True, slots=True)
class ArrowCell(Stored):
    """The picture or sound in one row of a table that lies on disk."""

    table: Any  # a Dataset; beartype in tests cannot see the type of a library that is imported late
    column: str
    row: int

    def read(self) -> bytes:
        """The cell's bytes."""
        cell = self.table[self.row][self.column]
        return cell["bytes"] if isinstance(cell, dict) else cell


def read_parquet(files: Sequence[Path], root: Path, wanted: Wanted) -> Reading:
    """The rows of Parquet files; a file's or folder's name such as "train-00000-of-00004" says the split."""
    import datasets

    by_split: dict[str, list[str]] = {}
    for path in sorted(files):
        split = split_in_name(path.name) or next(filter(None, map(split_in_name, path.relative_to(root).parts)), "")
        by_split.setdefault(split or UNNAMED, []).append(str(path))
    what = f"{files[0]}" if len(files) == 1 else f"{root} ({len(files)} Parquet files)"
    with _quiet(f"reading {what}"):
        try:
            tables = datasets.load_dataset("parquet", data_files=by_split)
        except Exception as error:  # pyarrow and datasets raise many kinds; all mean that the files cannot be read
            reason = str(error.__cause__ or error).split("\n")[0]
            raise UserError(f"{what} cannot be read as Parquet: {reason}", "Restore the files from a copy.") from error
    name = files[0].name if len(files) == 1 else f"{len(files)} files"
    tables = {"" if split == UNNAMED else split: table for split, table in tables.items()}
    return _read_tables(f"Parquet {name}", tables, root, wanted, stamp=file_stamp(files))


def read_saved(folder: Path, wanted: Wanted) -> Reading:
    """The rows of what `datasets` saved with `save_to_disk`."""
    import datasets

    with _quiet(f"reading {folder}"):
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # as above
            raise UserError(f"{folder} cannot be read as a saved data set: {error}", "Save it again.") from error
    tables = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"": saved}
    return _read_tables("saved data set", tables, folder, wanted)


def read_hub(name: str, wanted: Wanted, hint: str) -> Reading:
    """The rows of a data set on the Hugging Face Hub, downloaded into its cache or read from there.

    UserError with `hint` where it cannot be had.
    """
    import datasets

    with _quiet(f"fetching {name}"):
        try:
            tables = datasets.load_dataset(name)
        except Exception as error:  # no network, no such name, access refused, a script that is not supported any more
            raise UserError(
                f"There is no path {name!r} here, and it cannot be had from the Hugging Face Hub: {error}",
                hint,
            ) from error
    return _read_tables(f"Hub data set {name}", dict(tables), Path(), wanted)


def _read_tables(layout: str, tables: Mapping[Any, Dataset], root: Path, wanted: Wanted, stamp: str = "") -> Reading:
    import datasets

    rows: list[Row] = []
    lookup = PictureLookup(wanted.picture_folder or root)
    features = next(iter(tables.values())).features
    pictures, sounds = (
        [name for name, feature in features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.Audio)
    )
    columns = choose_columns(list(features), wanted, layout, pictures, sounds)
    for split, table in tables.items():
        rows += _table_rows(_undecoded(table, columns), columns, canonical_split(str(split)), lookup)
    stamp = stamp or " ".join(table._fingerprint for table in tables.values())
    return Reading(layout=f"{layout} ({columns})", rows=rows, stamp=stamp, has_columns=True)


def _undecoded(table: Dataset, columns: Columns) -> Dataset:
    import datasets

    table = table.select_columns([*columns.media, *(name for name in columns.names if name not in columns.media)])
    for column in columns.media:
        feature = table.features[column]
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            table = table.cast_column(column, type(feature)(decode=False))
        kind = table.features.arrow_schema.field(column).type
        if not (_is_bytes(kind) or _is_text(kind) or _has_bytes(kind)):
            what = "picture" if column == columns.image else "sound"
            raise UserError(
                f"The column {column!r} holds {kind}", f"It must hold a {what}'s bytes, or the path of its file."
            )
    return table


def _table_rows(table: Dataset, columns: Columns, split: str, lookup: PictureLookup) -> Iterator[Row]:
    """Rows of one table; equal bytes are one picture, called by its key column, its path or its number."""
    classes = {name: names for name in columns.names if (names := getattr(table.features[name], "names", None))}
    texts = _texts(table.select_columns([name for name in columns.names if name not in columns.media]), len(table))
    pictures, sounds = _Media(table, columns.image, lookup), _Media(table, columns.sound, lookup)
    key_of: dict[Any, str] = {}
    taken: set[str] = set()
    for number, record in enumerate(texts):
        record |= {name: names[record[name]] for name, names in classes.items() if _is_class(record[name])}
        row_split = canonical_split(str(record.get(columns.split) or "")) or split
        image, sound = pictures.file(number, row_split), sounds.file(number, row_split)
        identity, path = pictures.cells[number] if image is not None else (None, sounds.cells[number][1])
        if isinstance(image, Path):
            key = path
        else:
            identity = number if identity is None else identity
            if identity not in key_of:
                key = str(record.get(columns.key) or path or number)
                while key in taken:
                    key += f"#{number}"
                key_of[identity] = key
                taken.add(key)
            key = key_of[identity]
        yield make_row(record, columns, image=image, sound=sound, key=key, split=row_split)


class _Media:
    """A column of pictures or sounds, by row."""

    def __init__(self, table: Dataset, column: str, lookup: PictureLookup):
        self.column, self.lookup = column, lookup
        self.table = table.select_columns([column] if column else [])
        self.cells = _identities(self.table, column) if column else [(None, "")] * len(table)

    def file(self, number: int, split: str) -> ArrowCell | Path | None:
        """Where the row's picture or sound is; None where it has none."""
        identity, path = self.cells[number]
        if identity is not None:
            return ArrowCell(self.table, self.column, number)
        return self.lookup.find(file_name(path, f"row {number}, {self.column!r}"), split) if path else None


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _texts(table: Dataset, count: int) -> Iterator[dict[str, Any]]:
    if not table.column_names:
        return ({} for _ in range(count))
    return (row for batch in table.iter(ROWS_AT_ONCE) for row in _records(batch))


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _identities(table: Dataset, column: str) -> list[tuple[Any, str]]:
    """For each row what tells its file from others (None where it holds a path only), and the path.

    Length and a few bytes tell most files apart; only those that agree in these are read whole and hashed.
    """
    cells = [_sketch(cell) for cell in _cells(table, column, "looking for repeated files")]
    repeated = {sketch for sketch, count in Counter(sketch for sketch, _ in cells).items() if sketch and count > 1}
    if not repeated:
        return cells
    whole = _cells(table, column, "comparing repeated files")
    return [
        ((*sketch, hashlib.sha256(_buffer(cell)).digest()), path) if sketch in repeated else (sketch, path)
        for (sketch, path), cell in zip(cells, whole, strict=True)
    ]


def _cells(table: Dataset, column: str, doing: str) -> Iterator[Any]:
    batches: Any = table.with_format("arrow").iter(ROWS_AT_ONCE)
    for batch in track(batches, doing, total=-(-len(table) // ROWS_AT_ONCE)):
        yield from batch[column]


def _sketch(cell: Any) -> tuple[Any, str]:
    buffer, path = _buffer(cell), _path(cell)
    if buffer is None:
        return None, path
    middle = buffer.size // 2
    return (buffer.size, buffer[middle : middle + SKETCH_BYTES].to_pybytes(), buffer[-SKETCH_BYTES:].to_pybytes()), path


def _buffer(cell: Any) -> Any:
    """The bytes in an Arrow cell, not copied; None where it has none."""
    cell = cell["bytes"] if _has_bytes(cell.type) else cell
    return cell.as_buffer() if _is_bytes(cell.type) else None


def _path(cell: Any) -> str:
    if _has_bytes(cell.type):
        cell = cell["path"] if cell.type.get_field_index("path") >= 0 else None
    return "" if cell is None or not _is_text(cell.type) else cell.as_py() or ""


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@contextmanager
def _quiet(doing: str) -> Iterator[None]:
    """Our own spinner in place of the bars, logs and warnings of `datasets`."""
    import datasets
    import huggingface_hub.utils as hub

    levels = [(log, log.get_verbosity()) for log in (datasets.logging, hub.logging)]
    had_bars, had_hub_bars = not datasets.are_progress_bars_disabled(), not hub.are_progress_bars_disabled()
    for log, _ in levels:
        log.set_verbosity_error()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    try:
        with waiting(doing), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
        if had_bars:
            datasets.enable_progress_bars()
        if had_hub_bars:
            hub.enable_progress_bars()


__all__ = ["ArrowCell", "read_hub", "read_parquet", "read_saved"]
