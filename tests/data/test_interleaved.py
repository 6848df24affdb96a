"""Sequences of pictures and texts: out of JSON Lines, packed, and as batches."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.data.cache import prepare_pictures
from chiasm.data.interleaved import InterleavedLoader, interleave, interleaved_source, is_interleaved
from chiasm.data.layouts import open_source
from chiasm.data.loader import Loader
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.text import Tokenizer
from chiasm.types import Batch, Example

PREPROCESS = PreprocessConfig(size=(8, 8))
MARK, PAD, BOS, EOT = 50, 0, 1, 2


@pytest.fixture
def write(tmp_path):
    for name in "abcd":
        Image.new("RGB", (8, 8), (20 * ord(name) % 256, 0, 0)).save(tmp_path / f"{name}.png")

    def write(*rows):
        path = tmp_path / "stories.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write


def told(source):
    return [(e.image.name if e.image else None, e.texts[0], e.group) for e in source.examples]


def test_a_list_of_pictures_and_texts(write):
    path = write(
        [{"text": "once"}, {"image": "a.png"}, {"text": "a"}, {"text": "more"}, {"image": "b.png"}, {"image": "c.png"}],
        [{"image": "d.png", "text": "both"}],
    )
    source = open_source(path)
    assert source.interleaved
    one, two = "stories.jsonl:1", "stories.jsonl:2"
    assert told(source) == [
        (None, "once", one), ("a.png", "a more", one), ("b.png", "", one), ("c.png", "", one), ("d.png", "both", two),
    ]  # fmt: skip
    assert "2 sequences, 4 pictures" in source.understood


def test_two_lists_side_by_side(write):
    source = interleaved_source(write({"images": [None, "a.png", "b.png"], "texts": ["once", None, "last"]}))
    assert [t[:2] for t in told(source)] == [(None, "once"), ("a.png", ""), ("b.png", "last")]


def test_a_sequence_is_never_parted_by_a_split(write):
    path = write(*([{"image": "a.png"}, {"text": str(n)}, {"image": "b.png"}, {"text": "x"}] for n in range(40)))
    source = interleaved_source(path)
    groups = [{source.examples[i].group for i in rows} for rows in source.splits.values()]
    assert sum(map(len, groups)) == 40 and min(map(len, groups)) > 0
    assert source.fingerprint != interleaved_source(write([{"image": "a.png"}])).fingerprint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "row 2: not JSON"),
        ([{"picture": "a.png"}], "row 2 is no sequence of pictures and texts"),
        ({"caption": "a"}, "row 2 is no sequence of pictures and texts"),
        ({"images": ["a.png"], "texts": []}, "row 2: images and texts are not two lists of one length"),
        ([{"image": 3}], "row 2: image is 3"),
        ([{"image": ""}], "row 2: image is ''"),
        ([{"image": "a.png"}, {"text": ["x"]}], "row 2: text is"),
        ([{"text": "alone"}], "row 2 has no picture"),
    ],
)
def test_a_broken_row_is_named(row, message, write):
    with pytest.raises(UserError, match=message):
        interleaved_source(write([{"image": "a.png"}, {"text": "a"}], row))


def test_what_is_no_sequence_is_left_to_others(write, tmp_path):
    assert not is_interleaved(write({"image": "a.png", "caption": "a"}))
    assert not is_interleaved(write("{broken"))
    assert not is_interleaved(tmp_path / "a.png") and not is_interleaved(tmp_path / "missing.jsonl")


def flat_batch(rows):
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    names = torch.arange(len(rows))
    images = torch.arange(1.0, len(rows) + 1).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    keys = tuple(map(str, range(len(rows))))
    return Batch(images=images, ids=ids, keep=ids != PAD, image_ids=names, text_ids=names, keys=keys)


def test_a_batch_of_sequences():
    flat = flat_batch([[BOS, 5, EOT], [BOS, 6, 7, EOT], [BOS, EOT], [BOS, 8, EOT]])
    shown, given = np.array([False, True, True, True]), np.array([False, True, False, False])
    batch = interleave(flat, [3, 1], shown, given, mark=MARK, pad=PAD)
    assert batch.ids.tolist() == [
        [BOS, 5, EOT, MARK, 6, 7, EOT, MARK],
        [BOS, MARK, 8, EOT, PAD, PAD, PAD, PAD],
    ]
    assert batch.keep.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0, 0, 0]]
    assert batch.media[..., 0, 0, 0, 0].tolist() == [[2.0, 3.0], [4.0, 0.0]]
    assert batch.keys == ("0", "3") and len(batch) == 2
    first, second = batch.split(1)
    assert torch.equal(second.media, batch.media[1:]) and first.keys == ("0",)


def make_loader(examples, cache, *, batch_size=2, context=64, grouped=False, packed=None, seed=0):
    tokenizer = Tokenizer.train(text for e in examples for text in e.texts)
    pictures = prepare_pictures(examples, PREPROCESS, name="test", folder=cache)
    loader = Loader(
        examples, pictures, tokenizer,
        preprocess=PREPROCESS, augment=None, batch_size=batch_size, context=context, seed=seed,
    )  # fmt: skip
    sizes = {"mark": tokenizer.vocab_size, "context": context}
    return InterleavedLoader(loader, examples, tokenizer, **sizes, grouped=grouped, packed=packed), tokenizer


def numbered(count, group=lambda n: ""):
    return [
        Example(image=np.full((8, 8, 3), n, np.uint8), texts=(f"number {n}",), key=str(n), group=group(n))
        for n in range(count)
    ]


def pairs(batch, tokenizer):
    """For each sequence, what stands after each picture, and the number that the picture shows."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    for ids, media in zip(batch.ids.tolist(), batch.media, strict=True):
        chunks, places = [], [n for n, i in enumerate(ids) if i == tokenizer.vocab_size]
        for place, picture in zip(places, media, strict=False):
            end = ids.index(EOT, place)
            shown = round(float(((picture[0] * std + mean) * 255).mean()))
            chunks.append((tokenizer.decode(ids[place + 1 : end]), shown))
        yield chunks


