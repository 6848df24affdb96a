"""Layouts of a folder of pictures or sounds: a table beside them, a text beside each, or a folder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chiasm.data.annotations import read_annotations
from chiasm.data.arrow import read_parquet, read_saved
from chiasm.data.columns import Wanted, label_text, texts_in
from chiasm.data.lookup import files_below
from chiasm.data.rows import PICTURE_SUFFIXES, SOUND_SUFFIXES, Reading, Row, is_split, split_in_name, split_of_folder
from chiasm.data.tables import TABLE_SUFFIXES, read_table, read_text
from chiasm.data.tars import read_tars

TABLE_NAMES = ("metadata", "captions")


def _saved(folder: Path, wanted: Wanted) -> Reading | None:
    """What the `datasets` library saved."""
    names = ("dataset_dict.json", "state.json")
    return read_saved(folder, wanted) if any((folder / name).is_file() for name in names) else None


def _table_beside(folder: Path, wanted: Wanted) -> Reading | None:
    """Imagefolder's metadata or Flickr8k's captions, in the folder or in its train, val and test."""
    tables = [(path, "") for path in _named_tables(folder)]
    for part in _split_folders(folder) if not tables else ():
        tables += [(path, split_of_folder(part.name)) for path in _named_tables(part)]
    return _joined([read_table(path, wanted, split or split_in_name(path.stem)) for path, split in tables], tables)


def _annotated(folder: Path, wanted: Wanted) -> Reading | None:
    """COCO captions or Karpathy's splits, in the folder or in its "annotations"."""
    files = [
        path
        for place in (folder, folder / "annotations")
        for pattern in ("captions*.json", "dataset*.json", "*karpathy*.json")
        for path in sorted(place.glob(pattern))
        if path.name not in {"dataset_info.json", "dataset_infos.json"}
    ]
    return _joined([read_annotations(path, wanted) for path in files], files)


def _parquet(folder: Path, wanted: Wanted) -> Reading | None:
    """Parquet files, anywhere below."""
    files = [path for path in files_below(folder) if path.suffix.lower() == ".parquet"]
    return read_parquet(files, folder, wanted) if files else None


def _archives(folder: Path, wanted: Wanted) -> Reading | None:
    """WebDataset's tar files, anywhere below."""
    files = [path for path in files_below(folder) if path.suffix.lower() == ".tar"]
    return read_tars(files, wanted) if files else None


def _sidecars(folder: Path, wanted: Wanted) -> Reading | None:
    """a.jpg or a.wav beside a.txt, each line of the text a caption; inner folders are splits or classes."""
    files = _media(folder)
    texts = {path: path.with_suffix(".txt") for path in files}
    texts = {path: text for path, text in texts.items() if text.is_file()}
    if not texts:
        return None
    split_of = _split_finder(folder, list(texts))
    classes = {path: _class_of(path, folder, split_of) for path in texts}
    are_classes = all(classes.values()) and len(set(classes.values())) > 1
    rows = [
        Row(
            **_by_kind(path),
            key=path.relative_to(folder).as_posix(),
            texts=texts_in(read_text(text).split("\n")),
            split=split_of(path),
            label=classes[path] if are_classes else "",
        )
        for path, text in texts.items()
    ]
    alone = Counter({"without a text file of the picture's name": len(files) - len(texts)})
    return Reading(layout="pictures with texts of the same name", rows=rows, skipped=alone)


def _classes(folder: Path, wanted: Wanted) -> Reading | None:
    """A folder for each class, its name the caption; the folders may lie in train, val and test."""
    files = _media(folder)
    split_of = _split_finder(folder, files)
    rows = []
    for path in files:
        label = _class_of(path, folder, split_of)
        if label:
            texts = () if wanted.partial else texts_in([label_text(label)])
            key = path.relative_to(folder).as_posix()
            rows.append(Row(**_by_kind(path), key=key, texts=texts, split=split_of(path), label=label))
    labels = {row.label for row in rows}
    if len(labels) < 2:
        return None
    loose = Counter({"in no class's folder": len(files) - len(rows)})
    return Reading(layout=f"{len(labels)} folders of classes", rows=rows, skipped=loose)


def _tables(folder: Path, wanted: Wanted) -> Reading | None:
    """Tables of other names: one that says the splits itself, or one for each split (train.csv, val.csv)."""
    suffixes = TABLE_SUFFIXES - {".txt", ".token"}
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]
    if len(files) > 1:
        files = [path for path in files if split_in_name(path.stem)]
    return _joined([read_table(path, wanted, split_in_name(path.stem)) for path in files], files)


def _named_tables(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TABLE_SUFFIXES
        and (path.stem.lower() in TABLE_NAMES or path.stem.lower().endswith("token") or path.suffix == ".token")
    ]


def _split_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and is_split(path.name)]


def _media(folder: Path) -> list[Path]:
    """All pictures, and the sounds that lie beside no picture of the same name."""
    files = [path for path in files_below(folder) if path.suffix.lower() in PICTURE_SUFFIXES | SOUND_SUFFIXES]
    pictures = {path.with_suffix("") for path in files if path.suffix.lower() in PICTURE_SUFFIXES}
    return [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES or path.with_suffix("") not in pictures]


def _by_kind(path: Path) -> dict[str, Any]:
    """A row's picture and sound, from either's file: a.png has the sound a.wav, where there is one."""
    if path.suffix.lower() in SOUND_SUFFIXES:
        return {"image": None, "sound": path}
    sounds = (path.with_suffix(suffix) for suffix in sorted(SOUND_SUFFIXES))
    return {"image": path, "sound": next(filter(Path.is_file, sounds), None)}


def _class_of(path: Path, folder: Path, split_of: Callable[[Path], str]) -> str:
    """The first folder below the split's; empty where the file lies in none."""
    inner = path.relative_to(folder).parts[1 if split_of(path) else 0 : -1]
    return inner[0] if inner else ""


def _split_finder(folder: Path, files: Sequence[Path]) -> Callable[[Path], str]:
    """The split of a file by its first folder, if all lie in folders named like splits."""
    first = {path.relative_to(folder).parts[0] for path in files}
    if not all(is_split(name) and (folder / name).is_dir() for name in first):
        return lambda path: ""
    return lambda path: split_of_folder(path.relative_to(folder).parts[0])


def _joined(readings: Sequence[Reading], files: Sequence[object]) -> Reading | None:
    if len(readings) < 2:
        return readings[0] if readings else None
    return Reading(
        layout=" and ".join(reading.layout for reading in readings),
        rows=[row for reading in readings for row in reading.rows],
        skipped=sum((reading.skipped for reading in readings), Counter()),
        has_columns=all(reading.has_columns for reading in readings),
    )


LAYOUTS: dict[str, Callable[[Path, Wanted], Reading | None]] = {
    "a data set saved by `datasets`": _saved,
    "metadata.csv, metadata.jsonl or captions.csv, .tsv, .txt beside the pictures": _table_beside,
    "COCO's captions_*.json or Karpathy's dataset_*.json": _annotated,
    "Parquet files": _parquet,
    "WebDataset tar files": _archives,
    "a.jpg beside a.txt": _sidecars,
    "one table (CSV, TSV, JSON Lines), or train.csv, val.csv and test.csv": _tables,
    "a folder of pictures for each class": _classes,
}
"""What a folder can be, in the order in which it is tried."""

__all__ = ["LAYOUTS"]
