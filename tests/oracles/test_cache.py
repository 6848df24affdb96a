"""Writing with a cache equals reading the whole prefix anew, on a real model, whoever else writes with it."""

import math

import pytest
import torch

from chiasm.generate import GenerateConfig, generate, stream
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.nn import Attention, KeyValueCache

PAD, BOS, EOT = 0, 1, 2
GRID = VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2)
POOLED = VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, pool="cls")
CONV = ConvConfig(size=(16, 16), widths=(8, 16), pool="mean")
NARROW = ConvConfig(size=(16, 16), widths=(8,))
MODELS = {
    "grid": (GRID, {}),
    "pooled": (POOLED, {}),
    "conv": (CONV, {}),
    "early": (GRID, {"fusion": "early"}),
    "early-pooled": (CONV, {"fusion": "early"}),
    "early-projected": (NARROW, {"fusion": "early"}),
    "late": (GRID, {"fusion": "late"}),
    "late-pooled": (POOLED, {"fusion": "late"}),
    "perceiver": (GRID, {"fusion": "perceiver", "latents": 3}),
    "perceiver-narrow": (NARROW, {"fusion": "perceiver", "latents": 3, "latent_blocks": 0}),
}
SEEDS = {"cross": 6, "early": 4, "late": 4, "perceiver": 7}
"""Whose texts differ most."""


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request, make_captioner):
    vision, changes = request.param
    return make_captioner(vision, seed=1, **changes)


@pytest.fixture(params=SEEDS)
def lively(request, make_captioner):
    """A model whose texts differ between pictures, in length too: the picture is loud, and words do not echo."""
    model = make_captioner(seed=SEEDS[request.param], fusion=request.param, latents=3)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.weight.data.mul_(0.08 / module.weight.std())
    model.decoder.norm.weight.data.normal_()
    for block in model.decoder.blocks:
        (block.attend_cross if block.reads_context else block.attend_self).out.weight.data.mul_(6)
    return model


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2]], ids=str)
def test_every_chunking_of_a_prefix_gives_the_uncached_logits(model, make_images, chunks):
    images, ids = make_images(3), torch.randint(3, 11, (3, 12), generator=torch.Generator().manual_seed(0))
    wanted = model.head(model(images, ids))
    with torch.no_grad():
        draft = model.start(images)
        parts = [model.decoder.step(part, draft) for part in ids.split(chunks, 1)]
    assert draft.length == 12
    torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [0, 3])
@torch.no_grad()
def test_steps_equal_the_forward_pass_after_any_reordering(model, make_images, first):
    """Until step `first`, every row goes on from itself."""
    images, beams, generator = make_images(3), 4, torch.Generator().manual_seed(0)
    draft, ids = model.start(images, beams), torch.full((12, 1), BOS)
    pictures = torch.arange(3)
    for step in range(8):
        logits = model.step(ids[:, -1], draft)
        whole = model.head(model(images[pictures].repeat_interleave(beams, 0), ids))[:, -1]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
        read = [context.keys.shape[0] for context in draft.contexts if context is not None]
        assert set(read) <= {len(pictures)}  # no copy for each beam
        assert bool(read) == (model.config.fusion in ("cross", "perceiver"))
        places = torch.randperm(len(pictures), generator=generator)[: 2 if step >= 4 else 3]
        within = torch.randint(beams, (len(places), beams), generator=generator)
        if step < first:
            within = torch.arange(beams).expand(len(places), -1)
        rows = (places[:, None] * beams + within).flatten()
        model.reorder(draft, rows)
        pictures, ids = pictures[places], ids[rows]
        ids = torch.cat([ids, torch.randint(3, 11, (len(ids), 1), generator=generator)], 1)


