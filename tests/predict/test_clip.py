"""Asking a dual encoder: vectors in any company, labels by ensembles of prompts, a fingerprint of what made them."""

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.bundle import Bundle
from chiasm.data.picture import BrokenPicture
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.metrics.calibration import Calibration
from chiasm.predict import ClipPredictor
from chiasm.predict import clip as predict
from chiasm.predict.speed import DTYPES
from chiasm.text import Tokenizer

PREPROCESS = PreprocessConfig(size=(16, 16), mean=(0.4, 0.5, 0.6))
TOKENIZER = Tokenizer.train(["one red dog and two blue cats"])
TEXTS = ["one red dog", "cats", "two blue cats and one dog", "dog", "one red dog and two blue cats", "blue dog"]
PICTURES = [np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8) for i in range(5)]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def make_predictor(make_clip):
    def make(preprocess=PREPROCESS, calibration=None, card="", **settings):
        model = make_clip(vocabulary=TOKENIZER.vocab_size, **settings)
        return ClipPredictor(
            Bundle(model=model, tokenizer=TOKENIZER, preprocess=preprocess, calibration=calibration, card=card)
        )

    return make


@pytest.fixture
def predictor(make_predictor):
    return make_predictor()


@pytest.fixture
def calibration():
    random = np.random.default_rng(0)
    false, true = (random.normal(mean, 0.1, 500).astype(np.float32) for mean in (0.0, 0.5))
    return Calibration.fit(true, false)


def test_vectors_of_texts_do_not_depend_on_their_company(predictor, monkeypatch):
    alone = np.concatenate([predictor.embed_texts([text]) for text in TEXTS])
    assert np.abs(alone[0] - alone[1:]).max(1).min() > 1e-3
    predictor.rows = 3  # several batches, of texts of like length
    widths, embed = [], predictor.model.embed_texts
    monkeypatch.setattr(predictor.model, "embed_texts", lambda ids: (widths.append(ids.shape[1]), embed(ids))[1])
    np.testing.assert_allclose(predictor.embed_texts(TEXTS), alone, **CLOSE)
    assert sorted(widths) == [4, 9]


def test_vectors_of_pictures_do_not_depend_on_their_company_or_on_how_they_come(predictor, tmp_path, monkeypatch):
    alone = np.concatenate([predictor.embed_images([picture]) for picture in PICTURES])
    monkeypatch.setattr(predict, "READ_ROWS", 4)
    predictor.rows = 2
    np.testing.assert_allclose(predictor.embed_images(PICTURES), alone, **CLOSE)
    np.testing.assert_allclose(predictor.embed_pixels(predictor.read(PICTURES)), alone, **CLOSE)
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    for same in (file.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(predictor.embed_images([same]), alone[:1])


def test_vectors_have_unit_length_and_nothing_has_none(predictor):
    for vectors in (predictor.embed_images(PICTURES), predictor.embed_texts(TEXTS), predictor.embed_labels(["dog"])):
        assert vectors.dtype == np.float32 and vectors.shape[1] == predictor.embed_width == 20
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert predictor.embed_images([]).shape == predictor.embed_texts([]).shape == (0, 20)


def test_similarity_is_the_cosine_of_every_picture_with_every_text(predictor):
    got = predictor.similarity(PICTURES[:2], TEXTS[:3])
    for i in range(2):
        for j in range(3):
            wanted = predictor.embed_images([PICTURES[i]])[0] @ predictor.embed_texts([TEXTS[j]])[0]
            assert got[i, j] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "told"),
    [([""], "The text is empty"), ([" \n"], "The text is empty"), (["dog", "cats", " "], "Text 3 of 3 is empty")],
)
def test_empty_texts_are_told_by_number(predictor, texts, told):
    with pytest.raises(UserError, match=told):
        predictor.embed_texts(texts)


def test_a_text_beyond_the_context_is_an_error_or_is_cut_before_its_end(predictor):
    long = "dog " * 10 + "cats"  # 13 tokens with BOS and EOT, and the context is 12
    with pytest.raises(UserError, match="13 tokens, more than the model's 12: 'dog dog") as caught:
        predictor.embed_texts(["dog", long])
    assert "truncate" in caught.value.hint
    cut = predictor.embed_texts(["dog", long], truncate=True)
    assert np.allclose(cut[1], predictor.embed_texts([("dog " * 10).strip()])[0], atol=1e-5)
    for ask in (predictor.classify, predictor.similarity):
        with pytest.raises(UserError, match="13 tokens"):
            ask(PICTURES[:1], [long])
        ask(PICTURES[:1], [long], truncate=True)


def test_an_ensemble_normalises_each_averages_and_normalises_again(predictor):
    templates = ("{}", "one {} and two blue cats", "red {}")
    got = predictor.embed_labels(["dog", "cats"], templates)
    for label, vector in zip(["dog", "cats"], got, strict=True):
        prompts = [torch.from_numpy(predictor.embed_texts([t.replace("{}", label)])[0]) for t in templates]
        mean = sum(p / p.norm() for p in prompts) / 3
        torch.testing.assert_close(torch.from_numpy(vector), mean / mean.norm(), **CLOSE)
    np.testing.assert_allclose(predictor.embed_labels(["dog", "cats"]), predictor.embed_texts(["dog", "cats"]), **CLOSE)


