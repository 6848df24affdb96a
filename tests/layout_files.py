"""Small files in every layout, for the tests of data, and what a source made of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image

from chiasm.data.source import Source


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def draw(folder: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(shade))


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tar(path: Path, **files: bytes | str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def texts(source: Source) -> dict[str, tuple[str, ...]]:
    return {example.key: example.texts for example in source.examples}


def keys(source: Source) -> dict[str, list[str]]:
    return {name: sorted(example.key for example in source.split(name)) for name in source.splits}


def assert_pictures_exist(source: Source) -> None:
    for example in source.examples:
        data = example.image if isinstance(example.image, bytes) else example.image.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (5, 4)
