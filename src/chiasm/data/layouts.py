"""`open_source`: any data set by its path or name, its layout recognised and said."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from chiasm.data.annotations import read_annotations
from chiasm.data.arrow import read_hub, read_parquet
from chiasm.data.columns import Wanted
from chiasm.data.emoji import emoji_source
from chiasm.data.episodes import EpisodesConfig, episodes_source
from chiasm.data.folders import LAYOUTS
from chiasm.data.interleaved import interleaved_source, is_interleaved
from chiasm.data.questions import questions_source
from chiasm.data.rows import Reading, assemble
from chiasm.data.shapes import ShapesConfig, shapes_source
from chiasm.data.source import Source
from chiasm.data.tables import TABLE_SUFFIXES, read_table
from chiasm.data.tars import read_tars
from chiasm.data.texts import text_files, texts_source
from chiasm.errors import UserError

BUILT_IN = ("shapes", "emoji", "episodes")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
FILES: dict[str, Callable[[Path, Wanted], Reading]] = {
    **dict.fromkeys(TABLE_SUFFIXES, read_table),
    ".json": read_annotations,
    ".parquet": lambda path, wanted: read_parquet([path], path.parent, wanted),
    ".tar": lambda path, wanted: read_tars([path], wanted),
}


def open_source(
    path: str | Path,
    *,
    image_column: str | None = None,
    text_column: str | None = None,
    sound_column: str | None = None,
    label_column: str | None = None,
    picture_folder: Path | None = None,
    partial: bool = False,
    shapes: ShapesConfig | None = None,
    episodes: EpisodesConfig | None = None,
) -> Source:
    """The data set at a path, of a built-in name (shapes, emoji, episodes), or on the Hugging Face Hub ("owner/name").

    A path is a folder, a file, or a pattern of tar or Parquet files ("x-{0000..0003}.tar"); `Source.understood` says
    what was recognised. Columns are guessed from their names unless named; files that a table names are looked for in
    `picture_folder`, else beside the table and below. Splits are the data's own; otherwise a stable hash makes them.
    An example needs a picture and a caption, which may be its class; with `partial`, for models that do without, any of
    picture, sound and text will do, and a class is no text. UserError says what is wrong with the data and what to do.
    """
    text = str(path)
    named = {
        "image_column": image_column,
        "text_column": text_column,
        "sound_column": sound_column,
        "label_column": label_column,
    }
    wanted = Wanted(**named, picture_folder=picture_folder, partial=partial)
    if text == "emoji":
        return emoji_source()
    if text == "episodes":
        return episodes_source(episodes or EpisodesConfig())
    if text == "shapes":
        shapes = shapes or ShapesConfig()
        return questions_source(shapes) if shapes.questions_per_picture else shapes_source(shapes)
    if is_interleaved(Path(path)):
        return interleaved_source(Path(path))
    files = text_files(Path(path)) if image_column is None else []
    if files:
        return texts_source(text, files)
    reading = _read(text, Path(path), wanted)
    if any(named.values()) and not reading.has_columns:
        raise UserError(f"{text} has no columns: it is {reading.layout}", "Leave the columns' names away.")
    return assemble(text, reading, partial=partial)


def _read(text: str, path: Path, wanted: Wanted) -> Reading:
    if path.is_dir():
        return _read_folder(path, wanted)
    if path.is_file():
        read = FILES.get(path.suffix.lower())
        if read is None:
            raise UserError(f"{path} is no data set that is known", f"A file can be: {', '.join(FILES)}.")
        return read(path, wanted)
    if BRACES.search(text) or glob.has_magic(text):
        return _read_pattern(text, wanted)
    hint = f"Check the spelling. Built-in data sets: {', '.join(BUILT_IN)}. {_known()}"
    if HUB_ID.fullmatch(text) and path.suffix.lower() not in FILES and not path.parent.exists():
        return read_hub(text, wanted, hint)
    raise UserError(f"There is no {text}", hint)


def _read_folder(folder: Path, wanted: Wanted) -> Reading:
    for read in LAYOUTS.values():
        reading = read(folder, wanted)
        if reading is not None:
            return reading
    raise UserError(f"{folder} is a folder of no known layout", _known())


def _read_pattern(pattern: str, wanted: Wanted) -> Reading:
    files = [path for part in _expand(pattern) for path in _matches(part)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UserError(f"There is no {missing[0]} ({pattern} asks for it)", "Check the pattern.")
    suffixes = {path.suffix.lower() for path in files}
    if suffixes == {".tar"}:
        return read_tars(files, wanted)
    if suffixes == {".parquet"}:
        return read_parquet(files, Path(os.path.commonpath([path.parent for path in files])), wanted)
    raise UserError(f"{pattern} matches {', '.join(sorted(suffixes))}", "A pattern may match .tar or .parquet files.")


def _matches(pattern: str) -> list[Path]:
    base = Path(Path(pattern).anchor)
    return sorted(base.glob(str(Path(pattern).relative_to(base)))) or [Path(pattern)]


def _expand(pattern: str) -> list[str]:
    """Every name that braces such as {0000..0003} stand for."""
    found = BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in _expand(pattern[: found.start()] + number + pattern[found.end() :])]


def _known() -> str:
    return "A folder can hold: " + "; ".join(LAYOUTS) + "."


__all__ = ["open_source"]
