"""A batch is a function of seed and step alone; each epoch shows every good picture once; ids and keep agree."""

import dataclasses
import math
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

from chiasm.data import loader as loader_module
from chiasm.data.cache import prepare_pictures
from chiasm.data.loader import Loader
from chiasm.data.transforms import PreprocessConfig, augment_for, normalize
from chiasm.errors import UserError
from chiasm.text.tokenizer import BOS, EOT, PAD, Tokenizer
from chiasm.types import Example

CONFIG = PreprocessConfig(size=(16, 16))
WORDS = ["a", "red", "blue", "small", "large", "dog", "cat", "in", "the", "snow"]


def array(seed):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def texts(seed):
    rng = np.random.default_rng(1000 + seed)
    return tuple(" ".join(rng.choice(WORDS, rng.integers(1, 9))) + f" {seed}" for _ in range(seed % 3 + 1))


EXAMPLES = [Example(image=array(i), texts=texts(i), key=f"p{i}") for i in range(23)]
TOKENIZER = Tokenizer.train(text for e in EXAMPLES for text in e.texts)


@pytest.fixture
def make(tmp_path):
    def make(examples=EXAMPLES, **options):
        pictures = prepare_pictures(examples, CONFIG, name="some", folder=tmp_path, max_broken_share=0.5)
        usual = {"preprocess": CONFIG, "augment": augment_for("strong"), "batch_size": 5, "context": 16, "seed": 0}
        return Loader(examples, pictures, TOKENIZER, **usual | options)

    return make


