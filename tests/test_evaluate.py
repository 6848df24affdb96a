"""Scores of a captioner against loops over single tokens, and what is told of them."""

import json
import math

import numpy as np
import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.data.cache import Broken, Pictures
from chiasm.data.source import Source
from chiasm.data.transforms import PreprocessConfig, normalize, read_pixels
from chiasm.errors import UserError
from chiasm.evaluate import Estimate, SplitScores, Told, evaluate_captioner, scores_table, write_results
from chiasm.evaluate import captioner as evaluate
from chiasm.generate import GenerateConfig
from chiasm.metrics import caption_scores
from chiasm.predict import CaptionPredictor
from chiasm.text import Tokenizer
from chiasm.types import Example

PREPROCESS = PreprocessConfig(size=(16, 16))
TEXTS = ["one red dog", "two blue cats", "a cat", "one red dog and two blue cats", "a blue dog", "red cats", "two"]
TOKENIZER = Tokenizer.train(TEXTS)
GREEDY = GenerateConfig(max_tokens=5)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "ROWS", 3)  # several batches


@pytest.fixture
def predictor(make_captioner):
    model = make_captioner(vocabulary=TOKENIZER.vocab_size)
    return CaptionPredictor(Bundle(model=model, tokenizer=TOKENIZER, preprocess=PREPROCESS))


def example(i, image=None):
    pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    texts = (TEXTS[i % len(TEXTS)], "another text")
    return Example(image=pixels if image is None else image, texts=texts, key=f"p{i}", label=f"l{i}")


def source_of(examples):
    splits = {"test": np.arange(len(examples)), "test-empty": np.arange(0)}
    return Source(name="some", examples=examples, splits=splits, understood="", fingerprint="")


def scores_of(predictor, examples, **settings):
    (result,) = evaluate_captioner(predictor, source_of(examples), ["test"], GREEDY, **settings)
    return result


@torch.no_grad()
def naive_loss(predictor, image, text):
    """Summed over tokens, each by itself from those before it."""
    pixels = normalize(read_pixels(image, PREPROCESS)[None], PREPROCESS)
    ids = TOKENIZER.encode([text], context=12)
    total = 0.0
    for place in range(1, ids.shape[1]):
        hidden = predictor.model(pixels, ids[:, :place])
        total -= float(predictor.model.head(hidden)[0, -1].log_softmax(-1)[ids[0, place]])
    return total


@pytest.fixture
def shown(monkeypatch):
    """The rows of pictures in the order in which they are asked for."""
    rows, pixels_of = [], Pictures.pixels_of
    monkeypatch.setattr(Pictures, "pixels_of", lambda self, r: rows.extend(r.tolist()) or pixels_of(self, r))
    return rows


def test_losses_equal_the_naive_twin(predictor, shown):
    examples = [example(i) for i in range(7)]
    result = scores_of(predictor, examples)
    tokens = sum(length - 1 for length in TOKENIZER.lengths([e.texts[0] for e in examples]))
    own = sum(naive_loss(predictor, e.image, e.texts[0]) for e in examples)
    other = sum(naive_loss(predictor, examples[r].image, e.texts[0]) for r, e in zip(shown[-7:], examples, strict=True))
    assert result.scores["token_loss"].value == pytest.approx(own / tokens, rel=1e-5)
    assert result.scores["perplexity"].value == pytest.approx(math.exp(own / tokens), rel=1e-5)
    assert result.scores["shuffled_rise"].value == pytest.approx((other - own) / tokens, rel=1e-3)
    assert abs(result.scores["shuffled_rise"].value) > 1e-3


@pytest.mark.parametrize("pictures", [2, 3, 7, 20])
def test_no_text_keeps_its_picture_when_pictures_are_shuffled(predictor, shown, pictures):
    scores_of(predictor, [example(i) for i in range(pictures)])
    own, others = shown[-2 * pictures : -pictures], shown[-pictures:]
    assert own == list(range(pictures)) == sorted(others)
    assert all(mine != theirs for mine, theirs in zip(own, others, strict=True))


def test_a_decoder_that_ignores_the_picture_does_not_mind_another(predictor):
    for block in predictor.model.decoder.blocks:
        torch.nn.init.zeros_(block.attend_cross.out.weight)
    rise = scores_of(predictor, [example(i) for i in range(5)]).scores["shuffled_rise"]
    assert rise == pytest.approx((0, 0, 0), abs=1e-6)


def test_captions_are_the_predictor_s_and_are_scored_against_all_texts(predictor):
    examples = [example(i) for i in range(7)]
    captions = predictor.caption([e.image for e in examples], max_tokens=5)
    examples[2] = Example(image=examples[2].image, texts=("x", captions[2].text), key="p2")
    result = scores_of(predictor, examples)
    assert [told.caption for told in result.told] == [caption.text for caption in captions]
    assert [told.key for told in result.told] == [e.key for e in examples]
    assert result.scores["exact_match"].value == pytest.approx(1 / 7)
    wanted = caption_scores([c.text for c in captions], [e.texts for e in examples])
    for name, score in wanted.items():
        assert result.scores[name] == (score.value, score.low, score.high)


