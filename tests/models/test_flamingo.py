"""Flamingo: nothing at step 0, the latest picture alone, the same with a cache, and no memory between calls."""

import pytest
import torch

from chiasm.generate import GenerateConfig, generate, stream
from chiasm.models.decoder import CausalDecoder, DecoderConfig
from chiasm.models.flamingo import FewShot, Flamingo, FlamingoConfig, latest_picture
from chiasm.models.language import TextRules
from chiasm.models.vision import VitConfig

VOCABULARY, MARK, BOS, EOT = 11, 11, 1, 2
VISION = VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2)


def make_config(**changes):
    rules = TextRules(context=24)
    decoder = DecoderConfig(width=16, depth=3, heads=2, rules=rules, vocabulary=VOCABULARY)
    sizes = {"decoder": decoder, "latents": 3, "resampler_depth": 2, "resampler_heads": 2, "every": 2}
    return FlamingoConfig(vision=VISION, **sizes | changes)


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return Flamingo(make_config(**changes)).eval()


def lively(seed=0, **changes):
    model = build(seed, **changes)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "vision.embed" not in name:
            parameter.data.mul_(3.0)
        if "gate_" in name:
            parameter.data.fill_(1.0)
    return model


@pytest.fixture
def media(make_images):
    return make_images(6).view(2, 3, 1, 3, 16, 16)


@pytest.fixture
def ids():
    """Words before the first picture, two pictures in a row, and words after each."""
    first = [BOS, 3, 4, MARK, 5, 6, EOT, MARK, MARK, 7, 8, EOT]
    second = [BOS, MARK, 9, 10, 3, EOT, MARK, 4, EOT, 5, MARK, 6]
    return torch.tensor([first, second])


def test_at_step_0_it_is_its_language_model(media, ids):
    model = build()
    words = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.head(model.read(media, words)), model.head(model.decoder(words)), rtol=0, atol=1e-6
    )
    # `<image>` is one more token to the language model: a twin of it with that token in its table
    decoder = model.config.decoder
    twin = CausalDecoder(DecoderConfig(**vars(decoder) | {"vocabulary": VOCABULARY + 1})).eval()
    tensors = model.decoder.state_dict()
    for name in ("embed.tokens.weight", "head.weight"):
        tensors[name] = torch.cat([tensors[name], model.mark.detach()[None]])
    twin.load_state_dict(tensors)
    expected = twin.head(twin(ids))[..., :VOCABULARY]
    torch.testing.assert_close(model.head(model.read(media, ids)), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(lively().head(lively().read(media, ids)), expected, atol=1e-2)


def test_a_token_may_read_the_latest_picture_alone():
    keep = latest_picture(torch.tensor([[0, 0, 1, 1, 3, 2]]), pictures=3, latents=2)[0]
    assert keep.any(-1).tolist() == [False, False, True, True, True, True]
    assert [row.nonzero()[:, 0].tolist() for row in keep[2:]] == [[0, 1], [0, 1], [4, 5], [2, 3]]


@pytest.mark.parametrize(
    ("row", "picture", "first"), [(0, 0, 3), (0, 1, 7), (0, 2, 8), (1, 0, 1), (1, 1, 6), (1, 2, 10)]
)
def test_a_picture_changes_nothing_before_its_marker(row, picture, first, media, ids):
    model = lively()
    other = media.clone()
    other[row, picture] = other[row, picture].flip(-1) + 1
    before, after = model.read(media, ids), model.read(other, ids)
    assert torch.equal(before[row, :first], after[row, :first])
    changed = (before[row, first:] - after[row, first:]).abs().amax(-1)
    if (row, picture) == (0, 1):  # one that another picture follows at once is read at its marker only
        assert changed[0] > 1e-4
    else:
        assert changed.min() > 1e-5
    assert torch.equal(before[1 - row], after[1 - row])


def test_after_the_next_marker_a_picture_is_known_only_from_the_words(media, ids):
    """With one block there is no word through which an earlier picture could be seen."""
    model = lively(
        decoder=DecoderConfig(width=16, depth=1, heads=2, vocabulary=VOCABULARY, rules=TextRules(context=24))
    )
    seen = []
    model.gated[0].register_forward_hook(lambda _, args, out: seen.append(out - args[0]))
    other = media.clone()
    other[:, 0] += 1
    model.read(media, ids), model.read(other, ids)
    assert (seen[0] != seen[1]).any(-1).tolist() == [[3 <= n < 7 for n in range(12)], [1 <= n < 6 for n in range(12)]]


def test_words_before_the_first_picture_get_exactly_zero_in_every_mode(media, ids):
    model = lively()
    for layer in model.gated:
        layer.gate_mlp.data.zero_()  # what is left is the cross-attention
    added = []
    for layer in model.gated:
        layer.register_forward_hook(lambda _, args, out: added.append((out - args[0]).abs().amax(-1)))
    start = ids[:1, :7]
    model.train().read(media[:1], start)
    model.eval().read(media[:1], start)
    draft = model.start_prompted(model.encode(media[:1]), start[:, :0], beams=1)
    model.extend(start[:, :2], draft), model.extend(start[:, 2:3], draft), model.extend(start[:, 3:], draft)
    whole, steps = added[:4], added[4:]
    assert all((a[0, :3] == 0).all() and (a[0, 3:] > 0).all() for a in whole)
    assert all((a == 0).all() for a in steps[:4]) and all((a > 0).all() for a in steps[4:])


def test_no_pictures_at_all(media):
    model, words = lively(), torch.randint(3, VOCABULARY, (2, 5))
    none = model.read(media[:, :0], words)
    torch.testing.assert_close(none, model.read(media, words))
    model.read(media[:, :0], words).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2], [3, 9]], ids=str)
