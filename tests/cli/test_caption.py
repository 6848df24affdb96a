"""`chiasm caption`: files, folders, globs, JSON, attention pictures, and broken pictures among good ones."""

import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.text import Tokenizer


def lines(out):
    return [line.split("\t") for line in out.splitlines()]


def test_a_file_has_a_line_with_confidence_and_caption(run, shelf, drawn, ask):
    code, out, err = ask("caption", run, shelf / "0.png")
    assert (code, err) == (0, "")
    ((path, confidence, text),) = lines(out)
    assert path == str(shelf / "0.png")
    assert 0 < float(confidence) <= 1
    assert text.startswith("a ")
    assert text.endswith(" on a white background")


def test_most_captions_are_right(run, shelf, drawn, ask):
    _, out, _ = ask("caption", run, *(shelf / f"{i}.png" for i in range(8)))
    assert sum(text == truth for (_, _, text), truth in zip(lines(out), drawn.captions, strict=False)) >= 6


def test_folders_and_globs_find_the_pictures(run, shelf, ask, monkeypatch):
    alone = [ask("caption", run, shelf / f"{i}.png")[1] for i in range(8)]
    _, folder, _ = ask("caption", run, shelf)
    assert folder.splitlines()[:8] == [line.rstrip("\n") for line in alone]
    assert [line[0] for line in lines(folder)][8:] == [str(shelf / "deeper/9.png")]
    monkeypatch.chdir(shelf)
    _, globbed, _ = ask("caption", run, "[0-3].png")
    assert [line[1:] for line in lines(globbed)] == [line[1:] for line in lines(folder)[:4]]
    assert len(lines(ask("caption", run, "**/*.png")[1])) == 9


def test_json_tells_every_token(run, shelf, ask):
    code, out, _ = ask("caption", run, shelf, "--json")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    plain = lines(ask("caption", run, shelf)[1])
    assert [(t["path"], t["caption"]) for t in told] == [(path, text) for path, _, text in plain]
    for item in told:
        words, log_probs = zip(*((t["token"], t["log_prob"]) for t in item["tokens"]), strict=True)
        assert item["complete"]
        assert " ".join(words[:-1]) == item["caption"]
        assert words[-1] == "(end)"
        assert item["confidence"] == pytest.approx(math.exp(sum(log_probs) / len(log_probs)), abs=1e-4)


def test_several_captions_of_a_picture(run, shelf, ask):
    code, out, _ = ask("caption", run, shelf / "0.png", "--mode", "beam", "--captions", "3", "--beams", "4")
    assert code == 0
    paths, confidences, texts = zip(*lines(out), strict=True)
    assert set(paths) == {str(shelf / "0.png")}
    assert len(set(texts)) == 3
    assert float(confidences[0]) == max(map(float, confidences))
    _, out, _ = ask("caption", run, shelf / "0.png", "--mode", "beam", "--captions", "3", "--json")
    assert [other["caption"] for other in json.loads(out)["others"]] == list(texts[1:])


def test_sampling_is_repeated_by_its_seed(run, shelf, ask):
    hot = ("caption", run, shelf, "--mode", "sample", "--temperature", "3")
    first, again, other = (ask(*hot, "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_length_options(run, shelf, ask):
    _, out, _ = ask("caption", run, shelf / "0.png", "--max-tokens", "3", "--json")
    told = json.loads(out)
    assert (len(told["tokens"]), told["complete"]) == (3, False)


def test_attention_is_drawn_once_per_word(run, shelf, ask, tmp_path):
    target = tmp_path / "new" / "where.png"
    assert ask("caption", run, shelf / "0.png", "--attention", target)[0] == 0
    with Image.open(target) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert ask("caption", run, shelf / "0.png", shelf / "1.png", "--attention", tmp_path / "many")[0] == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["0.png", "1.png"]


def test_pictures_of_one_name_in_two_folders_are_both_drawn(run, shelf, ask, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(shelf / "0.png", tmp_path / folder / "0.png")
    assert ask("caption", run, tmp_path / "a", tmp_path / "b", "--attention", tmp_path / "many")[0] == 0
    assert len(list((tmp_path / "many").iterdir())) == 2


def test_a_broken_picture_among_good_ones(run, shelf, ask, tmp_path):
    shutil.copy(shelf / "0.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    shutil.copy(shelf / "1.png", tmp_path / "c.png")
    code, out, err = ask("caption", run, tmp_path)
    assert code == 2
    assert [line[0] for line in lines(out)] == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    assert "1 of 3 pictures cannot be read" in err
    assert f"{tmp_path / 'b.png'}: " in err
    assert "not a picture in a known format" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nowhere.png", "There is no nowhere.png"),
        ("*.nothing", "There is no *.nothing"),
        (". ", "holds no pictures"),
        ("a.png --captions 2", "greedy writes one caption"),
        ("a.png --temperature 0", "temperature is 0"),
        ("a.png --top-p 1.5", "top_p is 1.5"),
        ("a.png --mode beam --beams 2 --captions 3", "3 captions need"),
    ],
)
def test_what_cannot_be_done_is_told(words, told, run, shelf, ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ask("caption", run, *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err


def test_compiling_needs_a_compiler(run, shelf, ask, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = ask("caption", run, shelf / "0.png", "--compile")
    assert (code, out) == (2, "") and "Compiling needs a C++ compiler" in err


def test_a_folder_without_a_model(shelf, ask, tmp_path):
    code, _, err = ask("caption", tmp_path / "nowhere", shelf)
    assert (code, "There is no" in err) == (2, True)
    code, _, err = ask("caption", tmp_path, shelf)
    assert (code, "holds no trained model" in err) == (2, True)


@pytest.mark.parametrize("fusion", ["early", "late", "perceiver"])
def test_a_captioner_of_any_fusion_captions_and_looks_if_it_can(make_captioner, shelf, ask, tmp_path, fusion):
    tokenizer = Tokenizer.train(["one red dog and two blue cats"])
    model = make_captioner(vocabulary=tokenizer.vocab_size, fusion=fusion)
    Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 16))).save(tmp_path / "bundle")
    code, out, _ = ask("caption", tmp_path, shelf / "0.png", "--mode", "beam")
    assert code == 0 and len(lines(out)) == 1
    code, out, err = ask("caption", tmp_path, shelf / "0.png", "--attention", tmp_path / "where.png")
    assert (tmp_path / "where.png").exists() == (fusion != "late")
    if fusion == "late":
        assert (code, out) == (2, "") and "fusion late" in err and "--attention" in err


def test_a_run_with_late_fusion_has_a_gallery_and_no_drawings_of_where_it_looked(ask, tmp_path):
    lesson = ("shapes", "--difficulty", "lesson", "--samples", "30", "--preset", "tiny", "--fusion", "late")
    settings = ("train.steps=1", "train.precision=fp32", "model.vision.depth=1", "model.decoder.depth=1")
    code, _, err = ask("train", "captioner", *lesson, "--out", tmp_path / "run", "--set", *settings)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["fusion"] == "late"
    assert (tmp_path / "run/gallery-test.png").exists() and not list((tmp_path / "run").glob("attention-*"))
