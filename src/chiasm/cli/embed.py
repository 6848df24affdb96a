"""`chiasm embed`: vectors of pictures or texts in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chiasm.cli.pictures import find_pictures, in_batches
from chiasm.errors import UserError
from chiasm.predict import ClipPredictor

SUFFIXES = (".parquet", ".npy")


def embed(
    run: Path,
    pictures: tuple[str, ...] = (),
    *,
    out: Path,
    texts: tuple[str, ...] = (),
    texts_file: Path | None = None,
    truncate: bool = False,
) -> int:
    """Vectors of unit length of pictures, or of texts, in one space: cosines of any two mean something.

    A Parquet file has a row per picture or text: `key` and `vector`. An .npy file has the vectors alone, in order.

    Args:
        run: the folder of a run or a bundle
        pictures: files, folders (all pictures in them) or globs
        out: the file, .parquet or .npy
        texts: texts instead of pictures, each in quotes
        texts_file: a text file with a text per line, instead
        truncate: cut texts that are longer than the model's context
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} is neither Parquet nor npy", "End its name in .parquet or .npy.")
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
        keys, vectors = list(texts), predictor.embed_texts(texts, truncate=truncate)
    else:
        keys, parts, found = [], [np.empty((0, predictor.embed_width), np.float32)], find_pictures(pictures)
        try:
            for paths, pixels in in_batches(predictor, found, "embedding"):
                keys += [str(path) for path in paths]
                parts.append(predictor.embed_pixels(pixels))
        except UserError as error:  # raised after the last batch: what could be read is kept
            broken = error
        vectors = np.concatenate(parts)
    if broken is not None and not keys:
        raise broken
    _write(out, keys, vectors)
    print(f"{len(keys):,} vectors of width {vectors.shape[1]} in {out}")
    if broken is not None:
        raise broken
    return 0


def _write(out: Path, keys: list[str], vectors: np.ndarray) -> None:
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
