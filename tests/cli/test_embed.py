"""`chiasm embed`: Parquet and npy, pictures and texts, a broken picture among good ones, no file in vain."""

import shutil

import numpy as np
import pytest

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
