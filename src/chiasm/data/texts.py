"""Text alone: a .txt file or a folder of them as a Source, and long texts in parts that fit a context."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from chiasm.data.columns import IMAGE_NAMES
from chiasm.data.lookup import files_below
from chiasm.data.rows import PICTURE_SUFFIXES, split_in_name
from chiasm.data.source import Source, split_by_hash, splits_by_name
from chiasm.data.tables import read_text
from chiasm.errors import UserError
from chiasm.text import Tokenizer
from chiasm.types import Example

BESIDE = {".txt", ".md"}
"""What may lie in a folder of texts; of these, the .txt files are read."""
WORD = re.compile(r"\s*\S+")


def text_files(path: Path) -> list[Path]:
    """The text files that a path stands for: itself, or those of a folder that holds nothing else; else none.

    A .txt file whose first line names a picture, or a column for one, is a table of captions.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".txt" and not _is_table(path) else []
    files = []
    for file in files_below(path) if path.is_dir() else ():
        if file.suffix.lower() not in BESIDE or _is_table(file):
            return []
        files += [file] if file.suffix.lower() == ".txt" else []
    return files


def texts_source(name: str, files: Sequence[Path]) -> Source:
    """Every line of the files as an example without a picture; UserError where all are empty.

    Splits are as the names of files or folders say (train.txt, val.txt, test.txt) where all of them do; otherwise a
    hash of the line makes them, so that equal lines are never on two sides.
    """
    root = files[0].parent if len(files) == 1 else Path(name)
    examples, splits_named = [], []
    for file in files:
        place = file.relative_to(root)
        split = split_in_name("-".join(place.with_suffix("").parts))
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                examples.append(Example(image=None, texts=(line.strip(),), key=f"{place.as_posix()}:{number}"))
                splits_named.append(split)
    if not examples:
        raise UserError(f"{name} holds no text", "Write one text per line.")
    if all(splits_named) and set(splits_named) != {"train"}:
        splits, how = splits_by_name(splits_named, order=("train", "val")), "as the files' names say"
    else:
        splits, how = split_by_hash([example.texts[0] for example in examples]), "by hash of the line"
    counts = ", ".join(f"{split} {len(rows):,}" for split, rows in splits.items())
    digest = hashlib.sha256("\n".join(f"{e.key} {e.texts[0]}" for e in examples).encode("utf-8", "surrogatepass"))
    return Source(
        name=name,
        examples=examples,
        splits=splits,
        understood=f"{len(files)} text files: {len(examples):,} lines; {counts} ({how})",
        fingerprint=digest.hexdigest()[:16],
    )


def in_contexts(source: Source, tokenizer: Tokenizer, context: int) -> Source:
    """The same texts, those of more than `context` ids in halves, quarters, … at white space, each an example.

    A part begins with BOS and ends with EOT as any text does. One word that does not fit is left as it is.
    """
    examples: list[Example] = []
    rows: dict[str, np.ndarray] = {}
    for split in source.splits:
        start = len(examples)
        for example in source.split(split):
            examples += _parted(example, tokenizer, context)
        rows[split] = np.arange(start, len(examples))
    return replace(source, examples=examples, splits=rows)


def _parted(example: Example, tokenizer: Tokenizer, context: int) -> list[Example]:
    if max(tokenizer.lengths(example.texts), default=0) <= context:
        return [example]
    parts = [part for text in example.texts for part in _parts(text, tokenizer, context)]
    return [replace(example, texts=(part,), key=f"{example.key}#{n}") for n, part in enumerate(parts, start=1)]


def _parts(text: str, tokenizer: Tokenizer, context: int) -> list[str]:
    words = WORD.findall(text)
    if len(words) < 2 or tokenizer.lengths([text])[0] <= context:
        return [text]
    half = len(words) // 2
    return [
        part
        for side in (words[:half], words[half:])
        for part in _parts("".join(side).strip(), tokenizer, context)
    ]  # fmt: skip


def _is_table(path: Path) -> bool:
    first = read_text(path).split("\n", 1)[0]
    cells = [cell.strip().lower() for cell in re.split(r"[\t,|;#]", first)]
    return len(cells) > 1 and any(c in IMAGE_NAMES or PurePath(c).suffix in PICTURE_SUFFIXES for c in cells)


__all__ = ["in_contexts", "text_files", "texts_source"]
