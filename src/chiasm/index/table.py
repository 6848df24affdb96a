"""The side of LanceDB: an index's two tables, the approximate index of vectors, and its errors in words of users."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from chiasm import config as configs
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.progress import waiting

FORMAT = 1
PICTURES, ABOUT = "pictures", "about"
"""The tables of an index: a row for each picture; one row that says what the index is."""
ANN_ROWS = 100_000
"""Up to so many vectors are compared one by one, which takes some 50 ms; beyond, an approximate index is asked."""
PROBES = 24
"""Cells of the approximate index that a query looks into; it has one for about a thousand vectors."""
REFINE = 2
"""The approximate index finds this many times as many as are asked for; their exact cosines choose among them."""
FRESH_SECONDS = 5
"""How old what a reader sees may be while another process adds to the index."""
OLD_SECONDS = 10
"""Versions of the table from before this time are deleted: nobody reads them any longer (see FRESH_SECONDS)."""


@runtime_checkable
class Embedder(Protocol):
    """A model that puts pictures and words into one space, as vectors of unit length."""

    @property
    def fingerprint(self) -> Any:  # a text; type checkers do not see through a cached property
        """Equal where weights and preprocessing are."""
        ...

    @property
    def embed_width(self) -> int:
        """Numbers in a vector."""
        ...

    @property
    def preprocess(self) -> PreprocessConfig:
        """What pixels it takes."""
        ...

    @property
    def calibration(self) -> Any:
        """What turns a cosine of words and picture into a probability; None where that was not measured."""
        ...

    def embed_pixels(self, pixels: UInt8[np.ndarray, "b height width 3"]) -> Float[np.ndarray, "b e"]:
        """Vectors of prepared pictures."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "b e"]:
        """Vectors of texts."""
        ...


@dataclass(frozen=True, kw_only=True)
class About:
    """What an index says of itself: whose vectors it holds, and where that model's bundle was."""

    format: int = FORMAT
    fingerprint: str
    embed_width: int
    preprocess: PreprocessConfig
    bundle: str = ""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}, this version reads {FORMAT}")

    def check(self, embedder: Embedder, uri: str, hint: str) -> None:
        """UserError where the vectors are another model's."""
        if embedder.fingerprint != self.fingerprint:
            raise UserError(
                f"{uri} holds vectors of the model {self.fingerprint} ({self.bundle or 'of no folder'}), "
                f"not of the model {embedder.fingerprint}",
                hint,
            )


def is_local(uri: str) -> bool:
    """Whether the index is a folder here, and not in an object storage."""
    return "://" not in uri


@contextmanager
def in_words(uri: str) -> Iterator[None]:
    """What LanceDB cannot do to this index, as UserError."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"The index {uri} cannot be used: {told(error)}",
            f"If it is damaged or cut off, delete it and make it anew: chiasm index RUN DATA --out {uri}",
        ) from error


def told(error: Exception) -> str:
    """LanceDB's message without the place in its own source code that it ends in."""
    return str(error).split("\n")[0].split(", /")[0]


def connect(uri: str) -> Any:
    """The database at `uri`: a folder, or an address of object storage such as s3://bucket/photos.lance."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns on stderr of what is no fault
    try:
        import lancedb
    except ImportError as error:
        raise UserError("Search needs LanceDB, which is not installed", "pip install 'chiasm[search]'") from error
    return lancedb.connect(uri, read_consistency_interval=timedelta(seconds=FRESH_SECONDS))


def read_index(uri: str) -> tuple[About, Any] | None:
    """What the index says of itself, and its table of pictures; None where there is nothing at all.

    UserError where there is something else, or the index is damaged.
    """
    if is_local(uri) and not _is_folder_with_files(uri):  # to connect would make the folder
        return None
    with in_words(uri):
        database = connect(uri)
        names = database.list_tables().tables
        if ABOUT not in names:
            if not names and not is_local(uri):
                return None
            raise UserError(f"{uri} is no index of pictures", "Name what `chiasm index` made, or a new place.")
        rows = database.open_table(ABOUT).to_arrow().to_pylist()
        about = configs.from_dict(About, json.loads(rows[0]["json"]) if rows else None)
        return about, database.open_table(PICTURES) if PICTURES in names else None


def create_index(uri: str, about: About) -> Any:
    """An empty table of pictures, described by `about`."""
    import pyarrow as pa

    fields = {
        "id": pa.string(),
        "path": pa.string(),
        "thumbnail": pa.binary(),
        "texts": pa.list_(pa.string()),
        "tags": pa.list_(pa.string()),
        "label": pa.string(),
        "group": pa.string(),
        "said": pa.string(),
        "stamp": pa.string(),
        "digest": pa.string(),
        "vector": pa.list_(pa.float32(), about.embed_width),
    }
    with in_words(uri):
        describe(uri, about)
        return connect(uri).create_table(PICTURES, schema=pa.schema(list(fields.items())))


def describe(uri: str, about: About) -> None:
    """Write what the index says of itself."""
    row = {"json": json.dumps(configs.to_dict(about), ensure_ascii=False)}
    connect(uri).create_table(ABOUT, [row], mode="overwrite")


def tidy(table: Any, ann_rows: int = ANN_ROWS) -> None:
    """Join small files, drop old versions, and bring the approximate index up to date.

    The index is of 8-bit vectors in cells (IVF-SQ). New rows join its cells; it is made anew once they are the most.
    """
    from lancedb.index import IvfSq

    stats = [table.index_stats(index.name) for index in table.list_indices()]
    old = timedelta(seconds=OLD_SECONDS)
    with waiting("Tidying the index"):
        table.optimize(cleanup_older_than=old)
        if stats[0].num_unindexed_rows > stats[0].num_indexed_rows if stats else table.count_rows() > ann_rows:
            # Fewer samples and rounds than LanceDB's own find cells as good, in a tenth of the time.
            table.create_index("vector", config=IvfSq(distance_type="cosine", max_iterations=10, sample_rate=64))
            table.optimize(cleanup_older_than=old)  # the small files have grown old meanwhile


def _is_folder_with_files(uri: str) -> bool:
    path = Path(uri)
    if path.exists() and not path.is_dir():
        raise UserError(f"{uri} is a file, an index is a folder", "Name what `chiasm index` made, or a new place.")
    return path.exists() and any(path.iterdir())


__all__ = ["ANN_ROWS", "PROBES", "REFINE", "About", "Embedder", "connect", "create_index", "describe", "in_words",
           "is_local", "read_index", "tidy", "told"]  # fmt: skip