@pytest.mark.parametrize("chunk", [1, 3])
@torch.no_grad()
def test_beams_go_on_by_several_tokens_at_once(model, make_images, chunk):
    images, beams, generator = make_images(3), 2, torch.Generator().manual_seed(0)
    draft, ids = model.start(images, beams), torch.randint(3, 11, (6, 4), generator=generator)
    model.decoder.step(ids, draft)
    rows = torch.tensor([1, 1, 2, 3, 5, 4])
    model.reorder(draft, rows)
    more = torch.randint(3, 11, (6, 6), generator=generator)
    got = torch.cat([model.decoder.step(part, draft) for part in more.split(chunk, 1)], 1)
    whole = model.head(model(images.repeat_interleave(beams, 0), torch.cat([ids[rows], more], 1)))
    torch.testing.assert_close(got, whole[:, 4:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_beams_that_go_on_from_others_copy_no_keys(make_captioner, make_images):
    model = make_captioner(context=40)
    draft = model.start(make_images(2), 3)
    places = set()
    for step in range(12):
        model.step(torch.full((6,), 3), draft)
        if step:  # at the first change the beams of a picture move together, once
            model.reorder(draft, torch.tensor([1, 0, 0, 5, 5, 3]))
        places |= {draft.caches[0]._buffer.data_ptr()}
    assert draft.caches[0].length == 36 and len(places) <= 4  # doubled when full


def uncached_greedy(model, image, longest):
    """The lesson's loop, with an end: the whole prefix through the model for every token."""
    ids, log_probs = [BOS], []
    for length in range(longest + 1):
        logits = model.head(model(image, torch.tensor([ids])))[0, -1]
        logits[[PAD, BOS, EOT] if length < 1 else [PAD, BOS]] = -math.inf
        token = int(logits.argmax())
        if token != EOT and length == longest:
            break
        log_probs.append(float(logits.log_softmax(0)[token]))
        if token == EOT:
            break
        ids.append(token)
    return tuple(ids[1:]), log_probs


@torch.no_grad()
def test_greedy_writes_what_a_loop_without_a_cache_writes(lively, make_images):
    images = make_images(12)
    written = [several[0] for several in generate(lively, images, GenerateConfig())]
    assert len({text.ids for text in written}) > 4 and len({len(text.ids) for text in written}) > 2
    for image, text in zip(images, written, strict=True):
        ids, log_probs = uncached_greedy(lively, image[None], lively.rules.context - 2)
        assert text.ids == ids
        assert text.log_probs == pytest.approx(log_probs, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"mode": "beam", "captions": 2}, {"no_repeat_ngram": 2}], ids=str)
def test_pictures_together_are_captioned_as_each_alone(lively, make_images, settings):
    images, config = make_images(12), GenerateConfig(**settings)
    together = generate(lively, images, config)
    assert len({len(several[0].ids) for several in together}) > 2
    for image, several in zip(images, together, strict=True):
        (alone,) = generate(lively, image[None], config)
        assert [text.ids for text in alone] == [text.ids for text in several]
        for one, other in zip(alone, several, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"mode": "beam"}, {"mode": "sample", "captions": 3, "top_p": 0.9}], ids=str)
def test_log_probabilities_are_those_of_the_text_given_as_a_whole(lively, make_images, settings):
    images = make_images(6)
    for image, several in zip(images, generate(lively, images, GenerateConfig(**settings)), strict=True):
        for text in several:
            targets = [*text.ids, EOT] if text.complete else list(text.ids)
            logits = lively.head(lively(image[None], torch.tensor([[BOS, *targets[:-1]]])))[0]
            logits[:, [PAD, BOS]] = -math.inf
            logits[0, EOT] = -math.inf
            wanted = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
            assert text.log_probs == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
def test_keys_of_a_picture_are_computed_once(lively, make_images, monkeypatch, mode):
    projected = []
    project = Attention.project
    monkeypatch.setattr(
        Attention, "project", lambda self, context: projected.append((self, context.shape)) or project(self, context)
    )
    remembered = {}
    append = KeyValueCache.append_stacked
    monkeypatch.setattr(
        KeyValueCache,
        "append_stacked",
        lambda self, new: remembered.setdefault(self, []).append(new.shape[0]) or append(self, new),
    )
    captions = 1 if mode == "greedy" else 3
    generate(lively, make_images(5), GenerateConfig(mode=mode, captions=captions))
    read = lively.encode(make_images(5)).tokens.shape
    for block in lively.decoder.blocks:
        reading = block.attend_cross if block.reads_context else block.attend_self
        assert [shape for attention, shape in projected if attention is reading] == [read]
    assert len(remembered) == len(lively.decoder.blocks)
    for rows in remembered.values():
        if lively.config.fusion in ("early", "late"):
            assert rows.pop(0) == 5  # the prefix, of each picture once
        assert len(rows) > 2 and rows[0] == 5 * (4 if mode == "beam" else captions)


def test_two_texts_written_in_turns_on_one_model_do_not_meet(lively, make_images):
    images, config = make_images(6), GenerateConfig(mode="sample", captions=2, seed=3)
    alone = [list(stream(lively, half, config)) for half in images.split(3)]
    turns, told = [stream(lively, half, config) for half in images.split(3)], ([], [])
    for _ in range(200):
        for turn, tokens in zip(turns, told, strict=True):
            tokens.extend([token] if (token := next(turn, None)) else [])
    assert list(told) == alone


def test_writing_leaves_nothing_on_the_model(lively, make_images):
    before = {name: sorted(vars(module)) for name, module in lively.named_modules()}
    generate(lively, make_images(3), GenerateConfig(mode="beam"))
    assert {name: sorted(vars(module)) for name, module in lively.named_modules()} == before
    assert not list(lively.buffers())
