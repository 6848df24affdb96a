"""Tables of text that name pictures or sounds: CSV, TSV, Flickr8k's captions, JSON Lines, JSON lists of records."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from chiasm.data.columns import Columns, Wanted, answer_in, choose_columns, label_text, texts_in
from chiasm.data.lookup import PictureLookup
from chiasm.data.rows import PICTURE_SUFFIXES, SOUND_SUFFIXES, Reading, Row, canonical_split
from chiasm.errors import UserError

TABLE_SUFFIXES = {".csv", ".tsv", ".txt", ".token", ".jsonl", ".ndjson"}
FLICKR_TOKEN = re.compile(r"(\S.*)#\d+\t(.*)")
"""Flickr8k.token.txt: "1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress is climbing up a set of stairs ."."""


def read_table(path: Path, wanted: Wanted, split: str = "") -> Reading:
    """The rows of one table file; pictures are looked for in the wanted folder, else beside the table and below."""
    lookup = PictureLookup(wanted.picture_folder or path.parent)
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return read_records(_json_lines(path), wanted, path, lookup, split)
    text = read_text(path)
    if FLICKR_TOKEN.match(text):
        return _flickr_tokens(text.split("\n"), path, lookup, split)
    return read_records(_separated(text, path), wanted, path, lookup, split)


def read_records(
    records: Iterable[Mapping[str, Any]], wanted: Wanted, path: Path, lookup: PictureLookup, split: str = ""
) -> Reading:
    """The rows of records that name files; `split` is that of records which do not say theirs.

    A sound in the column of pictures, as `datasets` writes it for folders of sounds, is a sound.
    """
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    if not records:
        raise UserError(f"{path} has no rows", "It may be cut off; restore it from a copy.")
    columns = choose_columns(names, wanted, str(path))
    rows = []
    for number, record in enumerate(records, start=1):
        row_split = canonical_split(str(record.get(columns.split) or "")) or split
        cells = {name: record[name] for name in columns.media if record.get(name)}
        names = {column: file_name(cell, f"{path}, record {number}, {column!r}") for column, cell in cells.items()}
        files = {column: lookup.find(name, row_split) for column, name in names.items()}
        image, sound = files.get(columns.image), files.get(columns.sound)
        if image is not None and image.suffix.lower() in SOUND_SUFFIXES:
            image, sound = None, image
        first = next(iter(names.values()), "")
        key = str(PurePosixPath(first)) if first else f"{path.name}:{record.get(columns.key) or number}"
        rows.append(make_row(record, columns, image=image, sound=sound, key=key, split=row_split))
    return Reading(layout=f"table {path.name} ({columns})", rows=rows, has_columns=True)


def make_row(
    record: Mapping[str, Any], columns: Columns, *, image: Any, key: str, split: str, sound: Any = None
) -> Row:
    """The row of one record, its captions from the text columns, or from the class where there are none."""
    cell = record.get(columns.label)
    label = answer_in(cell) if columns.asks else " ".join(texts_in([cell]))
    texts = texts_in(record.get(name) for name in columns.texts)
    if columns.captions_are_labels:
        texts = texts_in([label_text(label)])
    tags = texts_in([record.get(columns.tags)])
    return Row(image=image, sound=sound, key=key, texts=texts, split=split, label=label, tags=tags, alone=columns.asks)


def file_name(value: Any, where: str) -> str:
    """The path in a cell; UserError where it holds something else, such as an address."""
    if not isinstance(value, str):
        raise UserError(f"{where} is {type(value).__name__}", "It must be the path of a file.")
    if value.startswith(("http://", "https://")):
        raise UserError(f"{where} is a web address: {value}", "Download the files and name them instead.")
    return value.strip()


def read_text(path: Path) -> str:
    """The text of a file, whatever its line ends; UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason})", "Save the file as UTF-8.") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file; UserError with the line where it is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})", "Mend or restore the file.") from error


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, row {number}: not JSON ({error.msg})", "Mend or delete the row.") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, row {number} is not an object", 'It must be like {"image": ..., "caption": ...}.')
        yield record


def _separated(text: str, path: Path) -> list[dict[str, str]]:
    """Records of CSV or TSV; cells beyond the header's belong to the last column: captions with unquoted commas."""
    separators = re.findall(r"[\t,|;]", text.split("\n", 1)[0]) or [","]
    separator = "\t" if "\t" in separators else separators[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        cells = [row for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}", "Mend the line, its quotes for instance."
        ) from error
    if not cells:
        return []
    header = [name.strip() for name in cells[0]]
    if PurePosixPath(header[0]).suffix.lower() in PICTURE_SUFFIXES:
        header = ["image", "caption"]
    else:
        cells = cells[1:]
    last = len(header) - 1
    return [dict(zip(header, [*row[:last], separator.join(row[last:])], strict=False)) for row in cells]


def _flickr_tokens(lines: list[str], path: Path, lookup: PictureLookup, split: str) -> Reading:
    rows = []
    for number, line in enumerate(lines, start=1):
        found = FLICKR_TOKEN.fullmatch(line)
        if line.strip() and not found:
            raise UserError(f"{path}, line {number}: not NAME.jpg#0<tab>CAPTION", "Mend or delete the line.")
        if found:
            rows.append(Row(image=lookup.find(found[1], split), key=found[1], texts=texts_in([found[2]]), split=split))
    return Reading(layout=f"Flickr captions {path.name} (NAME#NUMBER<tab>CAPTION)", rows=rows)


__all__ = ["TABLE_SUFFIXES", "file_name", "make_row", "read_json", "read_records", "read_table", "read_text"]
