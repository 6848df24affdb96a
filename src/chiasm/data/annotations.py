"""Annotation files in JSON: COCO captions, Karpathy's splits, plain lists of records."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from chiasm.data.columns import Wanted, texts_in
from chiasm.data.lookup import PictureLookup
from chiasm.data.rows import Reading, Row, canonical_split, split_in_name
from chiasm.data.tables import read_json, read_records
from chiasm.errors import UserError


def read_annotations(path: Path, wanted: Wanted, split: str = "") -> Reading:
    """The rows of a JSON file: COCO captions, Karpathy's splits or a list of records, told by its contents.

    Pictures are looked for in the wanted folder, else beside the file (beside "annotations" where it lies in such a
    folder) and below.
    """
    data = read_json(path)
    parent = path.absolute().parent
    lookup = PictureLookup(wanted.picture_folder or (parent.parent if parent.name == "annotations" else parent))
    if isinstance(data, list):
        return read_records([_record(item, path, i) for i, item in enumerate(data, 1)], wanted, path, lookup, split)
    try:
        if isinstance(data, dict) and "annotations" in data:
            return _coco(data, lookup, path, split or split_in_name(path.stem))
        if isinstance(data, dict) and "sentences" in data["images"][0]:
            return _karpathy(data, lookup, path)
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path}: an entry lacks what its layout promises ({error!r})", "Restore the file.") from error
    raise UserError(
        f"{path} is neither COCO captions, nor Karpathy's splits, nor a list of records",
        'COCO has "images" and "annotations", Karpathy "images" with "sentences", a list has objects with a picture.',
    )


def _coco(data: dict[str, Any], lookup: PictureLookup, path: Path, split: str) -> Reading:
    if data["annotations"] and "caption" not in data["annotations"][0]:
        raise UserError(f"{path}: its annotations have no captions", "Take the file captions_....json instead.")
    captions: dict[Any, list[str]] = {}
    for annotation in data["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows = [
        Row(
            image=lookup.find(image["file_name"], split),
            key=str(PurePosixPath(image["file_name"])),
            texts=texts_in([captions.get(image["id"])]),
            split=split,
        )
        for image in data["images"]
    ]
    return Reading(layout=f"COCO captions {path.name}", rows=rows)


def _karpathy(data: dict[str, Any], lookup: PictureLookup, path: Path) -> Reading:
    rows = []
    for image in data["images"]:
        name = str(PurePosixPath(image.get("filepath", ""), image["filename"]))
        split = canonical_split(image["split"])
        texts = texts_in([image["sentences"]])
        rows.append(Row(image=lookup.find(name, split), key=name, texts=texts, split=split))
    return Reading(layout=f"Karpathy's splits {path.name}", rows=rows)


def _record(item: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f"{path}, record {number} is not an object", 'It must be like {"image": ..., "caption": ...}.')
    return item


__all__ = ["read_annotations"]
