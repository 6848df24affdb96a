"""`chiasm embed`: Parquet and npy, pictures and texts, a broken picture among good ones, no file in vain."""

import os
import shutil

import numpy as np
import pytest

from chiasm.cli.vectors import Parts
from chiasm.predict import ClipPredictor
from clip_files import WORDS, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "bundle")


def read(file):
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    return table["key"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32)


def test_pictures_in_parquet_and_npy(clip, shelf, ask, tmp_path):
    code, out, err = ask("embed", clip, shelf, "--out", tmp_path / "v.parquet")
    assert (code, err) == (0, "")
    assert out == f"9 vectors of width 24 in {tmp_path / 'v.parquet'}\n"
    keys, vectors = read(tmp_path / "v.parquet")
    assert keys == [*(str(shelf / f"{i}.png") for i in range(8)), str(shelf / "deeper/9.png")]
    np.testing.assert_allclose(vectors, ClipPredictor.load(clip).embed_images(keys), atol=1e-5)
    assert ask("embed", clip, shelf, "--out", tmp_path / "v.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.npy", "v.parquet"]


def test_texts_of_the_line_and_of_a_file(clip, ask, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(WORDS[1:]) + "\n")
    code, _, _ = ask(
        "embed", clip, "--texts", WORDS[0], "--texts-file", tmp_path / "texts.txt", "--out", tmp_path / "t.parquet"
    )
    assert code == 0
    keys, vectors = read(tmp_path / "t.parquet")
    assert tuple(keys) == WORDS
    np.testing.assert_allclose(vectors, ClipPredictor.load(clip).embed_texts(WORDS), atol=1e-5)


def test_long_texts_are_an_error_or_are_cut(clip, ask, tmp_path):
    words = ("embed", clip, "--texts", "red", "a red circle and a blue square on white", "--out", tmp_path / "t.npy")
    code, out, err = ask(*words)
    assert (code, out) == (2, "") and "11 tokens, more than the model's 8" in err and "truncate" in err
    assert not list(tmp_path.iterdir())
    assert ask(*words, "--truncate")[0] == 0 and len(np.load(tmp_path / "t.npy")) == 2


def test_an_empty_line_is_told_by_number(clip, ask, tmp_path):
    (tmp_path / "texts.txt").write_text("red\n\nblue\n")
    code, _, err = ask("embed", clip, "--texts-file", tmp_path / "texts.txt", "--out", tmp_path / "t.npy")
    assert code == 2 and "Text 2 of 3 is empty" in err


