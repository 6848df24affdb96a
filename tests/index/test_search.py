"""Asking an index: exact and approximate, with words, pictures and vectors, under conditions, and what is no index."""

import numpy as np
import pytest
from PIL import Image

from chiasm.errors import UserError
from chiasm.index import build_index, open_index
from chiasm.types import Example


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "x.lance")


@pytest.fixture
def index(embedder, make_source, folder, uri):
    build_index(embedder, make_source(folder), uri)
    return open_index(uri, embedder)


class Halves:
    """A calibration: half the cosine is the probability; a match needs more than 0.4."""

    def probability(self, cosines):
        return cosines / 2

    def matches(self, best, candidates):
        self.candidates = candidates
        return best / 2 > 0.4  # an array, as cosines are


def naive(embedder, folder, query, k):
    """Names and cosines of the nearest, by comparing all."""
    paths = sorted(folder.iterdir())
    vectors = embedder.embed_pixels(np.stack([np.asarray(Image.open(path)) for path in paths]))
    cosines = vectors @ (query / np.linalg.norm(query))
    order = np.argsort(-cosines)[:k]
    return [paths[i].name for i in order], cosines[order]


def test_a_picture_finds_itself_first(index, folder):
    for image in (folder / "07.png", str(folder / "07.png"), (folder / "07.png").read_bytes()):
        (hit,) = index.search(image=image, k=1)
        assert (hit.id, hit.path, hit.picture) == ("07.png", str(folder / "07.png"), folder / "07.png")
        assert (hit.texts, hit.label, hit.probability) == (("text of 07",), "label 7", None)
        assert hit.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("together", ["words", "picture", "both", "all three"])
def test_hits_are_the_nearest_to_the_sum_of_what_was_given(together, index, folder, embedder):
    words = embedder.embed_texts(["a dog"])[0]
    picture = embedder.embed_pixels(np.asarray(Image.open(folder / "03.png"))[None])[0]
    vector = np.arange(16.0)
    query, asked = {
        "words": (words, {"text": "a dog"}),
        "picture": (picture, {"image": folder / "03.png"}),
        "both": (words + picture, {"text": "a dog", "image": folder / "03.png"}),
        "all three": (
            words + picture + vector / np.linalg.norm(vector),
            {"text": "a dog", "image": folder / "03.png", "vector": vector},
        ),
    }[together]
    names, cosines = naive(embedder, folder, query, 6)
    hits = index.search(**asked, k=6)
    assert [hit.id for hit in hits] == names
    assert np.allclose([hit.score for hit in hits], cosines, atol=1e-5)
    assert len(index.search(**asked, k=100)) == 20


def test_conditions(index):
    assert {hit.label for hit in index.search("x", where="label = 'label 3'")} == {"label 3"}
    assert [hit.id for hit in index.search("x", where="array_has(texts, 'text of 11')")] == ["11.png"]
    assert index.search("x", where="label = 'nothing'") == []
    assert (index.count(), index.count("label = 'label 3'")) == (20, 2)


def test_words_have_probabilities_where_the_model_was_calibrated(index, embedder, folder):
    embedder.calibration = Halves()
    hits = index.search("a dog", k=3, where="id < '05'")
    assert [hit.probability for hit in hits] == pytest.approx([hit.score / 2 for hit in hits])
    assert index.matches(hits, "id < '05'") == (hits[0].score > 0.8)
    assert embedder.calibration.candidates == 5
    both = index.search("a dog", image=folder / "01.png", k=1)
    assert (both[0].probability, index.matches(both)) == (None, None)
    assert index.matches([]) is False


@pytest.mark.parametrize("where", ["nope = 1", "id ==== 3", "label = 5", "", "group by"])
def test_a_condition_that_is_none(where, index):
    with pytest.raises(UserError, match="is wrong: "):
        index.search("x", where=where)
    with pytest.raises(UserError, match="is wrong: "):
        index.count(where)


def test_queries_that_are_none(index, folder, tmp_path):
    for text in ("", "  \n"):
        with pytest.raises(UserError, match="The query is empty"):
            index.search(text)
    with pytest.raises(UserError, match="k is 0"):
        index.search("x", k=0)
    with pytest.raises(ValueError, match="has 3 numbers, those of the index 16"):
        index.search(vector=np.ones(3))
    with pytest.raises(ValueError, match="length 0"):
        index.search(vector=np.zeros(16))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        index.search(image=tmp_path / "broken.png")