def test_captioned_pictures_are_packed_anew_in_every_epoch_and_each_keeps_its_text(tmp_path):
    loader, tokenizer = make_loader(numbered(20), tmp_path, packed=3)
    assert (len(loader), loader.steps_per_epoch) == (7, 3)
    epochs = []
    for epoch in range(2):
        seen = [c for step in range(3) for c in pairs(loader.batch(3 * epoch + step), tokenizer)]
        assert all(text == f"number {shown}" for chunks in seen for text, shown in chunks)
        assert [len(chunks) for chunks in seen] == [3] * 6
        assert len({shown for chunks in seen for _, shown in chunks}) == 18
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    again, _ = make_loader(numbered(20), tmp_path, packed=3)
    assert torch.equal(again.batch(4).ids, loader.batch(4).ids)
    streamed = list(loader.stream(2, 5))
    assert all(torch.equal(b.media, loader.batch(n).media) for n, b in enumerate(streamed, start=2))


def test_in_order_every_picture_comes_once(tmp_path):
    loader, tokenizer = make_loader(numbered(8), tmp_path, packed=3)
    batches = list(loader.in_order(6))
    assert [len(batch) for batch in batches] == [2, 1]
    assert [[n for _, n in c] for b in batches for c in pairs(b, tokenizer)] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_as_many_are_packed_as_surely_fit(tmp_path):
    for context, packed in ((64, 5), (14, 3), (13, 3), (12, 2), (5, 1)):  # BOS, and four ids for each picture
        loader, _ = make_loader(numbered(8), tmp_path, context=context)
        assert loader.packed == packed
        assert max(batch.ids.shape[1] for batch in loader.in_order(8)) <= context
    with pytest.raises(
        UserError, match="4 pictures with texts may take 17 tokens, more than the model's context of 16"
    ):
        make_loader(numbered(8), tmp_path, context=16, packed=4)


def test_groups_are_sequences(tmp_path):
    examples = numbered(9, group=lambda n: f"g{n // 4}")
    loader, tokenizer = make_loader(examples, tmp_path, grouped=True)
    assert len(loader) == 3
    assert [[n for _, n in c] for b in loader.in_order(4) for c in pairs(b, tokenizer)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8],
    ]  # fmt: skip
    with pytest.raises(UserError, match="The sequence g0 may take 17 tokens"):
        make_loader(examples, tmp_path, grouped=True, context=16)
