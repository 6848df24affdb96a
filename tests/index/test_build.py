"""Building an index: each picture once, what changed again, what is gone no longer, whatever kills it on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasm.errors import UserError
from chiasm.index import build_index, open_index
from chiasm.types import Example


def rows(uri):
    """All rows of an index by id; ids are there once."""
    import lancedb

    found = lancedb.connect(uri).open_table("pictures").search().to_arrow().to_pylist()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "x.lance")


@pytest.fixture
def build(embedder, make_source, folder, uri):
    """A function that brings the index of the folder up to date; it returns what was done, without the broken."""

    def build(examples=None, **settings):
        source = make_source(folder if examples is None else examples)
        built = build_index(embedder, source, uri, **settings)
        return built.embedded, built.updated, built.unchanged, built.removed

    return build


def test_every_picture_has_a_row_with_its_own_vector(build, folder, uri, embedder):
    assert build(batch_size=7) == (20, 0, 0, 0)
    assert embedder.embedded == [7, 7, 6]
    found = rows(uri)
    assert sorted(found) == sorted(path.name for path in folder.iterdir())
    for name, row in found.items():
        pixels = np.asarray(Image.open(folder / name))
        assert np.allclose(row["vector"], embedder.embed_pixels(pixels[None])[0], atol=1e-6)
        assert (row["path"], row["thumbnail"]) == (str(folder / name), b"")
        assert row["texts"] == [f"text of {Path(name).stem}"]


def test_a_second_run_embeds_nothing_and_reads_no_file(build, embedder, monkeypatch):
    build()
    embedder.embedded.clear()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert build() == (0, 0, 20, 0)
    assert embedder.embedded == []


def test_changed_pictures_are_embedded_again(build, folder, uri, paint, embedder):
    build()
    before = rows(uri)
    for i in (3, 5, 11):
        paint(folder / f"{i:02}.png", 100 + i)
    assert build() == (3, 0, 17, 0)
    after = rows(uri)
    changed = {name for name in before if before[name]["vector"] != after[name]["vector"]}
    assert changed == {"03.png", "05.png", "11.png"}
    pixels = np.asarray(Image.open(folder / "05.png"))
    assert np.allclose(after["05.png"]["vector"], embedder.embed_pixels(pixels[None])[0], atol=1e-6)
    assert build() == (0, 0, 20, 0)


def test_a_file_that_was_only_touched_is_not_embedded(build, folder, embedder):
    build()
    embedder.embedded.clear()
    os.utime(folder / "04.png", (1, 1))
    assert build() == (0, 1, 19, 0)
    assert embedder.embedded == []
    assert build() == (0, 0, 20, 0)


def test_changed_words_are_written_without_embedding(build, embedder, make_source, folder, uri):
    build()
    embedder.embedded.clear()
    before = rows(uri)
    examples = list(make_source(folder).examples)
    old = examples[2]
    examples[2] = Example(image=old.image, texts=("other", "words"), key=old.key, tags=("new",), label=old.label)
    assert build(examples) == (0, 1, 19, 0)
    after = rows(uri)
    assert (after["02.png"]["texts"], after["02.png"]["tags"]) == (["other", "words"], ["new"])
    assert after["02.png"]["vector"] == before["02.png"]["vector"]
    assert embedder.embedded == []


def test_what_is_gone_is_dropped_and_what_is_new_added(build, folder, uri, paint):
    build()
    for name in ("00.png", "19.png"):
        (folder / name).unlink()
    paint(folder / "it's new.png", 50)
    assert build() == (1, 0, 18, 2)
    assert sorted(rows(uri)) == sorted(path.name for path in folder.iterdir())
    (folder / "it's new.png").unlink()
    assert build() == (0, 0, 18, 1)


def test_arrays_and_bytes_get_thumbnails_and_are_known_by_content(build, folder, uri):
    pixels = np.random.default_rng(0).integers(256, size=(300, 200, 3), dtype=np.uint8)
    inside = (folder / "00.png").read_bytes()

    def examples(array):
        return [
            Example(image=array, texts=(), key="array"),
            Example(image=inside, texts=("a",), key="bytes", group="g"),
        ]

    assert build(examples(pixels)) == (2, 0, 0, 0)
    found = rows(uri)
    assert found["bytes"]["group"] == "g"
    for hit in open_index(uri).search(vector=np.ones(16), k=2):
        assert hit.path == ""
        import io

        assert Image.open(io.BytesIO(hit.thumbnail)).size == ((107, 160) if hit.id == "array" else (8, 8))
    assert build(examples(pixels.copy())) == (0, 0, 2, 0)
    assert build(examples(255 - pixels)) == (1, 0, 1, 0)


def test_broken_pictures_are_listed_and_left_out(embedder, make_source, folder, uri):
    (folder / "03.png").write_bytes(b"no picture")
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:60])
    source = make_source(folder)
    (folder / "05.png").unlink()
    built = build_index(embedder, source, uri)
    assert (built.embedded, [broken.key for broken in built.broken]) == (17, ["03.png", "04.png", "05.png"])
    lines = (Path(uri) / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["03.png", "04.png", "05.png"]
    assert json.loads(lines[0])["reason"] == "not a picture in a known format"
    assert open_index(uri, embedder).count() == 17


def test_a_picture_that_breaks_later_is_dropped_and_comes_back(build, folder, uri, paint):
    build()
    (folder / "07.png").write_bytes(b"")
    assert build() == (0, 0, 19, 1)
    assert "07.png" not in rows(uri)
    paint(folder / "07.png", 7)
    assert build() == (1, 0, 19, 0)


def test_another_model_is_refused(build, make_embedder, make_source, folder, uri):
    build(bundle=folder)
    before = rows(uri)
    with pytest.raises(UserError, match=r"model one \(.*pictures\), not of the model two"):
        build_index(make_embedder("two"), make_source(folder), uri)
    with pytest.raises(UserError, match="not of the model two"):
        open_index(uri, make_embedder("two"))
    assert rows(uri) == before


def test_the_place_of_the_model_is_brought_up_to_date(build, uri, tmp_path):
    build(bundle=tmp_path / "old")
    build()
    assert open_index(uri).about.bundle == str(tmp_path / "old")
    build(bundle=tmp_path / "new")
    assert open_index(uri).about.bundle == str(tmp_path / "new")


def test_what_cannot_be_indexed(build, folder, uri, embedder, make_source, tmp_path):
    with pytest.raises(UserError, match="has no pictures"):
        build([])
    with pytest.raises(ValueError, match="batch_size is 0"):
        build(batch_size=0)
    with pytest.raises(ValueError, match="have the key 'a'"):
        build([Example(image=folder / "00.png", texts=(), key="a")] * 2)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="None of the 20 pictures"):
        build()
    with pytest.raises(UserError, match="is no index"):
        build_index(embedder, make_source(folder), str(folder))
    with pytest.raises(UserError, match="is a file"):
        build_index(embedder, make_source(folder), str(folder / "00.png"))


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import Projection
from chiasm.data.source import Source
from chiasm.index import build, build_index
from chiasm.types import Example

class Slow(Projection):
    def embed_pixels(self, pixels):
        time.sleep(0.05)
        return super().embed_pixels(pixels)

build.COMMIT_SECONDS = 0.1
paths = sorted(Path(sys.argv[2]).iterdir())
examples = [Example(image=path, texts=(), key=path.name) for path in paths]
source = Source(name="x", examples=examples, splits={}, understood="", fingerprint="")
print(build_index(Slow(), source, sys.argv[3], batch_size=8))
"""


