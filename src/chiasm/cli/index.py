"""`chiasm index`: the pictures of a data set as vectors, to be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from chiasm.cli.embed import hasten
from chiasm.config import fingerprint
from chiasm.data.lookup import files_below
from chiasm.data.rows import PICTURE_SUFFIXES, file_stamp
from chiasm.data.source import Source
from chiasm.data.tables import TABLE_SUFFIXES
from chiasm.errors import UserError
from chiasm.index import build_index
from chiasm.index.table import is_local
from chiasm.predict import ClipPredictor
from chiasm.train.config import DataConfig
from chiasm.types import Example

LISTED = 5
CAPTION_SUFFIXES = TABLE_SUFFIXES | {".json", ".parquet", ".tar", ".arrow"}


def index(
    run: Path,
    data: str,
    *,
    out: str,
    batch_size: int = 64,
    image_column: str | None = None,
    text_column: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> int:
    """Embed every picture of a data set once, for `chiasm search`.

    Called again, it embeds what is new or changed and drops what is gone. Stopped, it goes on where it was.

    Args:
        run: the folder of a run or a bundle that embeds pictures and words
        data: a folder (with captions, or of pictures alone), a table, tar shards, a Hub id, or the built-in emoji or
            shapes
        out: the index: a folder such as photos.lance, or an address of object storage (s3://bucket/photos.lance)
        batch_size: pictures embedded at once
        image_column: the column that holds the pictures or their paths, where guessing fails
        text_column: the column that holds the captions, where guessing fails
        precision: of the arithmetic; auto measures which is faster here, unless there is little to do in fp32
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}", "It must be at least 1.")
    source = _open(data, DataConfig(path=data, image_column=image_column, text_column=text_column))
    predictor = hasten(ClipPredictor.load(run), precision, "pictures", len(source.examples))
    built = build_index(predictor, source, out, batch_size=batch_size, bundle=run)
    rows = [
        ("data", source.understood),
        ("embedded", f"{built.embedded:,}"),
        ("updated", f"{built.updated:,} (words or file changed, picture not)"),
        ("unchanged", f"{built.unchanged:,}"),
        ("removed", f"{built.removed:,}"),
        ("broken", f"{len(built.broken):,}"),
        *(("", f"{broken.key}: {broken.reason}") for broken in built.broken[:LISTED]),
    ]
    if len(built.broken) > LISTED and is_local(out):
        rows.append(("", f"... all in {Path(out) / 'quarantine.jsonl'}"))
    print("\n".join(f"{name:<11}{value}" for name, value in rows))
    return 0


def _open(data: str, config: DataConfig) -> Source:
    """The data, with captions if it has any: a folder may hold nothing but pictures."""
    try:
        return config.open()
    except UserError:
        files = list(files_below(Path(data)))
        pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
        if not pictures or any(path.suffix.lower() in CAPTION_SUFFIXES for path in files):
            raise
    examples = [Example(image=path, texts=(), key=path.relative_to(data).as_posix()) for path in pictures]
    return Source(
        name=data,
        examples=examples,
        splits={"all": np.arange(len(examples))},
        understood=f"pictures without captions: {len(examples):,}",
        fingerprint=fingerprint(file_stamp(pictures)),
    )
