"""A CoCa learns: eight pairs by heart, to write and to find, and every command works on what a run leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.bundle import Bundle
from chiasm.cli.caption import caption
from chiasm.cli.classify import classify
from chiasm.cli.evaluate import evaluate
from chiasm.cli.index import index
from chiasm.cli.search import search
from chiasm.cli.train import train
from chiasm.data.cache import prepare_pictures
from chiasm.data.loader import Loader
from chiasm.data.shapes import ShapesConfig, shapes_source
from chiasm.data.transforms import PreprocessConfig
from chiasm.evaluate import drawings
from chiasm.evaluate import evaluate as score
from chiasm.models import CocaConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.vision import VitConfig
from chiasm.nn import weight_decay_groups
from chiasm.objectives import ContrastiveCaptioning
from chiasm.predict import CocaPredictor
from chiasm.text import Tokenizer

pytestmark = pytest.mark.slow

PREPROCESS = PreprocessConfig(size=(32, 32))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))


def test_it_learns_eight_pairs_by_heart_to_write_and_to_find():
    source = shapes_source(ShapesConfig(difficulty="easy", samples=40))
    by_text = {example.texts: row for row, example in reversed(list(enumerate(source.examples)))}
    eight = replace(source, splits={"train": np.array(sorted(by_text.values())[:8])})
    examples = eight.split("train")
    tokenizer = Tokenizer.train(e.texts[0] for e in examples)
    torch.manual_seed(0)
    model = build_model(
        CocaConfig(
            vision=VitConfig(size=(32, 32), width=64, depth=1, heads=4, stem="conv"),
            latents=8,
            decoder=DecoderConfig(width=64, depth=2, unimodal_depth=1, heads=4, vocabulary=tokenizer.vocab_size),
            embed_dim=32,
        )
    )
    pictures = prepare_pictures(examples, PREPROCESS, name="eight")
    loader = Loader(
        examples, pictures, tokenizer, preprocess=PREPROCESS, augment=None, batch_size=8,
        context=model.rules.context, seed=0,
    )  # fmt: skip
    objective = ContrastiveCaptioning()
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.01), lr=2e-3)
    for batch in loader.stream(0, 140):
        told = objective.backward(model, batch, 1, lambda loss: loss.backward())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(model)
    assert told["excess_loss"] < 0.1 and told["token_loss"] < 0.1
    (result,) = score(CocaPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PREPROCESS)), eight, ["train"])
    for name in ("exact_match", "image_to_text_r1", "text_to_image_r1"):
        assert result.scores[name].value == 1.0
    assert result.scores["shuffled_rise"].value > 1.0
    assert result.told[0].caption == result.told[0].found == result.told[0].texts[0]


def test_every_command_of_a_captioner_and_of_a_clip_works_on_its_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(drawings, "LOOKED_AT", 0)  # drawing takes most of the time
    folder, run, data = tmp_path / "pictures", tmp_path / "run", tmp_path / "pictures" / "captions.jsonl"
    folder.mkdir()
    examples = shapes_source(ShapesConfig(difficulty="lesson", samples=60, seed=1)).examples
    with data.open("w") as file:
        for number, example in enumerate(examples):
            Image.fromarray(example.image).save(folder / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "text": example.texts[0]}) + "\n")
    sizes = ("model.vision.depth=1", "model.vision.width=32", "model.decoder.width=32", "train.batch_size=16")
    assert train("coca", str(data), out=run, preset="tiny", set=(*sizes, "train.steps=6", "train.accumulate=2")) == 0
    told = capsys.readouterr().out
    assert "chiasm caption" in told and "chiasm search" in told
    scores = json.loads((run / "evaluation.json").read_text())["test"]["scores"]
    assert {"exact_match", "token_loss", "image_to_text_r1", "text_to_image_r5"} <= scores.keys()
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert "contrastive_loss" in header and "token_loss" in header

    one = str(folder / "0.png")
    assert caption(run, (one,), attention=tmp_path / "where.png", max_tokens=4, mode="beam") == 0
    assert (tmp_path / "where.png").exists() and one in capsys.readouterr().out
    assert classify(run, (one,), labels=("a red circle", "a blue square")) == 0
    assert one in capsys.readouterr().out
    assert index(run, str(data), out=str(tmp_path / "table.lance")) == 0
    capsys.readouterr()
    assert search(str(tmp_path / "table.lance"), ("a red circle",), k=3) == 0
    assert capsys.readouterr().out.count(".png") == 3
    assert evaluate(run, str(data), split=("test",)) == 0
    table = capsys.readouterr().out
    assert "exact_match" in table and f"{scores['image_to_text_r1']['value']:.3f}" in table
    assert (run / "told.jsonl").exists() and list(run.glob("gallery-*.png")) and list(run.glob("retrieval-*.png"))
    model = chiasm.load(run)
    assert isinstance(model, CocaPredictor)
    assert model.caption(one).text and model.embed_images([one]).shape == (1, 128)
    assert len(model.classify([one], ["a red circle", "a blue square"])[0]) == 2
