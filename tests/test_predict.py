"""The one door: pictures of every kind give the same caption, and a caption says the same in all its parts."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

import chiasm
from chiasm.bundle import Bundle
from chiasm.data.picture import BrokenPicture
from chiasm.data.transforms import PreprocessConfig, normalize, read_pixels
from chiasm.errors import UserError
from chiasm.generate import GenerateConfig, generate
from chiasm.generate.search import Token
from chiasm.models.vision import VitConfig
from chiasm.predict import CaptionPredictor
from chiasm.predict import captioner as predict
from chiasm.text import Tokenizer

SENTENCE = "one red dog and two blue cats"
PREPROCESS = PreprocessConfig(size=(16, 24), mean=(0.4, 0.5, 0.6))


@pytest.fixture
def make_predictor(make_captioner):
    def make(tokenizer=None, pool="none"):
        tokenizer = tokenizer or Tokenizer.train([SENTENCE])
        vision = VitConfig(size=(16, 24), patch_pixels=8, width=16, depth=1, heads=2, pool=pool)
        model = make_captioner(vision, vocabulary=tokenizer.vocab_size)
        model.decoder.norm.weight.data.normal_(generator=torch.Generator().manual_seed(4))  # words do not echo
        return CaptionPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PREPROCESS))

    return make


@pytest.fixture
def predictor(make_predictor):
    return make_predictor()


def array(seed=0, size=(40, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_picture_s_caption_does_not_depend_on_how_it_comes(predictor, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(array()))
    wanted = predictor.caption(array())
    assert wanted.text
    for picture in (png(array()), path, str(path)):
        assert predictor.caption(picture) == wanted
    several = predictor.caption([path, png(array())])
    assert [caption.ids for caption in several] == [wanted.ids] * 2


def test_pictures_are_prepared_as_the_bundle_says(predictor):
    pixels = predictor.read([array(), array(1)])
    assert np.array_equal(pixels, np.stack([read_pixels(array(i), PREPROCESS) for i in (0, 1)]))
    (written,), _ = generate(predictor.model, normalize(pixels, PREPROCESS), GenerateConfig())
    assert predictor.caption([array(), array(1)])[0].ids == written.ids


def test_no_pictures_give_no_captions(predictor):
    assert predictor.caption([]) == []


def test_a_picture_that_cannot_be_read_is_the_user_s_to_mend(predictor):
    for picture in (b"junk", "nowhere.png"):
        with pytest.raises(BrokenPicture):
            predictor.caption(picture)
    assert issubclass(BrokenPicture, UserError)


@pytest.mark.parametrize("settings", [{}, {"mode": "beam", "captions": 3}, {"mode": "sample", "captions": 2}], ids=str)
def test_the_parts_of_a_caption_agree(predictor, settings):
    caption = predictor.caption(array(), max_tokens=6, **settings)
    assert len(caption.others) == settings.get("captions", 1) - 1
    for one in (caption, *caption.others):
        words = [word for word, _ in one.tokens]
        assert one.text == " ".join(word for word in words[: len(one.ids)] if word != "<unk>")
        assert words[len(one.ids) :] == ["(end)"] * one.complete
        mean = sum(log_prob for _, log_prob in one.tokens) / len(one.tokens)
        assert 0 < one.confidence <= 1 and one.confidence == pytest.approx(math.exp(mean))


def test_settings_reach_generation_and_unknown_ones_do_not(predictor):
    assert len(predictor.caption(array(), max_tokens=3, min_tokens=3).ids) == 3
    with pytest.raises(ValueError, match="temperature"):
        predictor.caption(array(), mode="sample", temperature=0.0)
    with pytest.raises(TypeError, match="beam_size"):
        predictor.caption(array(), beam_size=3)


def test_a_stream_s_pieces_join_to_the_caption(predictor):
    pieces = list(predictor.stream(array(), max_tokens=6))
    assert "".join(pieces) == predictor.caption(array(), max_tokens=6).text
    assert len([piece for piece in pieces if piece]) > 2


def test_a_stream_of_bytes_joins_to_the_caption(make_predictor):
    predictor = make_predictor(Tokenizer.train([SENTENCE], kind="bpe", vocab_size=260))
    for seed in range(5):  # random bytes: mostly no characters at all
        settings = {"mode": "sample", "seed": seed, "temperature": 5.0}
        text = predictor.caption(array(), **settings).text
        assert "".join(predictor.stream(array(), **settings)) == text


def test_a_stream_never_shows_half_a_character(make_predictor, monkeypatch):
    predictor = make_predictor(Tokenizer.train([SENTENCE], kind="bpe", vocab_size=260))
    (row,) = predictor.tokenizer.encode(["żółw 🐢 ok"], context=40).tolist()
    tokens = [Token(0, 0, i, 0.0) for i in row[1:]]
    monkeypatch.setattr(predict, "stream", lambda *_: iter(tokens))
    pieces = list(predictor.stream(array()))
    assert "".join(pieces) == "żółw 🐢 ok"
    assert all(len(piece) <= 1 for piece in pieces[1:-1])


def test_one_caption_is_streamed_at_a_time(predictor):
    with pytest.raises(ValueError, match="one caption is streamed at a time, not 2"):
        next(predictor.stream(array(), mode="sample", captions=2))


@pytest.mark.parametrize("pool", ["none", "cls"])
@pytest.mark.parametrize("max_tokens", [2, 10])
def test_there_is_a_map_for_each_token_of_the_caption(make_predictor, pool, max_tokens):
    predictor = make_predictor(pool=pool)
    caption, pixels = predictor.caption(array(), max_tokens=max_tokens), predictor.read([array()])
    maps = predictor.attention(pixels, caption)
    assert maps.shape == (len(caption.tokens), 2, 3)
    ids = torch.tensor([[1, *caption.ids]])
    with torch.no_grad():
        whole = predictor.model.attention_maps(normalize(pixels, PREPROCESS), ids)[0]
    np.testing.assert_allclose(maps, whole[: len(caption.tokens)], rtol=1e-5)


def test_loading_from_the_folder_of_a_run(predictor, tmp_path):
    predictor.bundle.save(tmp_path / "bundle")
    loaded = chiasm.load(tmp_path)
    assert loaded.caption(array(), mode="beam") == predictor.caption(array(), mode="beam")
    with pytest.raises(UserError, match="There is no"):
        chiasm.load(tmp_path / "nowhere")