def test_every_score_lies_in_its_interval(predictor):
    for name, (value, low, high) in scores_of(predictor, [example(i) for i in range(7)]).scores.items():
        assert low <= value <= high, name
        assert low < high or value == low, name


def test_broken_pictures_are_left_out_and_listed(predictor):
    good = [example(i) for i in range(6)]
    broken = [*good[:2], example(9, image=b"junk"), *good[2:]]
    result = scores_of(predictor, broken, max_broken_share=0.5)
    assert [(b.row, b.key) for b in result.broken] == [(2, "p9")]
    assert result.pictures == 6
    assert result.scores == scores_of(predictor, good).scores
    with pytest.raises(UserError, match="1 of the 7 pictures"):
        scores_of(predictor, broken)


def test_splits_without_pictures_are_left_out(predictor):
    source = source_of([example(i) for i in range(3)])
    assert [r.split for r in evaluate_captioner(predictor, source, ["test-empty", "test"], GREEDY)] == ["test"]
    with pytest.raises(UserError, match="no split 'val'"):
        evaluate_captioner(predictor, source, ["val"], GREEDY)


def test_texts_longer_than_the_context_are_cut_not_refused(predictor):
    long = Example(image=example(0).image, texts=("a dog " * 30,), key="long")
    assert math.isfinite(scores_of(predictor, [long, example(1)]).scores["token_loss"].value)


def made_up():
    names = ["exact_match", "bleu_4", "rouge_l", "cider_d", "perplexity", "shuffled_rise", "token_loss"]
    scores = {name: Estimate(i + 0.25, i + 0.1, i + 0.5) for i, name in enumerate(names)}
    told = [Told("p1", "żółw", 0.5, ("a", "b"), "l"), Told("p2", "dog", 0.25, ("c",), "")]
    return [
        SplitScores("test", 1234, scores, evaluate.COLUMNS, told, ()),
        SplitScores("test-style", 2, scores, evaluate.COLUMNS, told[:1], (Broken(row=0, key="k", reason="r"),)),
    ]


def test_the_table_has_a_row_per_split_with_values_and_intervals():
    header, rule, first, second = scores_table(made_up()).split("\n")
    assert len({line.count("|") for line in (header, rule, first, second)}) == 1
    assert [cell.strip() for cell in header.split("|")[1:4]] == ["split", "pictures", "exact_match"]
    assert [cell.strip() for cell in first.split("|")[1:4]] == ["test", "1,234", "0.250 (0.100 to 0.500)"]
    assert second.startswith("| test-style | 2 |")


def test_results_are_written_for_programs_and_for_people(tmp_path):
    write_results(made_up(), tmp_path / "new" / "folder", "captions.jsonl")
    folder = tmp_path / "new" / "folder"
    data = json.loads((folder / "evaluation.json").read_text())
    assert data["test"]["scores"]["bleu_4"] == {"value": 1.25, "low": 1.1, "high": 1.5}
    assert (data["test"]["pictures"], data["test-style"]["broken"]) == (1234, 1)
    assert (folder / "evaluation.md").read_text() == scores_table(made_up()) + "\n"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["split"], row["key"], row["caption"], row["texts"]) for row in rows] == [
        ("test", "p1", "żółw", ["a", "b"]),
        ("test", "p2", "dog", ["c"]),
        ("test-style", "p1", "żółw", ["a", "b"]),
    ]


def test_items_are_the_scores_of_single_pictures(predictor):
    examples = [example(i) for i in range(7)]
    examples[3] = Example(image=example(30).image, texts=("x",), key="p3", group="g")
    result = scores_of(predictor, examples)
    items = result.items
    assert items.keys == tuple(e.key for e in examples)
    assert items.groups == ("p0", "p1", "p2", "g", "p4", "p5", "p6")
    wanted = caption_scores([told.caption for told in result.told], [e.texts for e in examples])
    for name in ("exact_match", "cider_d"):
        assert items.values[name].tolist() == wanted[name].per_item.tolist()
    sums = [naive_loss(predictor, e.image, e.texts[0]) for e in examples]
    tokens = [length - 1 for length in TOKENIZER.lengths([e.texts[0] for e in examples])]
    assert items.values["token_loss"] == pytest.approx(np.array(sums) / tokens, rel=1e-4)


def test_with_exchanged_pictures_every_caption_is_scored_against_another_picture(predictor):
    examples = [example(i) for i in range(6)]
    captions = [caption.text for caption in predictor.caption([e.image for e in examples], max_tokens=5)]
    own = [Example(image=e.image, texts=(c,), key=e.key) for e, c in zip(examples, captions, strict=True)]
    items = scores_of(predictor, own).items
    assert items.values["exact_match"].mean() == 1
    alike = [captions.count(c) - 1 for c in captions]
    assert items.values["exact_match_shuffled"].mean() <= np.mean([count > 0 for count in alike])