def test_guesses_are_ordered_and_their_shares_are_the_softmax_of_scaled_cosines(predictor):
    labels = ["dog", "cats", "two blue cats", "red"]
    with torch.no_grad():
        predictor.model.log_scale.fill_(1.5)
    cosines = predictor.similarity(PICTURES, labels).astype(float)
    shares = np.exp(np.exp(1.5) * cosines) / np.exp(np.exp(1.5) * cosines).sum(1, keepdims=True)
    for row, guesses in enumerate(predictor.classify(PICTURES, labels)):
        assert [g.cosine for g in guesses] == sorted((g.cosine for g in guesses), reverse=True)
        assert {g.label for g in guesses} == set(labels)
        for guess in guesses:
            column = labels.index(guess.label)
            assert guess.cosine == pytest.approx(cosines[row, column], abs=1e-5)
            assert guess.share == pytest.approx(shares[row, column], rel=1e-3)
            assert guess.probability is None


def test_calibrated_guesses_have_probabilities_and_matches_count_the_candidates(make_predictor, calibration):
    predictor = make_predictor(calibration=calibration)
    for guess in predictor.classify(PICTURES[:1], ["dog", "cats"])[0]:
        assert guess.probability == pytest.approx(float(calibration.probability(np.array([guess.cosine]))[0]), rel=1e-4)
    assert predictor.matches(0.27, 1) is True and predictor.matches(0.27, 1000) is False
    assert make_predictor().matches(0.99, 1) is None


@pytest.mark.parametrize(
    ("labels", "templates", "told"),
    [
        (["dog", "cats", "dog"], ["{}"], "3 labels, 2 different ones"),
        (["dog", "horse", "whale"], ["{}"], "'horse' and 'whale' are one to this model"),
        ([], ["{}"], "0 labels"),
        (["dog"], ["a photo"], r"'a photo' needs one \{\}"),
        (["dog"], ["{} and {}"], r"needs one \{\}"),
        (["dog"], [], "no templates"),
        (["dog", ""], ["{}"], "Text 2 of 2 is empty"),
    ],
)
def test_labels_and_templates_that_say_nothing_are_refused(predictor, labels, templates, told):
    with pytest.raises(UserError, match=told):
        predictor.classify(PICTURES, labels, templates)


def test_a_picture_that_cannot_be_read_is_the_user_s_to_mend(predictor):
    with pytest.raises(BrokenPicture):
        predictor.embed_images([PICTURES[0], b"junk"])


def test_the_fingerprint_changes_with_what_changes_vectors_and_not_otherwise(make_predictor, calibration, tmp_path):
    own = make_predictor().fingerprint
    assert len(own) == 16 and int(own, 16) >= 0
    other = make_predictor()
    with torch.no_grad():
        other.model.text.norm.bias[3] += 1e-6
    preprocess = replace(PREPROCESS, mean=(0.4, 0.5, 0.61))
    read_differently = make_predictor(text={"pool": "mean"})  # the same tensors
    for changed in (other, make_predictor(preprocess), read_differently, make_predictor(seed=1)):
        assert changed.fingerprint != own
    same = make_predictor(calibration=calibration, card="# Another")
    same.bundle.save(tmp_path / "bundle")
    assert own == same.fingerprint == chiasm.load(tmp_path).fingerprint == make_predictor().fingerprint


@pytest.mark.parametrize("threads", [1, 2])
def test_cores_share_the_work_without_changing_vectors_order_or_settings(make_predictor, threads):
    before = torch.get_num_threads()
    alone, shared = make_predictor(), make_predictor()
    shared.rows = 2
    try:
        torch.set_num_threads(threads)
        np.testing.assert_allclose(shared.embed_texts(TEXTS), alone.embed_texts(TEXTS), **CLOSE)
        np.testing.assert_allclose(shared.embed_images(PICTURES), alone.embed_images(PICTURES), **CLOSE)
        assert torch.get_num_threads() == threads
        later = []  # a thread that begins now has the cores that it would have had
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [threads]
    finally:
        torch.set_num_threads(before)


def test_bf16_gives_nearly_the_same_vectors_and_leaves_the_weights_alone(predictor):
    faster = predictor.in_precision("bf16")
    for one, other in (
        (predictor.embed_images(PICTURES), faster.embed_images(PICTURES)),
        (predictor.embed_texts(TEXTS), faster.embed_texts(TEXTS)),
    ):
        assert other.dtype == np.float32 and not np.array_equal(one, other)
        assert (one * other).sum(1).min() > 0.99
    assert faster.fingerprint == predictor.fingerprint
    assert {p.dtype for p in predictor.model.parameters()} == {torch.float32}
    assert np.array_equal(faster.in_precision("fp32").embed_texts(TEXTS), predictor.embed_texts(TEXTS))


@pytest.mark.parametrize("what", ["pictures", "texts"])
def test_the_measured_predictor_gives_the_vectors_of_its_precision(predictor, what):
    found, speed = predictor.measured(what)
    assert (found.precision, found.rows) == (speed.precision, speed.rows)
    assert speed.rows_per_second.keys() == DTYPES.keys()
    wanted = predictor.in_precision(speed.precision).embed_images(PICTURES)
    np.testing.assert_allclose(found.embed_images(PICTURES), wanted, atol=1e-2)


def test_a_module_of_the_user_s_own_is_not_asked_to_compute_in_bf16(predictor, monkeypatch):
    monkeypatch.setattr(predict, "Adapted", type(predictor.model.vision))
    assert predictor.measured("texts")[1].rows_per_second.keys() == {"fp32"}


def test_every_core_gets_several_batches_of_like_size_unless_they_would_be_small(predictor, monkeypatch):
    predictor.rows = 128
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sizes = {n: [len(part) for part in predictor._parts(np.arange(n))] for n in (0, 1, 40, 256, 4096)}
    assert sizes[0] == [] and sizes[1] == [1]
    assert sizes[40] == [14, 13, 13] and sizes[256] == [32] * 8 and sizes[4096] == [128] * 32
