"""`chiasm search`: lines, JSON, a drawing; nothing that matches; an index whose model has moved."""

import json
import shutil

import pytest
from PIL import Image

from chiasm.predict import ClipPredictor
from clip_files import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("runs") / "clip")


@pytest.fixture(scope="module")
def photos(shelf, clip, tmp_path_factory):
    """An index of the shelf's nine pictures."""
    from chiasm import cli

    out = tmp_path_factory.mktemp("indices") / "photos.lance"
    assert cli.main(["index", str(clip), str(shelf), "--out", str(out)]) == 0
    return out


def cosines(clip, shelf, query):
    """Paths and cosines of all pictures, the nearest first."""
    paths = [*(shelf / f"{i}.png" for i in range(8)), shelf / "deeper" / "9.png"]
    values = ClipPredictor.load(clip).embed_images(paths) @ query
    return sorted(zip(values.tolist(), map(str, paths), strict=True), reverse=True)


def test_words_find_the_nearest_pictures(clip, photos, shelf, ask):
    code, out, _ = ask("search", photos, "a", "red", "circle", "--k", "4")
    assert code == 0
    lines = [line.split("\t") for line in out.splitlines()]
    predictor = ClipPredictor.load(clip)
    expected = cosines(clip, shelf, predictor.embed_texts(["a red circle"])[0])[:4]
    assert [float(line[0]) for line in lines] == pytest.approx([value for value, _ in expected], abs=6e-4)
    assert {line[2] for line in lines} <= {path for value, path in expected if value >= expected[-1][0] - 1e-6}
    chances = predictor.calibration.probability(
        predictor.embed_images([lines[0][2]]) @ predictor.embed_texts(["a red circle"])[0]
    )
    assert float(lines[0][1]) == pytest.approx(float(chances[0]), abs=6e-3)


def test_a_picture_finds_itself_and_words_may_join_it(photos, shelf, ask):
    code, out, err = ask("search", photos, "--image", shelf / "3.png", "--k", "1")
    assert (code, err) == (0, "")
    assert out == f"1.000\t\t{shelf / '3.png'}\t\n"
    assert ask("search", photos, "a blue square", "--image", shelf / "3.png")[1].count("\n") == 9


def test_json(photos, shelf, ask):
    code, out, _ = ask("search", photos, "a red circle", "--json", "--where", "id = '2.png'")
    assert code == 0
    (hit,) = map(json.loads, out.splitlines())
    assert (hit["id"], hit["path"], hit["texts"]) == ("2.png", str(shelf / "2.png"), [])
    assert 0 <= hit["probability"] <= 1
    assert hit["matches"] in (True, False)
    assert json.loads(ask("search", photos, "--image", shelf / "2.png", "--k", "1", "--json")[1])["matches"] is None


def test_nothing_that_matches_is_told(photos, ask, monkeypatch):
    from chiasm.metrics.calibration import Calibration

    for matches in (True, False):
        monkeypatch.setattr(Calibration, "matches", lambda *_, known=matches: [known])
        code, out, err = ask("search", photos, "a red circle")
        assert (code, out.count("\n")) == (0, 9)
        assert ("nothing matches" in err) is not matches
    code, out, err = ask("search", photos, "a red circle", "--where", "label = 'cat'")
    assert (code, out) == (0, "")
    assert "label = 'cat'" in err


def test_the_hits_are_drawn(photos, shelf, ask, tmp_path):
    assert ask("search", photos, "a red circle", "--grid", tmp_path / "new" / "hits.png")[0] == 0
    with Image.open(tmp_path / "new" / "hits.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(1 << 20)) > 100


def test_a_model_that_has_moved_is_named(clip, shelf, ask, tmp_path):
    first = shutil.copytree(clip, tmp_path / "first")
    assert ask("index", first, shelf, "--out", tmp_path / "x.lance")[0] == 0
    first.rename(tmp_path / "second")
    code, _, err = ask("search", tmp_path / "x.lance", "a red circle")
    assert (code, f"is no longer at {first}" in err, "--run" in err) == (2, True, True)
    assert ask("search", tmp_path / "x.lance", "a red circle", "--run", tmp_path / "second")[0] == 0
    code, _, err = ask("search", tmp_path / "x.lance", "a red circle", "--run", write_clip(tmp_path / "third", seed=1))
    assert (code, "holds vectors of the model" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "The query is empty"),
        (("", " "), "The query is empty"),
        (("a", "--k", "0"), "k is 0"),
        (("a", "--where", "nope = 1"), "The condition 'nope = 1' is wrong"),
        (("--image", "nowhere.png"), "cannot be read"),
        (("a red circle " * 9,), "more than the model's 8"),
    ],
)
def test_what_cannot_be_searched(words, expected, photos, ask):
    code, out, err = ask("search", photos, *words)
    assert (code, out) == (2, "")
    assert expected in err


def test_what_is_no_index(shelf, ask, tmp_path):
    assert "There is no index" in ask("search", tmp_path / "nowhere", "a")[2]
    assert "is no index of pictures" in ask("search", shelf, "a")[2]