def test_of_pictures_of_which_one_is_broken_the_others_are_kept(clip, shelf, ask, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for source, name in (("0.png", "a.png"), ("1.png", "c.png")):
        shutil.copy(shelf / source, pictures / name)
    (pictures / "b.png").write_bytes(b"no picture")
    code, out, err = ask("embed", clip, pictures, "--out", tmp_path / "v.parquet")
    assert code == 2 and out.startswith("2 vectors")
    assert "1 of 3 pictures cannot be read" in err and f"{pictures / 'b.png'}: " in err
    keys, vectors = read(tmp_path / "v.parquet")
    assert keys == [str(pictures / "a.png"), str(pictures / "c.png")] and vectors.shape == (2, 24)
    code, out, _ = ask("embed", clip, pictures / "b.png", "--out", tmp_path / "none.npy")
    assert (code, out) == (2, "") and not (tmp_path / "none.npy").exists()


@pytest.fixture
def interrupted(clip, shelf, ask, tmp_path, monkeypatch):
    """Ctrl-C after four of nine pictures, in batches of two."""
    monkeypatch.setattr("chiasm.cli.embed.READ_ROWS", 2)
    embed, batches = ClipPredictor.embed_pixels, []

    def embed_two(self, pixels):
        batches.append(len(pixels))
        if len(batches) == 3 and not (tmp_path / "v.parquet.parts").exists():
            raise KeyboardInterrupt
        return embed(self, pixels)

    monkeypatch.setattr(ClipPredictor, "embed_pixels", embed_two)
    code, out, err = ask("embed", clip, shelf, "--out", tmp_path / "v.parquet")
    assert (code, out) == (130, "") and not (tmp_path / "v.parquet").exists()
    assert f"4 vectors are kept in {tmp_path / 'v.parquet.parts'}; the same command goes on\n" in err
    return batches


def test_where_it_was_interrupted_it_goes_on(interrupted, clip, shelf, ask, tmp_path):
    interrupted.clear()
    code, out, _ = ask("embed", clip, shelf, "--out", tmp_path / "v.parquet")
    assert code == 0 and "4 vectors are left of a run that was interrupted" in out and "9 vectors" in out
    assert sum(interrupted) == 5
    keys, vectors = read(tmp_path / "v.parquet")
    assert keys == [*(str(shelf / f"{i}.png") for i in range(8)), str(shelf / "deeper/9.png")]
    np.testing.assert_allclose(vectors, ClipPredictor.load(clip).embed_images(keys), atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.parquet"]


def test_what_is_left_of_another_model_a_changed_picture_or_a_torn_file_is_not_taken(
    interrupted, clip, shelf, ask, tmp_path
):
    (part,) = (tmp_path / "v.parquet.parts").iterdir()
    parts = Parts(tmp_path / "v.parquet", part.name.rsplit("-", 1)[0])
    assert len(parts.known) == 4 and not Parts(tmp_path / "v.parquet", "another").known
    first = shelf / "0.png"
    changed = first.stat().st_mtime_ns
    os.utime(first, ns=(changed + 1, changed + 1))
    assert parts.known - Parts(tmp_path / "v.parquet", parts.fingerprint).known == {str(first)}
    part.write_bytes(part.read_bytes()[:-50])
    interrupted.clear()
    code, out, _ = ask("embed", clip, shelf, "--out", tmp_path / "v.parquet")
    assert code == 0 and "interrupted" not in out and sum(interrupted) == 9


def test_vectors_that_cannot_be_written_are_kept(clip, shelf, ask, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        code, _, err = ask("embed", clip, shelf, "--out", tmp_path / "v.npy")
    assert code == 2 and "No space left on device" in err and "9 vectors are kept" in err
    assert "9 vectors are left" in ask("embed", clip, shelf, "--out", tmp_path / "v.npy")[1]
    assert np.load(tmp_path / "v.npy").shape == (9, 24)


def test_a_disk_without_room_for_parts_is_told_and_what_was_written_is_kept(clip, shelf, ask, tmp_path, monkeypatch):
    monkeypatch.setattr("chiasm.cli.embed.READ_ROWS", 2)
    monkeypatch.setattr("chiasm.cli.vectors.PART_ROWS", 4)
    save, saved = np.savez, []

    def full(file, **arrays):
        saved.append(arrays)
        if len(saved) > 1:
            raise OSError(28, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    code, out, err = ask("embed", clip, shelf, "--out", tmp_path / "v.npy")
    assert (code, out) == (2, "") and err.count("v.npy.parts cannot be written: No space left on device") == 2
    assert "4 vectors are kept" in err
    monkeypatch.setattr(np, "savez", save)
    empty = tmp_path / "v.npy.parts" / f"{ClipPredictor.load(clip).fingerprint}-000002.npz"
    empty.write_bytes(b"")
    code, out, _ = ask("embed", clip, shelf, "--out", tmp_path / "v.npy")
    assert code == 0 and "4 vectors are left" in out and len(np.load(tmp_path / "v.npy")) == 9


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_parts_are_written_as_they_fill(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("chiasm.cli.vectors.PART_ROWS", 4)
    vectors = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float32)
    parts = Parts(tmp_path / "v.npy", "f")
    for start in range(0, 14, rows):
        some = [tmp_path / str(i) for i in range(start, min(14, start + rows))]
        for path in some:
            path.write_bytes(b"")
        parts.add(some, vectors[start : start + rows])
    left = Parts(tmp_path / "v.npy", "f")  # as after a kill
    assert len(left.keys) == {3: 12, 4: 12, 5: 14}[rows]
    keys, found = left.in_order([str(tmp_path / str(i)) for i in range(14)][::-1], 3)
    assert keys == [str(tmp_path / str(i)) for i in range(14)][: len(left.keys)][::-1]
    assert np.array_equal(found, vectors[: len(left.keys)][::-1])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a.png", "--out", "v.csv"), "neither Parquet nor npy"),
        (("--out", "v.npy"), "Name either pictures or texts"),
        (("a.png", "--texts", "red", "--out", "v.npy"), "Name either pictures or texts"),
        (("nowhere.png", "--out", "v.npy"), "There is no nowhere.png"),
        (("--texts-file", "nowhere.txt", "--out", "v.npy"), "nowhere.txt cannot be read"),
        (("--texts", "red", "--out", "nowhere/v.npy"), "nowhere/v.npy cannot be written"),
        (("--texts", "red", "--out", "nowhere/v.parquet"), "nowhere/v.parquet cannot be written"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_no_file(words, told, clip, ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ask("embed", clip, *words)
    assert (code, out) == (2, "") and err.startswith("error: ") and told in err
    assert not list(tmp_path.iterdir())