def test_cached_equals_uncached_for_every_chunking(chunks, media, ids):
    model = lively()
    expected = model.head(model.read(media, ids))
    draft = model.start_prompted(model.encode(media), ids[:, :0], beams=1)
    parts = [model.extend(part, draft) for part in ids.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-5)


def test_an_unread_picture_and_longer_padding_change_nothing(media, ids):
    model = lively()
    longer = torch.nn.functional.pad(ids, (0, 4))
    more = torch.cat([media, media.flip(1)], 1)
    torch.testing.assert_close(model.read(more, longer)[:, :12], model.read(media, ids), rtol=1e-4, atol=1e-5)
    for row in range(2):
        alone = model.read(media[row : row + 1], ids[row : row + 1])
        torch.testing.assert_close(alone[0], model.read(media, ids)[row], rtol=1e-4, atol=1e-5)


def test_more_markers_than_pictures_is_an_error(media, ids):
    with pytest.raises(ValueError, match="3 <image>, and there are 2 pictures"):
        build().read(media[:, :2], ids)


def test_frozen_parts_learn_nothing_and_stay_in_evaluation_mode(media, ids):
    model = lively(frozen=("vision", "decoder"))
    model.train()
    assert not model.decoder.training and not any(m.training for m in model.vision.modules())
    assert model.resampler.training and model.gated[0].training
    model.head(model.read(media, ids)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith(("vision.", "decoder.")), name


def test_every_other_parameter_gets_a_gradient(media, ids):
    model = lively().double()
    model.head(model.read(media.double(), ids)).square().sum().backward()
    for name, parameter in model.named_parameters():
        used = parameter.grad if name != "decoder.embed.positions" else parameter.grad[:12]
        assert used.abs().amax() > 1e-8, name


def test_gates_get_a_gradient_at_step_0_and_are_told(media, ids):
    model = build()
    model.head(model.read(media, ids)).square().sum().backward()
    assert all(layer.gate_cross.grad.abs() > 0 and layer.gate_mlp.grad.abs() > 0 for layer in model.gated)
    assert model.gates == dict.fromkeys(("gate_0_cross", "gate_0_mlp", "gate_1_cross", "gate_1_mlp"), 0.0)
    assert lively().gates["gate_1_mlp"] == pytest.approx(0.76159, abs=1e-4)


def prompted(model, media, ids):
    return FewShot(model, model.encode(media), ids[:, 1:9])


def naive_greedy(model, media, prompt, longest):
    """Read everything anew for every token."""
    ids, written = torch.cat([torch.full((len(prompt), 1), BOS), prompt], 1), []
    for _ in range(longest):
        logits = model.head(model.read(media, ids)[:, -1])
        logits[:, [0, BOS]] = -torch.inf
        written.append(logits.argmax(-1))
        ids = torch.cat([ids, written[-1][:, None]], 1)
    return torch.stack(written, 1)


def test_greedy_writing_equals_reading_everything_anew(media, ids):
    model = lively()
    got = generate(prompted(model, media, ids), media[:, 0, 0], GenerateConfig(min_tokens=0))
    expected = naive_greedy(model, media, ids[:, 1:9], 14)
    for (text,), row in zip(got, expected.tolist(), strict=True):
        end = row.index(EOT) if EOT in row else 14
        assert list(text.ids) == row[:end]


def test_without_shots_a_text_follows_its_picture(media):
    model, images = lively(), media[:, 0, 0]
    shown = FewShot(model, model.encode(media[:, :1]), torch.full((2, 1), MARK))
    for config in (GenerateConfig(), GenerateConfig(mode="beam", beams=3), GenerateConfig(mode="sample", captions=2)):
        plain, told = (generate(writer, images, config) for writer in (model, shown))
        assert [[w.ids for w in texts] for texts in plain] == [[w.ids for w in texts] for texts in told]


@pytest.mark.parametrize(
    "config", [GenerateConfig(mode="beam", beams=3, captions=2), GenerateConfig()], ids=["beam", "greedy"]
)
def test_together_equals_one_by_one(config, media, ids):
    model = lively()
    together = generate(prompted(model, media, ids), media[:, 0, 0], config)
    for row in range(2):
        part = slice(row, row + 1)
        alone = generate(prompted(model, media[part], ids[part]), media[part, 0, 0], config)
        assert [text.ids for text in alone[0]] == [text.ids for text in together[row]]


def test_one_beam_is_greedy(media, ids):
    model = lively()
    beam, greedy = (
        generate(prompted(model, media, ids), media[:, 0, 0], config)
        for config in (GenerateConfig(mode="beam", beams=1), GenerateConfig())
    )
    assert [t[0].ids for t in beam] == [t[0].ids for t in greedy]


def test_two_generations_on_one_model_do_not_see_each_others_pictures(media, ids):
    model, images = lively(), media[:1, 0, 0]
    writers = [prompted(model, media[row : row + 1], ids[row : row + 1]) for row in (0, 1)]
    config = GenerateConfig(min_tokens=4)
    alone = [list(stream(writer, images, config)) for writer in writers]
    assert alone[0] != alone[1]
    streams = [stream(writer, images, config) for writer in writers]
    woven = [[], []]
    for _ in range(40):
        for told, one in zip(woven, streams, strict=True):
            told += [token] if (token := next(one, None)) else []
    assert woven == alone
    assert not any(isinstance(value, torch.Tensor) for module in model.modules() for value in vars(module).values())


def test_a_prompt_leaves_room_to_write(media):
    model = lively()
    writer = FewShot(model, model.encode(media), torch.full((2, 20), 3))
    texts = generate(writer, media[:, 0, 0], GenerateConfig(min_tokens=4))
    assert [len(t[0].ids) for t in texts] == [2, 2]  # 24 places: BOS, the prompt, two words, and room for EOT
    with pytest.raises(ValueError, match="a prompt of 22 tokens leaves no room in a context of 24"):
        FewShot(model, model.encode(media), torch.full((2, 22), 3))


@pytest.mark.parametrize("name", ["latents", "resampler_depth", "every", "frames"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        make_config(**{name: 0})
