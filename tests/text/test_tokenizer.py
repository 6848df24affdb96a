import copy
import json
import pickle
from collections import Counter

import pytest
import tokenizers
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


def published(folder, *, before="[CLS] ", after=" [SEP]", pad="[PAD]", as_objects=False, length=None):
    """A lower-casing word tokenizer as Hugging Face's files have it: what surrounds a text is in its post-processor."""
    vocabulary = {t: i for i, t in enumerate(["a", "red", "circle", "[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"])
    marks = [(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")]
    inner.post_processor = tokenizers.processors.TemplateProcessing(single=f"{before}$A{after}", special_tokens=marks)
    if length:  # files often keep the last call's padding and truncation
        inner.enable_padding(length=length, pad_id=0, pad_token="a")
        inner.enable_truncation(length)
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    token = {"content": pad, "lstrip": False} if as_objects else pad
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": token, "model_max_length": 9}))
    return folder


@pytest.mark.parametrize("as_objects", [False, True])
@pytest.mark.parametrize("length", [None, 4])
def test_an_adopted_tokenizer_brings_its_own_reserved_ids(tmp_path, as_objects, length):
    tokenizer = Tokenizer.adopt(published(tmp_path, as_objects=as_objects, length=length))
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eot, tokenizer.unk) == (6, 5, 4, 3)
    ids = tokenizer.encode(["A  red circle a a", "blue"], context=9)
    assert ids.tolist() == [[5, 0, 1, 2, 0, 0, 4], [5, 3, 4, 6, 6, 6, 6]]
    assert tokenizer.encode(["a red circle"], context=4, truncate=True).tolist() == [[5, 0, 1, 4]]
    assert tokenizer.lengths(["a red circle"]) == [5]
    assert tokenizer.decode(ids[1]) == "" and tokenizer.decode(ids[0]) == "a red circle a a"
    assert [tokenizer.token(i) for i in (1, 4, 5)] == ["red", "[SEP]", "[CLS]"]


def test_an_adopted_tokenizer_without_bos_that_pads_with_eot(tmp_path):
    tokenizer = Tokenizer.adopt(published(tmp_path, before="", pad="[SEP]"))
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eot) == (4, None, 4)
    assert tokenizer.encode(["a red", ""], context=9).tolist() == [[0, 1, 4], [4, 4, 4]]
    assert tokenizer.rows(["a red", ""], context=9) == [[0, 1, 4], [4]] and tokenizer.lengths(["a red"]) == [3]
    assert tokenizer.encode(["a [SEP]"], context=9)[0].tolist().count(4) == 1  # in a user's text it is a text
    with pytest.raises(ValueError, match="context is 0"):
        tokenizer.encode([""], context=0)


def test_an_adopted_tokenizer_survives_saving_and_pickling(tmp_path):
    for name, options in {
        "bert": {},
        "t5": {"before": "", "pad": "[SEP]"},
        "no pad": {"pad": "never heard of"},
    }.items():
        tokenizer = Tokenizer.adopt(published(tmp_path / name, **options))
        tokenizer.save(tmp_path / "saved.json")
        for again in (Tokenizer.load(tmp_path / "saved.json"), pickle.loads(pickle.dumps(tokenizer))):
            for field in ("pad", "bos", "eot", "unk", "vocab_size"):
                assert getattr(again, field) == getattr(tokenizer, field)
            assert torch.equal(
                again.encode(["a [PAD] zebra", ""], context=9), tokenizer.encode(["a [PAD] zebra", ""], context=9)
            )


def test_words_that_end_themselves_decode_with_spaces_between(tmp_path):
    pieces = ["a</w>", "r", "e", "d</w>", "<start>", "<end>"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({t: i for i, t in enumerate(pieces)}, [], end_of_word_suffix="</w>", unk_token="<end>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\w+"), behavior="removed", invert=True)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.post_processor = tokenizers.processors.RobertaProcessing(("<end>", 5), ("<start>", 4))
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.adopt(tmp_path)
    row = tokenizer.encode(["a red"], context=9)[0]
    assert row.tolist() == [4, 0, 1, 2, 3, 5]
    assert tokenizer.decode(row) == "a red"
    assert tokenizer.decode([4, 5]) == tokenizer.decode([]) == ""
    assert tokenizer.unk is None  # it has EOT's id, as in CLIP, where bytes know every text


@pytest.mark.parametrize(("before", "after"), [("", ""), ("[CLS] ", ""), ("[CLS] ", " [SEP] [SEP]")])
def test_a_tokenizer_that_ends_no_text_cannot_be_adopted(tmp_path, before, after):
    with pytest.raises(UserError, match="cannot be used"):
        Tokenizer.adopt(published(tmp_path, before=before, after=after))


@pytest.mark.parametrize(("bos", "wanted"), [("[SEP]", (4, 4)), ("[CLS]", (5, 4)), (None, (None, 4))])
def test_where_nothing_is_put_around_a_text_it_is_what_is_named(tmp_path, bos, wanted):
    published(tmp_path, before="", after="")
    named = {"eos_token": "[SEP]"} | ({"bos_token": {"content": bos}} if bos else {})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.adopt(tmp_path)
    assert (tokenizer.bos, tokenizer.eot, tokenizer.pad) == (*wanted, 4)
    ids = tokenizer.encode(["a red", ""], context=9)
    before = [] if bos is None else [wanted[0]]
    assert ids.tolist() == [[*before, 0, 1, 4], [*before, 4, 4, 4]]
    assert [tokenizer.decode(row) for row in ids] == ["a red", ""]
    tokenizer.save(tmp_path / "saved.json")
    assert Tokenizer.load(tmp_path / "saved.json").encode(["a red", ""], context=9).tolist() == ids.tolist()


def test_adopting_nothing_or_damaged_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read") as error:
        Tokenizer.adopt(tmp_path)
    assert "save_pretrained" in error.value.hint
    published(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config.json is not JSON"):
        Tokenizer.adopt(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.adopt(tmp_path)


@BOTH
def test_a_published_tokenizer_says_itself_what_surrounds_a_text(tokenizer, tmp_path):
    made, order = tokenizer.published()
    made.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    last = tokenizer.vocab_size - 1
    assert (again.pad, again.bos, again.eot, again.unk) == (PAD, BOS, last, UNK if tokenizer is WORDS else None)
    assert again.vocab_size == tokenizer.vocab_size and sorted(order) == list(range(last + 1))
    texts = [*TEXTS, "never seen <eot> zebra", f"{tokenizer.token(last)} red", ""]
    theirs, ours = again.encode(texts, context=99), tokenizer.encode(texts, context=99)
    assert torch.equal(torch.tensor(order)[theirs], ours) and not torch.equal(theirs, ours)
    assert [again.decode(row) for row in theirs] == [tokenizer.decode(row) for row in ours]
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [e.ids for e in plain.encode_batch(TEXTS)] == again.encode(TEXTS, context=99).tolist()
    assert again.published()[0] is again
