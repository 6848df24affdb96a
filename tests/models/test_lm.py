"""The language model: text alone, with what every model owes, and no picture anywhere."""

from dataclasses import replace

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.cost import model_cost
from chiasm.data.transforms import PreprocessConfig
from chiasm.generate import GenerateConfig, generate
from chiasm.models import LanguageConfig, build_model
from chiasm.models.decoder import DecoderConfig
from chiasm.models.language import TextRules
from chiasm.models.presets import LMS, lm_preset
from chiasm.objectives import Captioning
from chiasm.text import Tokenizer
from chiasm.types import Batch

SIZES = {"width": 16, "depth": 2, "heads": 2, "rules": TextRules(context=12)}


@pytest.fixture(scope="module")
def make_lm():
    def make(vocabulary=11, seed=0, **changes):
        torch.manual_seed(seed)
        model = build_model(LanguageConfig(decoder=DecoderConfig(**SIZES, vocabulary=vocabulary, **changes)))
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.data.mul_(4)
        return model.eval()

    return make


def nothing(rows):
    return torch.empty(rows, 3, 0, 0)


def batch(lengths=(7, 4, 3, 5)):
    ids = torch.randint(3, 11, (len(lengths), 7), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 1
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = 2
        row[length:] = 0
    names = torch.arange(len(ids))
    keys = tuple(map(str, names.tolist()))
    return Batch(images=nothing(len(ids)), ids=ids, keep=ids != 0, image_ids=names, text_ids=names, keys=keys)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[12], [1] * 12, [6, 6], [5, 1, 4, 2]], ids=str)
def test_every_chunking_gives_the_uncached_logits(make_lm, chunks):
    model, ids = make_lm(), torch.randint(3, 11, (3, 12), generator=torch.Generator().manual_seed(0))
    draft = model.start(nothing(3))
    parts = [model.decoder.step(part, draft) for part in ids.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.head(model(nothing(3), ids)), rtol=1e-4, atol=1e-5)


def test_texts_of_unlike_lengths_share_rows_with_equal_loss_and_gradients(make_lm):
    model, texts = make_lm().double(), batch((7, 2, 3, 3, 2, 5, 2))
    computed = []
    model.decoder.blocks[0].register_forward_hook(lambda block, given, x: computed.append(x.shape[0]))
    together = Captioning()(model, texts)["loss"]
    together.backward()
    assert computed.pop() < len(texts)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone = [Captioning()(model, text)["loss"] for text in texts.split(1)]
    torch.testing.assert_close(together, sum(alone), rtol=1e-5, atol=1e-5)
    sum(alone).backward()
    assert set(computed) == {1}
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_no_token_sees_a_later_one_and_no_text_another(make_lm):
    model, ids = make_lm(), batch().ids
    changed = ids.clone()
    changed[0, 4:] = 5
    before, after = model(nothing(4), ids), model(nothing(4), changed)
    assert torch.equal(before[0, :4], after[0, :4]) and not torch.equal(before[0, 4], after[0, 4])
    torch.testing.assert_close(before[1:], after[1:])


def test_longer_padding_changes_no_loss_and_every_parameter_learns(make_lm):
    model, short = make_lm().double(), batch()
    ids = torch.nn.functional.pad(short.ids, (0, 5))
    long = replace(short, ids=ids, keep=ids != 0)
    losses, padded = (Captioning(label_smoothing=0.1)(model, rows) for rows in (short, long))
    for name in losses:
        torch.testing.assert_close(losses[name], padded[name])
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-8, name


@pytest.mark.parametrize("settings", [{}, {"mode": "beam", "captions": 3}, {"mode": "sample", "captions": 5}], ids=str)
def test_it_writes_as_many_texts_as_there_are_pictures_without_pixels(make_lm, settings):
    texts = generate(make_lm(), nothing(2), GenerateConfig(**settings))
    assert len(texts) == 2 and all(several[0].ids for several in texts)
    if settings.get("mode") != "beam":  # which finds as many as end
        assert [len(several) for several in texts] == [settings.get("captions", 1)] * 2
    if settings.get("mode") != "sample":
        assert texts[0] == texts[1]


@torch.no_grad()
def test_the_likeliest_text_is_that_of_all_texts(make_lm):
    model = make_lm(vocabulary=6)
    found = generate(model, nothing(1), GenerateConfig(mode="beam", beams=60, max_tokens=2, length_penalty=0.0))[0][0]
    best = -torch.inf
    for words in [(a, b) for a in (3, 4, 5) for b in (3, 4, 5, 2)]:
        text = [*words, 2] if words[1] != 2 else list(words)
        logits = model.head(model(nothing(1), torch.tensor([[1, *text[:-1]]])))[0]
        logits[:, [0, 1]] = -torch.inf
        logits[0, 2] = -torch.inf
        best = max(best, float(logits.log_softmax(-1)[range(len(text)), text].sum()))
    assert sum(found.log_probs) == pytest.approx(best, abs=1e-5)


def test_a_bundle_brings_it_back(make_lm, tmp_path):
    tokenizer = Tokenizer.train(["one red dog and two blue cats"])
    model = make_lm(vocabulary=tokenizer.vocab_size)
    Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(0, 0))).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path).model
    assert loaded.config == model.config
    assert loaded.decoder.head.weight is loaded.decoder.embed.tokens.weight
    assert generate(loaded, nothing(1), GenerateConfig()) == generate(model, nothing(1), GenerateConfig())


@pytest.mark.parametrize("name", LMS)
def test_presets_are_built_and_their_cost_is_counted(name):
    cost = model_cost(lm_preset(name).completed(100, 3), batch_size=2, text_tokens=8, measure=False)
    linear = cost.parameters - lm_preset(name).rules.context * lm_preset(name).decoder.width
    assert cost.forward_flops == pytest.approx(2 * 2 * 7 * linear, rel=0.1)  # two per weight and token, and attention
