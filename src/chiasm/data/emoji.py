"""The built-in emoji: 7,309 pictures of 1,905 emoji by four vendors, with names, keywords and three kinds of test."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from chiasm.data.source import Source, splits_by_name
from chiasm.types import Example

PARQUET = Path(__file__).parent / "assets" / "emoji" / "emoji.parquet"
COLUMNS = ["image", "id", "vendor", "name", "keywords", "group", "split", "vendor_split", "picture_id"]
SPLITS = {
    ("seen", "train"): "train",
    ("seen", "val"): "val",
    ("heldout", "train"): "test-style",
    ("seen", "test"): "test-concept",
    ("heldout", "test"): "test-both",
}
UNUSED = "unused"
"""The held-out vendor's pictures of the concepts that settings were chosen on."""


def emoji_source() -> Source:
    """The emoji set: tests on an unseen drawing style (OpenMoji), on unseen concepts, and on both at once.

    A picture's texts are its name, then the other names for which its vendor drew exactly the same picture; these
    pictures are one group, since no model can tell them apart. Its tags are keywords, its label Unicode's group.
    The same concept by another vendor is another group: it is another picture, and the style tests part them.
    """
    import pyarrow.parquet as pq

    data = PARQUET.read_bytes()
    rows = pq.read_table(PARQUET, columns=COLUMNS).to_pylist()
    splits = splits_by_name([SPLITS.get((row["vendor_split"], row["split"]), UNUSED) for row in rows], SPLITS.values())
    unused = splits.pop(UNUSED)
    return Source(
        name="emoji",
        examples=_examples(rows),
        splits=splits,
        understood=f"built-in emoji: {len(rows):,} pictures of 4 vendors with names and keywords; openmoji is the "
        f"unseen style, and its {len(unused)} pictures of validation concepts are left out",
        fingerprint=hashlib.sha256(data).hexdigest()[:16],
    )


def _examples(rows: list[dict[str, Any]]) -> list[Example]:
    names: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        names[_group(row)].append(row["name"])
    return [
        Example(
            image=row["image"]["bytes"],
            texts=tuple(dict.fromkeys([row["name"], *names[_group(row)]])),
            key=f"{row['vendor']}/{row['id']}",
            group=_group(row),
            label=row["group"],
            tags=tuple(row["keywords"]),
        )
        for row in rows
    ]


def _group(row: dict[str, Any]) -> str:
    return f"{row['vendor']}/{row['picture_id']}"


__all__ = ["emoji_source"]
