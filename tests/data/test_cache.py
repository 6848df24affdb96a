"""Cached pixels are those of the pictures, whatever changes, breaks, or runs beside; broken pictures are listed."""

import dataclasses
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.data import cache, reading
from chiasm.data.cache import Broken, default_folder, prepare_pictures, write_quarantine
from chiasm.data.picture import BrokenPicture
from chiasm.data.transforms import PreprocessConfig, read_pixels
from chiasm.errors import UserError
from chiasm.types import Example

CONFIG = PreprocessConfig(size=(8, 12))


def noise(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def example(image, key):
    return Example(image=image, texts=("a text",), key=str(key))


@pytest.fixture
def examples(tmp_path):
    """Pictures as arrays, bytes and files."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(noise(2))))
    images = [noise(0), encoded(Image.fromarray(noise(1))), path]
    return [example(image, i) for i, image in enumerate(images)]


@pytest.fixture
def prepare(tmp_path):
    def prepare(examples, config=CONFIG, **options):
        return prepare_pictures(examples, config, **{"name": "some", "folder": tmp_path / "cache"} | options)

    return prepare


@pytest.fixture
def reads(monkeypatch):
    """Counts how many pictures are read."""
    count = []

    def counted(*args, **kwargs):
        count.append(1)
        return read_pixels(*args, **kwargs)

    for module in (cache, reading):
        monkeypatch.setattr(module, "read_pixels", counted)
    return count


def assert_right(pictures, examples, config=CONFIG):
    expected = np.stack([read_pixels(e.image, config) for e in examples])
    np.testing.assert_array_equal(pictures.pixels_of(np.arange(len(examples))), expected)


def files(folder):
    return sorted(path.name for path in (folder / "cache").iterdir())


@pytest.mark.parametrize("limit_bytes", [10**6, 0])
def test_pixels_are_those_of_every_picture_and_are_read_once(examples, prepare, reads, limit_bytes, capfd):
    first = prepare(examples, limit_bytes=limit_bytes)
    assert len(reads) == 3 and (first.pixels is None) == (limit_bytes == 0)
    second = prepare(examples, limit_bytes=limit_bytes)
    assert len(reads) == 3
    for pictures in (first, second, pickle.loads(pickle.dumps(first))):
        assert_right(pictures, examples)
        assert pictures.good.tolist() == [0, 1, 2] and pictures.broken == ()
        got = pictures.pixels_of(np.array([2, 0, 2]))
        assert got.flags.writeable and np.array_equal(got[0], got[2]) and not np.array_equal(got[0], got[1])
        assert pictures.pixels_of(np.array([], dtype=np.int64)).shape == (0, 8, 12, 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("limit_bytes", [10**6, 0])
def test_a_picture_of_several_examples_is_read_and_stored_once(examples, prepare, reads, limit_bytes):
    copies = [dataclasses.replace(e, key=f"{e.key}#{n}") for n in range(3) for e in (*examples, example(b"", "bad"))]
    copies.insert(5, dataclasses.replace(copies[0], image=None, key="none"))
    pictures = prepare(copies, limit_bytes=limit_bytes, max_broken_share=0.5)
    assert len(reads) == 4
    assert [(b.row, b.key, b.reason) for b in pictures.broken] == [
        (row, f"bad#{n}", "the file is empty") for n, row in enumerate((3, 8, 12))
    ]
    shown = [copies[row].image for row in pictures.good]
    expected = [np.zeros((8, 12, 3)) if image is None else read_pixels(image, CONFIG) for image in shown]
    np.testing.assert_array_equal(pictures.pixels_of(pictures.good), expected)
    reads.clear()
    other_words = [dataclasses.replace(e, texts=("other",), key=f"other {i}") for i, e in enumerate(copies)]
    assert len(prepare(other_words, limit_bytes=limit_bytes, max_broken_share=0.5).good) == 10 and not reads
    assert len(prepare([copies[0], copies[4]], limit_bytes=8 * 12 * 3).pixels) == 1


def test_more_pictures_than_a_block_keep_their_order(prepare, reads, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 4)
    examples = [example(noise(i), i) for i in range(11)]
    for _ in range(2):
        assert_right(prepare(examples), examples)
    assert len(reads) == 11


def test_a_mapped_set_is_pickled_without_its_pixels(prepare):
    pictures = prepare([example(noise(i, 8, 12), i) for i in range(50)])
    assert pictures.pixels is not None
    assert "pixels" not in pickle.loads(pickle.dumps(pictures)).__dict__


@pytest.mark.parametrize("change", ["file", "touched", "bytes", "array", "order", "size", "resize"])
def test_whatever_changes_is_read_again(examples, prepare, reads, change):
    prepare(examples)
    config = CONFIG
    if change == "file":
        examples[2].image.write_bytes(encoded(Image.fromarray(noise(5))))
    elif change == "touched":  # of the same size perhaps, but written later
        os.utime(examples[2].image, ns=(1, 1))
    elif change == "bytes":
        examples[1] = example(encoded(Image.fromarray(noise(6))), 1)
    elif change == "array":
        examples[0].image[0, 0] ^= 255
    elif change == "order":
        examples = examples[::-1]
    else:
        config = PreprocessConfig(**{"size": CONFIG.size, change: (9, 9) if change == "size" else "squash"})
    reads.clear()
    pictures = prepare(examples, config)
    assert len(reads) == 3
    assert_right(pictures, examples, config)


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown", "gone", "json cut", "json gone", "json other"])
def test_a_damaged_cache_is_built_anew(examples, prepare, tmp_path, damage):
    prepare(examples)
    (note,) = (tmp_path / "cache").glob("*.json")
    pixels = note.with_suffix(".pixels")
    data = bytearray(pixels.read_bytes())
    if damage == "flipped":
        data[100] ^= 1
        pixels.write_bytes(data)
    elif damage in ("cut", "grown"):
        pixels.write_bytes(data[:-1] if damage == "cut" else data + b"\0")
    elif damage == "json cut":
        note.write_bytes(note.read_bytes()[:-5])
    elif damage == "json other":
        note.write_text('{"kind": "PreprocessConfig"}')
    else:
        (pixels if damage == "gone" else note).unlink()
    assert_right(prepare(examples), examples)
    assert_right(prepare(examples), examples)
    assert len(files(tmp_path)) == 2


def test_an_interrupted_reading_leaves_nothing_that_is_trusted(examples, prepare, monkeypatch, tmp_path):
    def interrupted(image, config):
        if isinstance(image, Path):
            raise KeyboardInterrupt
        return read_pixels(image, config)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_pixels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(examples)
    assert files(tmp_path) == []
    assert_right(prepare(examples), examples)


def test_two_processes_may_prepare_the_same_pictures_at_once(tmp_path):
    script = """
import sys; from pathlib import Path
import numpy as np
from chiasm.data.cache import prepare_pictures
from chiasm.data.transforms import PreprocessConfig
from chiasm.types import Example
arrays = np.random.default_rng(0).integers(0, 256, (600, 40, 40, 3), dtype=np.uint8)
examples = [Example(image=a, texts=("x",), key=str(i)) for i, a in enumerate(arrays)]
for _ in range(3):
    pictures = prepare_pictures(examples, PreprocessConfig(size=(40, 40)), name="both", folder=Path(sys.argv[1]))
    assert (pictures.pixels_of(np.arange(600)) == arrays).all()
    if sys.argv[2] == "delete":
        for path in Path(sys.argv[1]).glob("*.json"):
            path.unlink(missing_ok=True)
"""
    folder = tmp_path / "cache"
    running = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", script, folder, what], stderr=subprocess.PIPE)
        for what in ("keep", "delete")
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert not [path for path in folder.iterdir() if path.suffix == ".part"]
    assert len(list(folder.glob("*.pixels"))) == 1


def test_what_was_used_longest_ago_goes_first(prepare, monkeypatch, tmp_path):
    sets = [[example(noise(10 * s + i, 8, 12), i) for i in range(10)] for s in range(4)]
    pixel_bytes = 10 * 8 * 12 * 3
    monkeypatch.setattr(cache, "FOLDER_BYTES", 3 * pixel_bytes)

    def age(name, days):
        for path in (tmp_path / "cache").glob(f"{name}-*"):
            os.utime(path, (time.time() - 86400 * days,) * 2)

    prepare(sets[0], name="s0")
    prepare(sets[1], name="s1")
    age("s0", 3)
    age("s1", 2)
    prepare(sets[0], name="s0")  # used again: now s1 is the oldest
    (tmp_path / "cache" / "fresh.part").touch()
    (tmp_path / "cache" / "dead.part").touch()
    age("s0", 1)
    os.utime(tmp_path / "cache" / "dead.part", (0, 0))
    prepare(sets[2], name="s2")
    left = files(tmp_path)
    assert {name[:2] for name in left if name.endswith(".pixels")} == {"s0", "s2"}
    assert "fresh.part" in left and "dead.part" not in left
    monkeypatch.setattr(cache, "FOLDER_BYTES", 1)
    assert_right(prepare(sets[3], name="s3"), sets[3])
    assert all(name.startswith(("s3", "fresh")) for name in files(tmp_path))


def test_too_many_broken_pictures_stop_with_what_to_do(examples, prepare):
    some = [*examples, *(example(noise(i), f"good {i}") for i in range(12)), example(b"", "bad one")]
    with pytest.raises(UserError) as raised:
        prepare(some)
    assert "1 of the 16 pictures of some" in str(raised.value) and "bad one: the file is empty" in str(raised.value)
    allowed = str(raised.value).split("--max-broken-share ")[1].rstrip(".")
    pictures = prepare(some, max_broken_share=float(allowed))
    assert pictures.good.tolist() == list(range(15))
    assert pictures.broken == (Broken(row=15, key="bad one", reason="the file is empty"),)
    assert len(prepare([*some, *(example(noise(i), f"more {i}") for i in range(4))]).broken) == 1  # exactly 5 %


def test_no_picture_at_all_stops_whatever_is_allowed(prepare):
    with pytest.raises(UserError, match="2 of the 2"):
        prepare([example(b"", 0), example(b"x", 1)], max_broken_share=1.0)
    for none in ([], [example(None, "a text alone")]):
        with pytest.raises(UserError, match="some has no pictures"):
            prepare(none)


def test_a_folder_that_cannot_be_written_says_so(examples, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="CHIASM_CACHE"):
        prepare_pictures(examples, CONFIG, name="some", folder=tmp_path / "file" / "cache")


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path, examples):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "mine"))
    prepare_pictures(examples, CONFIG, name="../odd name/of data")
    assert {path.suffix for path in (tmp_path / "mine" / "pictures").iterdir()} == {".json", ".pixels"}
    monkeypatch.delenv("CHIASM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "chiasm" / "pictures"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "chiasm" / "pictures"


def test_a_picture_that_breaks_later_raises_when_read_anew(prepare, examples):
    pictures = prepare(examples, limit_bytes=0)
    examples[2].image.unlink()
    with pytest.raises(BrokenPicture):
        pictures.pixels_of(np.array([0, 2]))


def test_file_names_that_are_no_unicode_are_listed_all_the_same(prepare, tmp_path):
    odd = os.fsdecode(b"caf\xe9.jpg")
    pictures = prepare([example(noise(0), "ü"), example(tmp_path / odd, odd)], max_broken_share=0.5)
    write_quarantine(pictures.broken, tmp_path / "quarantine.jsonl")
    (line,) = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"key": "caf\\udce9.jpg", "reason": "No such file or directory"}


def bomb():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def nine_ways():
    """Name -> bytes of a file, and either the colours of its left and right half or why it cannot be read."""
    two = Image.new("RGB", (48, 32), "red")
    two.paste("blue", (24, 0, 48, 32))
    red, blue, white = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.full((32, 48), 65535, dtype=np.uint16)
    deep[:, :24] = 32768
    frames = [two, Image.new("RGB", (48, 32), "green")]
    noisy = encoded(Image.fromarray(noise(0, 64, 64)), "JPEG")
    return {
        "truncated": (noisy[: len(noisy) // 2], "truncated"),
        "empty": (b"", "empty"),
        "text": (b"this is not a picture\n" * 20, "known format"),
        "bomb": (bomb(), "million pixels"),
        "cmyk": (encoded(two.convert("CMYK"), "JPEG", quality=95), (red, blue)),
        "sixteen": (encoded(Image.fromarray(deep)), ((128,) * 3, white)),
        "animated": (encoded(two, "GIF", save_all=True, append_images=frames[1:]), (red, blue)),
        "turned": (encoded(two.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95), (red, blue)),
        "tiny": (encoded(Image.new("RGB", (1, 1), "red")), (red, red)),
    }


def test_of_pictures_broken_in_nine_ways_exactly_the_unreadable_are_left_out(tmp_path, prepare):
    rng = np.random.default_rng(0)
    ways = [(name, *way) for name, way in nine_ways().items() for _ in range(7)]
    ways = [ways[i] for i in rng.permutation(len(ways))]
    sound = [(f"sound {i}", encoded(Image.fromarray(noise(i)), "JPEG"), None) for i in range(40)]
    examples, unreadable = [], {}
    for i, (name, data, expected) in enumerate([*ways, *sound]):
        path = tmp_path / f"{i}.jpg"
        path.write_bytes(data)
        examples.append(example(path, f"{name} {i}"))
        if isinstance(expected, str):
            unreadable[f"{name} {i}"] = expected
    pictures = prepare(examples, PreprocessConfig(size=(24, 36), resize="squash"), max_broken_share=0.3)
    write_quarantine(pictures.broken, tmp_path / "quarantine.jsonl")
    lines = (tmp_path / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {line["key"]: line["reason"] for line in map(json.loads, lines)}
    assert len(lines) == 28 and reasons.keys() == unreadable.keys()
    assert all(unreadable[key] in reason for key, reason in reasons.items())
    assert {examples[row].key for row in pictures.good}.isdisjoint(unreadable) and len(pictures.good) == 75
    for row, (name, _, expected) in enumerate(ways):
        if not isinstance(expected, str):
            left, right = pictures.pixels_of(np.array([row]))[0][:, [6, -6]].mean(axis=0)
            assert np.abs(left - expected[0]).max() < 12 and np.abs(right - expected[1]).max() < 12, name
