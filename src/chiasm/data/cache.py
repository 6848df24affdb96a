"""Pictures read and resized once per data set and preprocessing, kept as one memory-mapped file of pixels."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Int, UInt8

from chiasm import config
from chiasm.data.picture import picture_of
from chiasm.data.reading import BLOCK, blocks
from chiasm.data.source import View
from chiasm.data.transforms import NO_PICTURES, PreprocessConfig, read_pixels
from chiasm.errors import UserError
from chiasm.machine import available_cores
from chiasm.progress import counting
from chiasm.types import Example, Picture

LIMIT_BYTES = 8 * 2**30
"""A data set with more pixels than this is read anew for every batch."""
FOLDER_BYTES = 20 * 2**30
"""What the cache folder may hold; beyond it the files that were used longest ago go."""
FORMAT = 3
"""To be raised whenever the same file would become other pixels than before."""
PART_SECONDS = 24 * 3600
"""An unfinished file of this age is left over from a process that died."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A picture that cannot be read: its row among the examples, its key, and why."""

    row: int
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """The pixels of some examples by row, from the cache or (where that would grow too large) read when asked for.

    Examples may share a picture (questions about one, right and wrong captions of one): it is read and stored once.
    """

    examples: Sequence[Example]
    preprocess: PreprocessConfig
    places: Int[np.ndarray, " rows"]
    """Of each row's picture in the file; -1 for a row without a picture."""
    broken: tuple[Broken, ...]
    path: Path | None
    """The file of pixels, None where pictures are read when asked for."""

    @cached_property
    def good(self) -> Int[np.ndarray, " good"]:
        """The rows of the pictures that can be read, ascending."""
        return np.setdiff1d(np.arange(len(self.examples)), [broken.row for broken in self.broken])

    @cached_property
    def pixels(self) -> UInt8[np.ndarray, "pictures height width 3"] | None:
        """The memory-mapped pixels of all pictures (black where broken), None where there is no such file."""
        if self.path is None:
            return None
        return np.memmap(self.path, np.uint8, "r", shape=(int(self.places.max()) + 1, *self.preprocess.size, 3))

    def pixels_of(self, rows: Int[np.ndarray, " b"]) -> UInt8[np.ndarray, "b height width 3"]:
        """The pixels of good rows, as an array of its own, black for a row without a picture.

        Raises BrokenPicture if a file has broken since.
        """
        if self.preprocess.size == NO_PICTURES:
            return np.empty((len(rows), 0, 0, 3), np.uint8)
        shown = self.places[rows] >= 0
        pixels = np.zeros((len(rows), *self.preprocess.size, 3), np.uint8)
        if self.pixels is not None:
            pixels[shown] = np.asarray(self.pixels)[self.places[rows[shown]]]
            return pixels
        images = [picture_of(self.examples[int(row)]) for row in rows[shown]]
        with ThreadPoolExecutor(available_cores()) as pool:
            for place, read in zip(np.flatnonzero(shown), pool.map(self._read, images), strict=True):
                pixels[place] = read
        return pixels

    def _read(self, picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
        return read_pixels(picture, self.preprocess)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled with all its pixels; the other process opens its own.
        return {name: value for name, value in vars(self).items() if name != "pixels"}


def prepare_pictures(
    examples: Sequence[Example],
    preprocess: PreprocessConfig,
    *,
    name: str,
    folder: Path | None = None,
    max_broken_share: float | None = 0.05,
    limit_bytes: int = LIMIT_BYTES,
) -> Pictures:
    """Read every picture once, or find in the cache `folder` that this was done; a changed file is read again.

    The default folder is $CHIASM_CACHE, or chiasm's part of the user's cache directory. UserError where no picture can
    be read, where more than `max_broken_share` of them cannot (None leaves both to the caller's `check_broken`), or
    where the folder cannot be written.
    """
    if not len(examples):
        raise UserError(f"{name} has no pictures", "Check the path and the name of the split.")
    if preprocess.size == NO_PICTURES:
        places = np.full(len(examples), -1)
        return Pictures(examples=examples, preprocess=preprocess, places=places, broken=(), path=None)
    places, identities = _placed(examples)
    if not identities:
        raise UserError(f"{name} has no pictures", "It has texts alone; name data with pictures.")
    stored = len(identities) * math.prod(preprocess.size) * 3 <= limit_bytes
    folder = folder or default_folder()
    stem = f"{re.sub(r'[^0-9A-Za-z.]+', '-', name)[-60:]}-{_fingerprint(identities, preprocess, stored)}"
    entry = _valid_entry(folder / f"{stem}.json")
    if entry is None:
        first = np.unique(places, return_index=True)[1][-len(identities) :]
        entry = _build(View(examples, first), preprocess, folder, stem, stored)
        _evict(folder, keep=stem)
    path = folder / f"{stem}.pixels" if stored else None
    broken = _broken_rows(examples, places, entry)
    pictures = Pictures(examples=examples, preprocess=preprocess, places=places, broken=broken, path=path)
    if max_broken_share is not None:
        check_broken(pictures.broken, len(examples), f"pictures of {name}", max_broken_share)
    return pictures


def default_folder() -> Path:
    """Where pixels are kept: $CHIASM_CACHE, or chiasm's part of the user's cache directory."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CHIASM_CACHE") or user / "chiasm") / "pictures"


def write_quarantine(broken: Iterable[Broken], path: Path) -> None:
    """Write one line of JSON, {"key", "reason"}, for every picture that was left out."""
    lines = [json.dumps({"key": b.key, "reason": b.reason}, ensure_ascii=False) + "\n" for b in broken]
    path.write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Unread:
    """A place in the file for which there are no pixels, and why."""

    place: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What stands beside a file of pixels: written last, so that it vouches for the file."""

    broken: tuple[_Unread, ...]
    pixel_bytes: int
    """0 where no pixels are stored."""
    crc32: int


def _placed(examples: Sequence[Example]) -> tuple[Int[np.ndarray, " rows"], list[bytes]]:
    """Each row's place among the different pictures (-1 for none), and what tells these from others."""
    numbers: dict[bytes, int] = {}
    places = np.full(len(examples), -1)
    with counting("Checking pictures", len(examples)) as advance:
        for row, example in enumerate(examples):
            if example.image is not None:
                identity = repr(_identity(example.image)).encode("utf-8", "backslashreplace")
                places[row] = numbers.setdefault(identity, len(numbers))
            if row % BLOCK == 0:
                advance(BLOCK)
    return places, list(numbers)


def _fingerprint(identities: Sequence[bytes], preprocess: PreprocessConfig, stored: bool) -> str:
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr((FORMAT, PIL.__version__, config.fingerprint(preprocess), stored)).encode())
    for identity in identities:
        digest.update(identity)
    return digest.hexdigest()


