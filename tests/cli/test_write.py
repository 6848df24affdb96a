"""`chiasm train lm` and `chiasm write`: text from text alone."""

import json

import pytest

LINES = [f"{who} {does} the {what}" for who in ("anna", "ben") for does in ("sees", "eats") for what in "abcdefgh"]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "book.txt"
    path.write_text("\n".join([*LINES, " ".join(LINES)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lm(book, tmp_path_factory):
    from chiasm import cli

    run = tmp_path_factory.mktemp("runs") / "lm"
    settings = ["train.steps=60", "train.batch_size=16", "train.learning_rate=0.01", "train.precision=fp32"]
    settings += ["train.ema_decay=0", "model.decoder.depth=1", "model.decoder.rules.context=16"]
    assert cli.main(["train", "lm", str(book), "--preset", "tiny", "--out", str(run), "--set", *settings]) == 0
    return run


def test_the_folder_says_how_good_it_is(lm, book):
    card = (lm / "card.md").read_text()
    assert "# Language model trained on" in card and "perplexity" in card
    scores = json.loads((lm / "evaluation.json").read_text())["test"]["scores"]
    assert 1 < scores["perplexity"]["low"] < scores["perplexity"]["value"] < 6  # of about 14 words
    told = [json.loads(line) for line in (lm / "texts.jsonl").read_text().splitlines()]
    assert {row["split"] for row in told} == {"test"} and {"key", "text", "token_loss"} <= told[0].keys()
    samples = [json.loads(line) for line in (lm / "samples.jsonl").read_text().splitlines()]
    assert all(row["said"].startswith(row["text"].split()[0]) for row in samples)


def test_texts_go_on_from_the_prompt_in_the_words_of_the_book(lm, ask):
    code, out, err = ask("write", lm, "anna sees")
    assert (code, err) == (0, "")
    confidence, text = out.strip().split("\t")
    assert 0 < float(confidence) <= 1 and text.startswith("anna sees the ")
    assert ask("write", lm, "anna sees")[1] == out


def test_several_texts_and_json(lm, ask):
    code, out, _ = ask("write", lm, "--mode", "sample", "--texts", "6", "--seed", "1", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(told) == 6 and len({item["text"] for item in told}) > 1
    for item in told:
        words = [token["token"] for token in item["tokens"]]
        assert " ".join(words[: len(words) - item["complete"]]) == item["text"]


def test_a_finished_model_is_evaluated_on_any_texts(lm, book, ask, tmp_path):
    code, out, _ = ask("evaluate", lm, book, "--split", "train", "--out", tmp_path)
    assert code == 0 and "perplexity" in out and (tmp_path / "texts.jsonl").exists()


def test_captions_will_do_and_their_pictures_are_never_opened(ask, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [f"{i}.png,a picture of {what}" for i, what in enumerate("abcdefghij" * 3)]
    (tmp_path / "data/captions.csv").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    for i in range(30):
        (tmp_path / f"data/{i}.png").write_bytes(b"no picture")
    settings = ["train.steps=2", "train.precision=fp32"]
    code, out, err = ask(
        "train", "lm", tmp_path / "data", "--preset", "tiny", "--out", tmp_path / "run", "--set", *settings
    )
    assert (code, err) == (0, "") and "0 broken" in out


@pytest.mark.parametrize(
    "words, told",
    [
        (["--texts", "2"], "greedy writes one"),
        (["word" + " word" * 29], "The prompt has 30 tokens"),
        (["--temperature", "0"], "temperature is 0"),
    ],
)
def test_mistakes_are_named(lm, ask, words, told):
    code, out, err = ask("write", lm, *words)
    assert (code, out) == (2, "") and told in err


def test_a_captioner_writes_no_text_alone(run, ask):
    code, _, err = ask("write", run, "a small")
    assert code == 2 and "a LanguageModel is needed" in err