def assert_same(first, second):
    assert first.keys == second.keys
    for name in ("images", "ids", "keep", "image_ids", "text_ids"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def words_of(batch):
    return [TOKENIZER.decode(row) for row in batch.ids]


def test_a_batch_depends_on_seed_and_step_alone(make):
    loader = make()
    first = [loader.batch(step) for step in range(10)]
    for step in (7, 0, 3, 9, 7):
        assert_same(loader.batch(step), first[step])
    torch.manual_seed(1)
    np.random.seed(1)
    other = make()
    for step, batch in zip(range(4, 10), other.stream(4, 10), strict=True):
        assert_same(batch, first[step])
    different = make(seed=1).batch(0)
    assert different.keys != first[0].keys


@pytest.mark.parametrize("together", [2, 3])
def test_neighbours_stay_together_in_another_order_each_epoch(together, make):
    loader = make(together=together, batch_size=2 * together)
    orders = []
    for epoch in range(2):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        numbers = [int(key[1:]) for step in steps for key in loader.batch(step).keys]
        assert len(set(numbers)) == len(numbers)
        for i, number in enumerate(numbers):
            before, after = ([-1, *numbers][i], [*numbers, -1][i + 1])
            assert number % together == 0 or before == number - 1
            assert number % together == together - 1 or number == 22 or after == number + 1 or after == -1
        orders.append(numbers)
    assert orders[0] != orders[1]


def test_worker_processes_make_the_same_batches_and_leave_the_global_state_alone(make):
    before = torch.get_rng_state()
    loader = make(workers=2)
    for step, batch in zip(range(3, 9), loader.stream(3, 9), strict=True):
        assert_same(batch, loader.batch(step))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_is_another_permutation(make):
    loader = make(batch_size=1, augment=None)
    assert loader.steps_per_epoch == len(loader) == 23
    epochs = [[loader.batch(step).keys[0] for step in range(23 * e, 23 * e + 23)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(e.key for e in EXAMPLES)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_last_partial_batch_is_dropped_but_few_pictures_are_one_batch(make):
    loader = make()
    assert loader.steps_per_epoch == 4
    epoch = [key for step in range(4) for key in loader.batch(step).keys]
    assert len(epoch) == len(set(epoch)) == 20
    few = make(batch_size=100)
    assert few.steps_per_epoch == 1 and sorted(few.batch(5).keys) == sorted(e.key for e in EXAMPLES)


def test_every_text_is_drawn_with_its_own_picture_and_about_equally_often(make):
    loader = make(batch_size=23, augment=None)
    counts = {e.key: dict.fromkeys(e.texts, 0) for e in EXAMPLES}
    for step in range(120):
        batch = loader.batch(step)
        for key, text in zip(batch.keys, words_of(batch), strict=True):
            counts[key][text] += 1  # KeyError for a text of another picture
    for key, drawn in counts.items():
        for count in drawn.values():
            assert abs(count - 120 / len(drawn)) < 25, key


def test_images_are_the_normalised_pixels_of_their_keys(make):
    batch = make(augment=None).batch(2)
    pixels = {e.key: e.image for e in EXAMPLES}
    expected = normalize(np.stack([pixels[key] for key in batch.keys]), CONFIG)
    assert torch.equal(batch.images, expected) and batch.images.dtype == torch.float32
    torch.testing.assert_close(make(augment=augment_for("none")).batch(2).images, expected, atol=1e-6, rtol=0)


def test_augmentation_differs_by_step_and_by_picture(make):
    same = [dataclasses.replace(EXAMPLES[0], key=str(i)) for i in range(5)]
    loader = make(same, augment=augment_for("light"))
    first, second = loader.batch(0).images, loader.batch(1).images
    assert not torch.allclose(first, second, atol=0.05)
    assert not torch.allclose(first[0], first[1], atol=0.05)


def test_ids_run_from_bos_to_eot_and_keep_is_false_exactly_at_pads(make):
    for step in range(8):
        batch = make().batch(step)
        assert batch.ids.dtype == batch.text_ids.dtype == batch.image_ids.dtype == torch.int64
        for row, keep, text in zip(batch.ids, batch.keep, words_of(batch), strict=True):
            length = int(keep.sum())
            assert keep[:length].all() and torch.equal(keep, row != PAD)
            assert row[0] == BOS and row[length - 1] == EOT and (row[: length - 1] != EOT).all()
            assert torch.equal(row[:length], TOKENIZER.encode([text], context=16)[0])
        assert batch.keep.any(dim=0).all()  # no longer than its longest text


def test_equal_texts_and_groups_share_an_id_over_all_batches(make):
    def some(key, text, group=""):
        return Example(image=array(0), texts=(text,), key=key, group=group)

    examples = [
        some("a", "a dog", "g"),
        some("b", "a cat", "g"),
        some("c", "a dog"),
        some("g", "a cat"),
        some("e", "x"),
    ]
    loader = make(examples, batch_size=2, augment=None)
    image_ids, text_ids = {}, {}
    for step in range(20):
        batch = loader.batch(step)
        for key, image_id, text_id in zip(batch.keys, batch.image_ids.tolist(), batch.text_ids.tolist(), strict=True):
            assert image_ids.setdefault(key, image_id) == image_id
            assert text_ids.setdefault(key, text_id) == text_id
    assert image_ids["a"] == image_ids["b"] and len(set(image_ids.values())) == 4  # a key is no group of that name
    assert text_ids["a"] == text_ids["c"] and text_ids["b"] == text_ids["g"] and len(set(text_ids.values())) == 3


@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_in_order_shows_every_picture_once_with_its_first_text_unchanged(make, rows):
    loader = make()
    batches = list(loader.in_order(rows))
    assert [key for batch in batches for key in batch.keys] == [e.key for e in EXAMPLES]
    assert [text for batch in batches for text in words_of(batch)] == [e.texts[0] for e in EXAMPLES]
    assert all(len(batch) == rows for batch in batches[:-1])
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, normalize(np.stack([e.image for e in EXAMPLES]), CONFIG))


def test_broken_pictures_never_appear_and_their_texts_need_not_fit(make):
    broken = [Example(image=b"", texts=("a " * 99,), key=f"broken {i}") for i in range(4)]
    examples = [*broken[:2], *EXAMPLES, *broken[2:]]
    loader = make(examples, batch_size=23)
    good = sorted(e.key for e in EXAMPLES)
    assert len(loader) == 23
    assert sorted(loader.batch(0).keys) == sorted(loader.batch(1).keys) == good
    assert sorted(key for batch in loader.in_order(7) for key in batch.keys) == good
    pixels = {e.key: e.image for e in EXAMPLES}
    batch = make(examples, augment=None).batch(0)
    assert torch.equal(batch.images, normalize(np.stack([pixels[key] for key in batch.keys]), CONFIG))


def test_a_text_that_is_too_long_is_named_or_truncated(make):
    long = Example(image=array(0), texts=("a dog", "a dog in the snow"), key="long one")
    examples = [*EXAMPLES, long]
    with pytest.raises(UserError, match=r"data\.truncate=true") as raised:
        make([long], context=6)
    for part in ("long one", "'a dog in the snow'", "7 tokens", "context of 6"):
        assert part in str(raised.value)
    make([long], context=7)
    for batch in make(examples, context=4, truncate=True).stream(0, 4):
        assert batch.ids.shape[1] == 4
        for row, keep in zip(batch.ids, batch.keep, strict=True):
            assert row[keep][-1] == EOT


def test_an_example_without_text_is_named(make):
    with pytest.raises(UserError, match="silent one"):
        make([*EXAMPLES, Example(image=array(0), texts=(), key="silent one")])


def test_an_empty_text_is_a_text(make):
    batch = make([Example(image=array(0), texts=("",), key="a")]).batch(0)
    assert batch.ids.tolist() == [[BOS, EOT]]


def test_wrong_arguments_are_refused(make):
    for wrong in ({"batch_size": 0}, {"seed": -1}, {"preprocess": PreprocessConfig(size=(8, 8))}):
        with pytest.raises(ValueError, match=r"batch_size|prepared"):
            make(**wrong)
    with pytest.raises(ValueError, match="step"):
        make().batch(-1)


def threads():
    return {thread.ident for thread in threading.enumerate()}


def test_a_stream_passes_errors_on_and_ends_with_its_consumer(make, monkeypatch):
    loader = make()
    before = threads()
    good = loader.batch

    def failing(step):
        if step == 2:
            raise UserError("step 2 fails")
        return good(step)

    monkeypatch.setattr(loader, "batch", failing)
    stream = loader.stream(0, 9)
    assert_same(next(stream), good(0))
    assert_same(next(stream), good(1))
    with pytest.raises(UserError, match="step 2 fails"):
        next(stream)
    for _ in loader.stream(3, 10**9):
        break  # the generator is closed here
    stream = loader.stream(3, 10**9)
    next(stream)
    stream.close()
    del stream
    assert threads() == before


def test_a_stream_works_ahead_but_not_without_bound(make, monkeypatch):
    loader = make()
    made = []
    good = loader.batch
    monkeypatch.setattr(loader, "batch", lambda step: made.append(step) or good(step))
    stream = loader.stream(0, 100)
    next(stream)
    deadline = time.monotonic() + 10
    while len(made) < 1 + loader_module.AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == list(range(1 + loader_module.AHEAD))
    stream.close()
    assert list(make().stream(5, 5)) == []


def test_texts_are_tokenised_in_chunks_without_mixing_them(make, monkeypatch):
    whole = make().batch(0)
    monkeypatch.setattr(loader_module, "CHUNK", 2)
    assert_same(make().batch(0), whole)


def test_unigram_loss_is_that_of_the_frequencies_an_epoch_reads(make):
    loader = make()
    counts = Counter()
    for example in EXAMPLES:
        for text in example.texts:
            ids = TOKENIZER.rows([text], context=16)[0][1:]  # nobody predicts BOS
            for i in ids:
                counts[i] += 1 / len(example.texts)
    total = sum(counts.values())
    naive = -sum(n / total * math.log(n / total) for n in counts.values())
    assert loader.unigram_loss == pytest.approx(naive, rel=1e-9)
    options = {"preprocess": CONFIG, "augment": None, "batch_size": 5, "context": 0, "seed": 0}
    silent = Loader(EXAMPLES, loader.pictures, None, **options)
    assert silent.cut_shares == (0.0, 0.0)
    with pytest.raises(ValueError, match="no texts"):
        _ = silent.unigram_loss


def test_cut_shares_count_what_the_context_takes(make):
    whole = [length for e in EXAMPLES for length in TOKENIZER.lengths(e.texts)]
    assert make().cut_shares == (0.0, 0.0)
    weights = [1 / len(e.texts) for e in EXAMPLES for _ in e.texts]
    for context in range(3, max(whole) + 1):
        captions, tokens = make(context=context, truncate=True).cut_shares
        lost = [max(0, length - context) for length in whole]
        assert captions == pytest.approx(sum(w for w, n in zip(weights, lost, strict=True) if n) / len(EXAMPLES))
        read = sum(w * length for w, length in zip(weights, whole, strict=True))
        assert tokens == pytest.approx(sum(w * n for w, n in zip(weights, lost, strict=True)) / read)


def test_pair_ids_are_those_of_the_batch(make):
    loader = make()
    for step in (0, 3, 11):
        batch = loader.batch(step)
        assert torch.equal(loader.pair_ids(step), torch.stack([batch.image_ids, batch.text_ids]))