def test_killed_twice_it_becomes_complete_without_duplicates(folder, uri, paint, embedder, make_source):
    for i in range(20, 400):
        paint(folder / f"{i}.png", i)
    command = [sys.executable, "-c", SLOW, str(Path(__file__).parent), str(folder), uri]
    counts = [0]
    for _ in range(2):
        process = subprocess.Popen(command)
        while counted(uri) < counts[-1] + 24:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts.append(len(rows(uri)))
    assert counts[1] < counts[2] < 400
    built = build_index(embedder, make_source(make_all(folder)), uri)
    assert (built.embedded, built.unchanged) == (400 - counts[2], counts[2])
    assert len(rows(uri)) == 400
    assert build_index(embedder, make_source(make_all(folder)), uri).embedded == 0


def make_all(folder):
    return [Example(image=path, texts=(), key=path.name) for path in sorted(folder.iterdir())]


def counted(uri):
    try:
        return open_index(uri).count()
    except UserError:
        return 0


def test_an_address_with_a_scheme_is_handed_to_lancedb_as_it_is(embedder, make_source, folder, tmp_path):
    uri = f"file://{tmp_path}/remote/x.lance"
    with pytest.raises(UserError, match="There is no index"):
        open_index(uri)
    (folder / "03.png").write_bytes(b"no picture")
    built = build_index(embedder, make_source(folder), uri)
    assert (built.embedded, len(built.broken)) == (19, 1)
    assert build_index(embedder, make_source(folder), uri).unchanged == 19
    assert open_index(uri, embedder).search(image=folder / "04.png", k=1)[0].id == "04.png"
