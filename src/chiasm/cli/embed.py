"""`chiasm embed`: vectors of pictures or texts in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.cli.vectors import Parts, check_writable, write_vectors
from chiasm.errors import UserError
from chiasm.predict import ClipPredictor
from chiasm.predict.clip import READ_ROWS

MANY_ROWS = 256
"""From so many on it is worth two seconds to measure which precision is faster."""


def embed(
    run: Path,
    pictures: tuple[str, ...] = (),
    *,
    out: Path,
    texts: tuple[str, ...] = (),
    texts_file: Path | None = None,
    truncate: bool = False,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> int:
    """Vectors of unit length of pictures, or of texts, in one space: cosines of any two mean something.

    A Parquet file has a row per picture or text: `key` and `vector`. An .npy file has the vectors alone, in order.
    Where it was interrupted among pictures, the same command goes on.

    Args:
        run: the folder of a run or a bundle
        pictures: files, folders (all pictures in them) or globs
        out: the file, .parquet or .npy
        texts: texts instead of pictures, each in quotes
        texts_file: a text file with a text per line, instead
        truncate: cut texts that are longer than the model's context
        precision: of the arithmetic; auto measures which is faster here, unless there is little to do in fp32
    """
    check_writable(out)
    if texts_file is not None:
        try:
            texts = (*texts, *texts_file.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{texts_file} cannot be read: {error}", "It is a text file, a text per line.") from error
    if bool(pictures) == bool(texts):
        raise UserError("Name either pictures or texts", "chiasm embed RUN PICTURES ... --out FILE, or --texts ...")
    predictor = ClipPredictor.load(run)
    broken: UserError | None = None
    if texts:
        keys = list(texts)
        vectors = hasten(predictor, precision, "texts", len(keys)).embed_texts(keys, truncate=truncate)
        write_vectors(out, keys, vectors)
    else:
        found = find_pictures(pictures)
        with Parts(out, predictor.fingerprint) as parts:
            if parts.known:
                print(f"going on   {len(parts.known):,} vectors are left of a run that was interrupted")
            hastened = hasten(predictor, precision, "pictures", len(parts.missing(found)))
            keys, vectors, broken = embed_pictures(hastened, found, parts)
            if broken is not None and not keys:
                raise broken
            write_vectors(out, keys, vectors)
    print(f"{len(keys):,} vectors of width {vectors.shape[1]} in {out}")
    if broken is not None:
        raise broken
    return 0


def embed_pictures(
    predictor: ClipPredictor, paths: Sequence[Path], parts: Parts
) -> tuple[list[str], Float[np.ndarray, "b e"], UserError | None]:
    """The pictures that can be read, their vectors, and what is to be told of the others."""
    broken = None
    batches = in_batches(predictor, parts.missing(paths), "embedding", READ_ROWS)
    while True:
        try:
            some, pixels = next(batches)
        except StopIteration:
            break
        except UserError as error:  # raised after the last batch: what could be read is kept
            broken = error
            break
        parts.add(some, predictor.embed_pixels(pixels))
    keys, vectors = parts.in_order(list(map(str, paths)), predictor.embed_width)
    return keys, vectors, broken


def hasten(
    predictor: ClipPredictor, precision: Literal["auto", "fp32", "bf16"], what: Literal["pictures", "texts"], rows: int
) -> ClipPredictor:
    """The predictor for so many rows in the precision that was asked for, or that is faster; prints a measurement."""
    if precision != "auto":
        return predictor.in_precision(precision)
    if rows < MANY_ROWS:
        return predictor
    predictor, speed = predictor.measured(what)
    told = ", ".join(f"{name} {value:,.0f}" for name, value in speed.rows_per_second.items())
    print(f"precision  {speed.precision}, {speed.rows} at once (measured {what} a second on a core: {told})")
    return predictor


__all__ = ["embed", "embed_pictures"]
