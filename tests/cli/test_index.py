"""`chiasm index`: what was done is told, again and again; folders without captions; what cannot be indexed."""

import shutil

import pytest

from chiasm.index import open_index
from chiasm.predict import ClipPredictor
from clip_files import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("runs") / "clip")


@pytest.fixture
def photos(shelf, tmp_path):
    """A copy of the shelf's nine pictures, all without captions."""
    return shutil.copytree(shelf, tmp_path / "photos")


def told(out):
    """The lines by their first word; those without one belong to the line above."""
    return {line[:11].strip() or "more": line[11:] for line in out.splitlines()}


def test_a_folder_without_captions_again_and_again(clip, photos, ask, tmp_path):
    out = tmp_path / "photos.lance"
    code, text, err = ask("index", clip, photos, "--out", out)
    assert (code, err) == (0, "")
    lines = told(text)
    assert lines["data"] == "pictures without captions: 9"
    assert [lines[name].split()[0] for name in ("embedded", "unchanged", "removed", "broken")] == ["9", "0", "0", "0"]
    (photos / "1.png").unlink()
    (photos / "2.png").write_bytes(b"no picture")
    lines = told(ask("index", clip, photos, "--out", out)[1])
    assert [lines[name].split()[0] for name in ("embedded", "unchanged", "removed", "broken")] == ["0", "7", "2", "1"]
    assert lines["more"] == "2.png: not a picture in a known format"
    index = open_index(out)
    assert index.count() == 7
    picture = photos / "deeper" / "9.png"
    vector = ClipPredictor.load(clip).embed_images([picture])[0]
    (hit,) = index.search(vector=vector, k=1, where="id = 'deeper/9.png'")
    assert (hit.path, hit.score) == (str(picture), pytest.approx(1, abs=1e-5))


def test_captions_are_kept(clip, photos, ask, tmp_path):
    for i in range(8):
        (photos / f"{i}.txt").write_text(f"picture {i}\nno. {i}\n")
    code, text, _ = ask("index", clip, photos, "--out", tmp_path / "x.lance")
    assert (code, told(text)["embedded"]) == (0, "8")
    (hit,) = open_index(tmp_path / "x.lance").search("a red circle", where="array_has(texts, 'no. 5')")
    assert (hit.id, hit.texts) == ("5.png", ("picture 5", "no. 5"))


def test_many_broken_pictures_are_in_a_file(clip, photos, ask, tmp_path):
    for i in range(7):
        (photos / f"{i}.png").write_bytes(b"")
    lines = told(ask("index", clip, photos, "--out", tmp_path / "x.lance")[1])
    assert lines["broken"] == "7"
    assert lines["more"] == f"... all in {tmp_path / 'x.lance' / 'quarantine.jsonl'}"
    assert (tmp_path / "x.lance" / "quarantine.jsonl").read_text().count("the file is empty") == 7


def test_what_cannot_be_indexed(clip, photos, ask, tmp_path):
    out = tmp_path / "x.lance"
    assert ask("index", clip, photos, "--out", out)[0] == 0
    other = write_clip(tmp_path / "other", seed=1)
    (tmp_path / "empty").mkdir()
    for words, expected in (
        ((other, photos, "--out", out), "holds vectors of the model"),
        ((clip, tmp_path / "empty", "--out", out), "of no known layout"),
        ((clip, tmp_path / "nowhere", "--out", out), "There is no"),
        ((clip, photos, "--out", photos), "is no index of pictures"),
        ((clip, photos, "--out", out, "--batch-size", "0"), "--batch-size is 0"),
    ):
        code, text, err = ask("index", *words)
        assert (code, text) == (2, "")
        assert expected in err
    (photos / "captions.csv").write_text("nothing that is a table")
    assert ask("index", clip, photos, "--out", out)[0] == 2
