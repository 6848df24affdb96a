"""Vectors on their way into a file: what was embedded before an interruption is there when the command runs again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from chiasm.errors import UserError

SUFFIXES = (".parquet", ".npy")
PART_ROWS = 4096
"""Vectors that are written together: at most so many are lost where a process is killed."""


class Parts:
    """Vectors of pictures by one model, in a folder beside the file that they will be in; a context.

    The folder is gone when all went well. What an exception or a kill left there is known the next time, but for
    pictures whose files have changed.
    """

    def __init__(self, out: Path, fingerprint: str):
        self.folder = out.with_name(f"{out.name}.parts")
        self.fingerprint = fingerprint
        self.keys: list[str] = []
        self.vectors: list[Float[np.ndarray, "b e"]] = []
        self.number = 0
        for path in sorted(self.folder.glob(f"{fingerprint}-*.npz")):
            self._read(path)
        self.written = len(self.vectors)
        self.known = frozenset(self.keys)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.keys:
            try:
                self.save()
            except UserError as error:  # what is told is why it ended
                print(error.message, file=sys.stderr)
            kept = len(self.keys) - sum(map(len, self.vectors[self.written :]))
            print(f"{kept:,} vectors are kept in {self.folder}; the same command goes on", file=sys.stderr)

    def missing(self, paths: Sequence[Path]) -> list[Path]:
        """Those of the pictures that have no vector yet."""
        return [path for path in paths if str(path) not in self.known]

    def add(self, paths: Sequence[Path], vectors: Float[np.ndarray, "b e"]) -> None:
        """More; written from time to time."""
        self.keys += map(str, paths)
        self.vectors.append(vectors)
        if sum(map(len, self.vectors[self.written :])) >= PART_ROWS:
            self.save()

    def save(self) -> None:
        """Write what was not written yet; UserError where the folder takes no more."""
        if self.written == len(self.vectors):
            return
        vectors = np.concatenate(self.vectors[self.written :])
        keys = self.keys[-len(vectors) :]
        path = self.folder / f"{self.fingerprint}-{self.number + 1:06d}.npz"
        try:
            self.folder.mkdir(exist_ok=True)
            with path.with_suffix(".writing").open("wb") as file:
                np.savez(file, keys=np.array(keys, np.str_), vectors=vectors, changed=_changed(keys))
            path.with_suffix(".writing").replace(path)
        except OSError as error:
            told = f"{self.folder} cannot be written: {error.strerror}"
            raise UserError(told, "Make room, and run the same command again.") from error
        self.number += 1
        self.written = len(self.vectors)

    def in_order(self, keys: Sequence[str], width: int) -> tuple[list[str], Float[np.ndarray, "b e"]]:
        """The vectors of these pictures, those left out that have none."""
        vectors = np.concatenate([np.empty((0, width), np.float32), *self.vectors])
        if list(keys) != self.keys:
            row_of = {key: row for row, key in enumerate(self.keys)}
            keys = [key for key in keys if key in row_of]
            vectors = vectors[[row_of[key] for key in keys]]
        return list(keys), vectors

    def _read(self, path: Path) -> None:
        self.number = int(path.stem.rsplit("-", 1)[1])
        try:
            with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
                keys, vectors, changed = file["keys"].tolist(), file["vectors"], file["changed"]
        except (OSError, EOFError, ValueError, KeyError, BadZipFile):
            return  # embedded anew
        same = changed == _changed(keys)
        self.keys += [key for key, is_same in zip(keys, same, strict=True) if is_same]
        self.vectors.append(vectors[same])


def _changed(keys: Sequence[str]) -> Int[np.ndarray, " b"]:
    """When the files were written, in nanoseconds; -1 where there is none, which is like no time."""
    times = [Path(key).stat().st_mtime_ns if Path(key).exists() else -1 for key in keys]
    return np.array(times, np.int64)


def check_writable(out: Path) -> None:
    """UserError where vectors could not be written into this file, before there are any."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} is neither Parquet nor npy", "End its name in .parquet or .npy.")
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written: there is no {out.parent}", "Name a file in a folder that exists.")


def write_vectors(out: Path, keys: list[str], vectors: Float[np.ndarray, "b e"]) -> None:
    """Write a Parquet file of keys and vectors, or an .npy file of the vectors."""
    scratch = out.with_suffix(f".writing{out.suffix}")
    try:
        if out.suffix == ".npy":
            np.save(scratch, vectors)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            pq.write_table(pa.table({"key": keys, "vector": column}), scratch)
        scratch.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}", "Name a file in a folder that exists.") from error


__all__ = ["Parts", "check_writable", "write_vectors"]
