import copy
import json
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chiasm.errors import UserError
from chiasm.text import BOS, EOT, PAD, UNK, Tokenizer

TEXTS = ["a red circle", "a red square", "a blue circle", "flag: Côte d’Ivoire", "red, red and red!"]
WORDS = Tokenizer.train(TEXTS)
PIECES = Tokenizer.train(TEXTS, kind="bpe", vocab_size=300)
BOTH = pytest.mark.parametrize("tokenizer", [WORDS, PIECES], ids=["word", "bpe"])


def test_reserved_ids_are_four_different_ones():
    assert (PAD, BOS, EOT, UNK) == (0, 1, 2, 3)


@BOTH
def test_encode_is_bos_text_eot_pads(tokenizer):
    ids = tokenizer.encode(["a red circle", "red"], context=20)
    assert ids.dtype == torch.long
    assert ids[:, 0].tolist() == [BOS, BOS]
    assert tokenizer.lengths(["a red circle", "red"]) == (ids != PAD).sum(1).tolist()
    assert ids.shape[1] == max(tokenizer.lengths(["a red circle", "red"]))
    for row in ids.tolist():
        end = row.index(EOT)
        assert all(i > UNK for i in row[1:end])
        assert all(i == PAD for i in row[end + 1 :])


def test_first_word_is_the_same_token_as_elsewhere():
    first, later = WORDS.encode(["red circle", "a red"], context=9).tolist()
    assert first[1] == later[2]


@BOTH
@pytest.mark.parametrize("text", TEXTS)
def test_known_texts_decode_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text], context=99)[0]) == text


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_bpe_decodes_any_text_exactly(texts):
    for row, text in zip(PIECES.encode(texts, context=10_000), texts, strict=True):
        assert PIECES.decode(row) == text


@given(st.text(alphabet=st.sampled_from(" \t\n▁_’':!é\u0301aZ0€🙂\u200d"), max_size=30))
def test_words_decode_exactly_what_they_were_trained_on(text):
    tokenizer = Tokenizer.train([text])
    assert tokenizer.decode(tokenizer.encode([text], context=100)[0]) == text


@BOTH
@pytest.mark.parametrize("text", ["<pad>", "a <eot> b", "<unk><bos>", " <pad> "])
def test_special_strings_in_a_text_are_ordinary_characters(tokenizer, text):
    for made in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        inside = made.encode([text], context=99)[0, 1:-1].tolist()
        assert not {PAD, BOS, EOT} & set(inside)
    assert PIECES.decode(PIECES.encode([text], context=99)[0]) == text


def test_special_strings_in_the_training_texts_are_ordinary_too():
    for kind in ("word", "bpe"):
        tokenizer = Tokenizer.train(["a <pad> b <eot>"], kind=kind)
        row = tokenizer.encode(["a <pad> b <eot>"], context=99)[0]
        assert min(row[1:-1]) > UNK
        assert tokenizer.decode(row) == "a <pad> b <eot>"


@pytest.mark.parametrize("text", ["  a  red ", " a", "a ", "\na\tred"])
def test_bpe_keeps_every_space(text):
    assert PIECES.decode(PIECES.encode([text], context=99)[0]) == text


def test_unknown_word_is_unk_and_decodes_to_nothing():
    row = WORDS.encode(["a zebra circle"], context=9)[0]
    assert row[2] == UNK
    assert WORDS.decode(row) == "a circle"
    assert UNK not in PIECES.encode(["a zebra circle"], context=99)


@BOTH
def test_too_long_is_an_error_that_names_text_and_lengths(tokenizer):
    length = tokenizer.lengths(["a red circle"])[0]
    assert tokenizer.encode(["a red circle"], context=length).shape == (1, length)
    with pytest.raises(ValueError, match=rf"{length} tokens.*{length - 1}.*a red circle"):
        tokenizer.encode(["a", "a red circle"], context=length - 1)


@BOTH
def test_truncation_keeps_the_end_token(tokenizer):
    whole = tokenizer.encode(["a red circle"], context=99)[0].tolist()
    for context in range(2, len(whole)):
        short = tokenizer.encode(["a red circle"], context=context, truncate=True)[0].tolist()
        assert short == [*whole[: context - 1], EOT]


def test_context_must_hold_bos_and_eot():
    with pytest.raises(ValueError, match="context is 1"):
        WORDS.encode(["a"], context=1, truncate=True)


@BOTH
def test_empty_text_and_empty_batch(tokenizer):
    assert tokenizer.encode([""], context=9).tolist() == [[BOS, EOT]]
    assert tokenizer.decode([BOS, EOT]) == ""
    assert tokenizer.encode([], context=9).shape == (0, 0)


def test_decode_stops_at_the_first_end_and_takes_lists_and_tensors():
    row = [*WORDS.encode(["a red"], context=9)[0].tolist(), PAD, *WORDS.encode(["circle"], context=9)[0].tolist()]
    assert WORDS.decode(row) == WORDS.decode(torch.tensor(row)) == "a red"
    assert WORDS.decode(row[1:3]) == "a red"


@pytest.mark.parametrize("wrong", [-1, WORDS.vocab_size])
def test_ids_that_do_not_exist_are_errors(wrong):
    with pytest.raises(ValueError, match=f"no token {wrong}"):
        WORDS.decode([wrong])
    with pytest.raises(ValueError, match=f"no token {wrong}"):
        WORDS.token(wrong)


@BOTH
def test_token_is_a_readable_piece(tokenizer):
    ids = tokenizer.encode(["a red circle"], context=99)[0].tolist()
    assert "".join(tokenizer.token(i) for i in ids) == "<bos>aredcircle<eot>"


def test_words_are_the_commonest():
    counts = Counter(" ".join(["a red circle", "a red square", "a blue circle", "red and red"]).split())
    tokenizer = Tokenizer.train(["a red circle", "a red square", "a blue circle", "red and red"], vocab_size=7)
    assert {tokenizer.token(i) for i in range(4, 7)} == {word for word, _ in counts.most_common(3)}
    assert tokenizer.vocab_size == 7


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_training_is_deterministic(kind, tmp_path):
    for name in "ab":
        Tokenizer.train(iter(TEXTS * 3), kind=kind, vocab_size=280).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("kind", "size"), [("word", 4), ("bpe", 259)])
def test_too_small_vocabulary_is_an_error(kind, size):
    with pytest.raises(ValueError, match="needs at least"):
        Tokenizer.train(TEXTS, kind=kind, vocab_size=size)
    assert Tokenizer.train(TEXTS, kind=kind, vocab_size=size + 1).vocab_size == size + 1


@BOTH
def test_loaded_equals_saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    texts = [*TEXTS, "<pad> never seen  "]
    assert loaded.vocab_size == tokenizer.vocab_size
    assert torch.equal(loaded.encode(texts, context=99), tokenizer.encode(texts, context=99))
    assert [loaded.token(i) for i in range(loaded.vocab_size)] == [tokenizer.token(i) for i in range(loaded.vocab_size)]


def test_loading_nothing_or_a_damaged_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(path)
    WORDS.save(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(path)


def test_loading_a_foreign_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    WORDS.save(path)
    text = path.read_text().replace('"<eot>"', '"<end>"')
    json.loads(text)
    path.write_text(text)
    with pytest.raises(UserError, match="not a tokenizer of chiasm"):
        Tokenizer.load(path)