def test_vectors_need_no_model_and_words_do(index, uri):
    alone = open_index(uri)
    assert len(alone.search(vector=np.ones(16), k=3)) == 3
    with pytest.raises(UserError, match="is at a place that it does not know"):
        alone.search("a dog")


def test_an_open_index_sees_what_is_added(index, folder, paint, embedder, make_source, uri, monkeypatch):
    monkeypatch.setattr("chiasm.index.table.FRESH_SECONDS", 0)
    opened = open_index(uri, embedder)
    paint(folder / "new.png", 77)
    build_index(embedder, make_source(folder), uri)
    assert opened.search(image=folder / "new.png", k=1)[0].id == "new.png"


def test_what_is_no_index(tmp_path, folder):
    with pytest.raises(UserError, match="There is no index"):
        open_index(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UserError, match="is no index of pictures"):
        open_index(folder)
    with pytest.raises(UserError, match="is a file"):
        open_index(folder / "00.png")


@pytest.mark.parametrize("part", ["pictures.lance/data", "pictures.lance/_versions", "about.lance/data"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_index(part, damage, index, uri, tmp_path):
    files = [path for path in (tmp_path / "x.lance" / part).iterdir() if path.suffix in (".lance", ".manifest")]
    assert files
    for path in files:
        if damage == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.unlink()
    with pytest.raises(UserError, match=r"The index .*x\.lance cannot be used") as error:
        open_index(uri).search(vector=np.ones(16))
    assert "make it anew" in error.value.hint
    assert ".cargo" not in error.value.message


def test_an_index_of_a_later_format(index, uri, monkeypatch):
    monkeypatch.setattr("chiasm.index.table.FORMAT", 2)
    with pytest.raises(UserError, match="format is 1, this version reads 2"):
        open_index(uri)


def test_without_lancedb(index, uri, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(UserError, match="Search needs LanceDB") as error:
        open_index(uri)
    assert "chiasm[search]" in error.value.hint


def test_the_approximate_index_finds_what_comparing_all_finds(embedder, make_source, uri):
    import lancedb

    random = np.random.default_rng(0)
    centres = random.integers(256, size=(40, 8, 8, 3))
    noise = random.integers(-60, 60, size=(3000, 8, 8, 3))
    pixels = (centres[random.integers(40, size=3000)] + noise).clip(0, 255).astype(np.uint8)
    examples = [
        Example(image=pixels[i], texts=(), key=str(i), label="odd" if i % 2 else "even", group=f"{i % 500}")
        for i in range(3000)
    ]
    build_index(embedder, make_source(examples[:2000]), uri, batch_size=500, ann_rows=1000)
    build_index(embedder, make_source(examples), uri, batch_size=500, ann_rows=1000)
    table = lancedb.connect(uri).open_table("pictures")
    (made,) = table.list_indices()
    assert table.index_stats(made.name).num_unindexed_rows == 0
    vectors = embedder.embed_pixels(pixels)
    index = open_index(uri, embedder)
    found = 0
    for row in range(0, 3000, 100):
        query = vectors[row] + 0.05 * random.standard_normal(16)
        cosines = vectors @ (query / np.linalg.norm(query))
        hits = index.search(vector=query, k=10)
        assert np.allclose([hit.score for hit in hits], cosines[[int(hit.id) for hit in hits]], atol=1e-4)
        found += len({int(hit.id) for hit in hits} & set(np.argsort(-cosines)[:10].tolist()))
    assert found >= 0.95 * 300
    assert len(index.search(vector=vectors[0], k=6, where="`group` = '7'")) == 6
    build_index(embedder, make_source(examples[1000:]), uri, ann_rows=1000)
    assert all(int(hit.id) >= 1000 for hit in open_index(uri).search(vector=vectors[0], k=20))


def test_up_to_the_threshold_all_are_compared(index, uri):
    import lancedb

    assert list(lancedb.connect(uri).open_table("pictures").list_indices()) == []
