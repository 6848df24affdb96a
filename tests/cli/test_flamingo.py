"""From text to a language model, from that to a Flamingo, and asking it with shots, all by commands."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from chiasm import cli
from chiasm.train.callbacks import read_metrics

SHAPES = ["shapes", "--difficulty", "lesson", "--samples", "60"]
FEW = ["train.steps=3", "train.batch_size=4", "train.precision=fp32"]
SMALL = ["model.decoder.width=32", "model.decoder.depth=2", "model.decoder.rules.context=64"]
SIZES = ["model.vision.width=32", "model.vision.depth=1", "model.latents=2", "model.resampler_depth=1"]


def made(*words):
    assert cli.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "lm"
    made("train", "lm", *SHAPES, "--out", out, "--preset", "tiny", "--set", *FEW, *SMALL)
    return out


@pytest.fixture(scope="module")
def flamingo(lm, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "flamingo"
    command = ["train", "flamingo", *SHAPES, "--preset", "tiny", "--lm", lm, "--augment", "none", "--out", out]
    made(*command, "--set", *FEW, *SIZES, "data.pictures_per_sequence=2", "train.learning_rate=0.01")
    return out


@pytest.fixture
def shots(shelf, drawn, tmp_path):
    for i in range(3):
        shutil.copy(shelf / f"{i}.png", tmp_path)
    rows = [{"image": f"{i}.png", "text": drawn.captions[i]} for i in range(3)]
    (tmp_path / "shots.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path / "shots.jsonl"


def test_the_frozen_decoder_stays_what_it_was_and_the_gates_move(lm, flamingo):
    before, after = (load_file(run / "bundle" / "model.safetensors") for run in (lm, flamingo))
    decoder = {name: tensor for name, tensor in after.items() if name.startswith("decoder.")}
    assert decoder.keys() == before.keys()
    assert all(torch.equal(decoder[name], before[name]) for name in before)
    assert (lm / "bundle/tokenizer.json").read_text() == (flamingo / "bundle/tokenizer.json").read_text()
    rows = read_metrics(flamingo / "metrics.csv")
    assert all(rows[-1][f"gate_{n}_{kind}"] != 0 for n in range(2) for kind in ("cross", "mlp"))
    assert after["gated.0.gate_cross"] != 0


def test_a_run_leaves_what_people_want_to_see(flamingo):
    assert {"gates.png", "curves.png", "shots.jsonl", "card.md"} <= {path.name for path in flamingo.iterdir()}
    scores = json.loads((flamingo / "evaluation.json").read_text())["test"]["scores"]
    assert {"exact_match", "shuffled_rise"} <= scores.keys()
    assert any(name.startswith("exact_match_") and name.endswith("_shots") for name in scores)
    samples = [json.loads(line) for line in (flamingo / "samples.jsonl").read_text().splitlines()]
    assert samples[-1].keys() == {"step", "key", "text", "said"}


def test_captions_with_shots_and_without(flamingo, shelf, shots, ask):
    for extra in ((), ("--shots", shots), ("--shots", shots, "--mode", "beam", "--captions", "2")):
        code, out, err = ask("caption", flamingo, shelf / "4.png", shelf / "5.png", *extra)
        assert (code, err) == (0, "")
        assert len(out.splitlines()) == (4 if "--captions" in extra else 2)
    told = json.loads(ask("caption", flamingo, shelf / "4.png", "--shots", shots, "--json")[1])
    assert told.keys() == {"path", "caption", "confidence", "complete", "tokens", "others"}


def test_questions(flamingo, shelf, tmp_path, ask):
    shutil.copy(shelf / "0.png", tmp_path)
    (tmp_path / "qa.jsonl").write_text('{"image": "0.png", "question": "a small", "answer": "red circle"}')
    asking = ("caption", flamingo, shelf / "4.png", "--question", "a small")
    for extra in ((), ("--shots", tmp_path / "qa.jsonl")):
        code, out, err = ask(*asking, *extra)
        assert (code, err, len(out.splitlines())) == (0, "", 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "shots.jsonl, row 4: not JSON"),
        ("[]", "shots.jsonl, row 4 is no shot"),
        ('{"image": "0.png"}', "shots.jsonl, row 4 is no shot"),
        ('{"image": "0.png", "question": "what?"}', "shots.jsonl, row 4 is no shot"),
        ('{"image": "9.png", "text": "a"}', "shots.jsonl, row 4: there is no picture"),
    ],
)
def test_a_broken_shot_is_named(row, message, flamingo, shelf, shots, ask):
    with shots.open("a") as file:
        file.write(row + "\n")
    code, out, err = ask("caption", flamingo, shelf / "4.png", "--shots", shots)
    assert (code, out) == (2, "")
    assert message in err


def test_more_shots_than_the_context_holds(flamingo, shelf, shots, ask):
    shots.write_text(shots.read_text() * 3)
    code, _, err = ask("caption", flamingo, shelf / "4.png", "--shots", shots)
    assert code == 2
    assert "The shots and the question take" in err and "the model's context holds 64" in err


def test_what_has_no_shots_says_so(lm, flamingo, shelf, shots, ask, tmp_path):
    code, _, err = ask("caption", lm, shelf / "4.png", "--shots", shots)
    assert code == 2 and "The model is a LanguageModel, and a Flamingo is needed here" in err
    code, _, err = ask("caption", flamingo, shelf / "4.png", "--attention", tmp_path / "a.png")
    assert code == 2 and "latents (a flamingo)" in err
    code, _, err = ask("caption", flamingo, shelf / "4.png", "--shots", tmp_path / "none.jsonl")
    assert code == 2 and "There is no" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("flamingo", "--lm", "FLAMINGO"), "holds a Flamingo"),
        (("flamingo", "--vision", "clip:LM"), "holds a LanguageModel"),
        (("flamingo", "--text", "hf:x"), "A flamingo has no --text encoder"),
        (("captioner", "--lm", "LM"), "Only a flamingo has --lm"),
        (("flamingo", "--set", "data.pictures_per_sequence=50"), "50 pictures with texts may take"),
    ],
)
def test_parts_that_do_not_fit(words, message, lm, flamingo, ask, tmp_path):
    known = {"FLAMINGO": str(flamingo), "LM": str(lm), "clip:LM": f"clip:{lm}"}
    kind, *rest = [known.get(word, word) for word in words]
    code, _, err = ask("train", kind, *SHAPES, "--preset", "tiny", "--out", tmp_path / "run", *rest)
    assert code == 2
    assert message in err


def test_sequences_of_a_file_with_a_clips_eyes(shelf, drawn, ask, tmp_path):
    clip, out = tmp_path / "clip", tmp_path / "out"
    made("train", "clip", *SHAPES, "--preset", "tiny", "--out", clip, "--set", *FEW, "model.vision.width=32")
    rows = []
    for n in range(9):
        shown = [{"image": str(shelf / f"{i % 8}.png"), "text": drawn.captions[i % 8]} for i in (n, n + 1)]
        rows.append([{"text": "a small"}, *shown] if n % 2 else shown)
    path = tmp_path / "stories.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ("train", "flamingo", path, "--preset", "tiny", "--vision", f"clip:{clip}", "--out", out)
    code, _, err = ask(*command, "--set", *FEW, *SMALL, *SIZES[2:])
    assert code == 0, err
    assert (out / "quarantine.jsonl").read_text() == ""
    eyes, whole = (load_file(run / "bundle" / "model.safetensors") for run in (clip, out))
    seeing = {name: tensor for name, tensor in eyes.items() if name.startswith("vision.")}
    assert seeing and all(torch.equal(whole[name], tensor) for name, tensor in seeing.items())
    scores = json.loads((out / "evaluation.json").read_text())["test"]["scores"]
    assert scores.keys() == {"exact_match", "exact_match_0_shots", "choice", "choice_0_shots", "chance"}
    code, table, _ = ask("evaluate", out, path)
    assert code == 0 and "choice_0_shots" in table