def _broken_rows(examples: Sequence[Example], places: Int[np.ndarray, " rows"], entry: _Entry) -> tuple[Broken, ...]:
    reasons = {unread.place: unread.reason for unread in entry.broken}
    rows = np.flatnonzero(np.isin(places, list(reasons)))
    keys = [examples[int(row)].key.encode("utf-8", "backslashreplace").decode() for row in rows]  # maybe no Unicode
    return tuple(
        Broken(row=int(row), key=key, reason=reasons[int(places[row])]) for row, key in zip(rows, keys, strict=True)
    )


def _identity(picture: Picture) -> tuple[Any, ...]:
    if isinstance(picture, Path):
        path = str(picture.absolute())
        try:
            status = picture.stat()
        except OSError as error:
            return path, error.errno
        return path, status.st_size, status.st_mtime_ns
    if isinstance(picture, np.ndarray):
        return picture.shape, str(picture.dtype), hashlib.blake2b(np.ascontiguousarray(picture).data).hexdigest()
    return (hashlib.blake2b(picture).hexdigest(),)


def _valid_entry(path: Path) -> _Entry | None:
    """The entry, if its file of pixels is whole; using it makes both files young again."""
    try:
        entry = config.load(_Entry, path)
        if entry.pixel_bytes:
            pixels = path.with_suffix(".pixels")
            if pixels.stat().st_size != entry.pixel_bytes or _file_crc32(pixels) != entry.crc32:
                return None
            os.utime(pixels)
        os.utime(path)
    except (UserError, OSError):
        return None
    return entry


def _file_crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file, counting("Checking pixels", path.stat().st_size) as advance:
        while chunk := file.read(2**22):
            crc = zlib.crc32(chunk, crc)
            advance(len(chunk))
    return crc


def _build(examples: Sequence[Example], preprocess: PreprocessConfig, folder: Path, stem: str, stored: bool) -> _Entry:
    """Read every picture; write pixels, then entry, each under a name of its own until it is whole."""
    broken: list[_Unread] = []
    crc = size = rows = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / f"{stem}.pixels", wanted=stored) as part, part.open("wb") as file:
            for pixels, reasons in blocks(examples, preprocess):
                broken += [_Unread(place=rows + i, reason=why) for i, why in enumerate(reasons) if why is not None]
                rows += len(reasons)
                if stored:
                    size += file.write(pixels.numpy().data)
                    crc = zlib.crc32(pixels.numpy().data, crc)
        entry = _Entry(broken=tuple(broken), pixel_bytes=size, crc32=crc)
        with _replacing(folder / f"{stem}.json") as part:
            config.save(entry, part)
    except OSError as error:
        raise UserError(
            f"The picture cache {folder} cannot be written: {error}",
            "Make room there, or set the environment variable CHIASM_CACHE to a folder with more.",
        ) from error
    return entry


@contextmanager
def _replacing(path: Path, wanted: bool = True) -> Iterator[Path]:
    """A new file beside `path` that takes its place at the end, all at once, if it is `wanted` and nothing failed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}-", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        if wanted:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _evict(folder: Path, keep: str) -> None:
    """Delete what was used longest ago until the folder fits, and what dead processes left half-written."""
    total = 0
    for path, status in sorted(_files(folder), key=lambda item: -item[1].st_mtime):
        if path.suffix == ".part":
            stale = status.st_mtime < time.time() - PART_SECONDS
        else:
            total += status.st_size
            stale = total > FOLDER_BYTES and path.stem != keep
        if stale:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process deleted it just now
            yield path, path.stat()


def check_broken(broken: Sequence[Broken], total: int, what: str, max_broken_share: float) -> None:
    """UserError where none of so many pictures or sounds can be read, or more than this share of them cannot."""
    if len(broken) < total and len(broken) <= max_broken_share * total:
        return
    first = "; ".join(f"{b.key}: {b.reason}" for b in broken[:5]) + ("; ..." if len(broken) > 5 else "")
    hint = "Mend or remove them"
    if len(broken) < total:
        hint += f", or go on without them: --max-broken-share {math.ceil(100 * len(broken) / total) / 100}"
    raise UserError(f"{len(broken)} of the {total} {what} cannot be read ({first})", f"{hint}.")
