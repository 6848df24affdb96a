"""Published GPT-2 checkpoints against transformers' own GPT-2."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.pretrained import load_decoder
from published_files import write_gpt2

TEXTS = ["a red dog", "", " red red  red", "naïve 🙂"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    model, theirs = write_gpt2(folder)
    return folder, model, theirs


def texts(rows, length, seed=0):
    return torch.randint(0, 260, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
def test_logits_are_those_of_transformers(tmp_path, act):
    model, _ = write_gpt2(tmp_path, activation_function=act)
    decoder, _ = load_decoder(tmp_path)
    ids = texts(3, 24)
    with torch.no_grad():
        wanted, got = model(ids).logits, decoder.head(decoder(ids))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    assert wanted.std(0).mean() > 0.05
    assert decoder.head.weight is decoder.embed.tokens.weight


def test_greedy_texts_are_those_of_transformers(both):
    folder, model, _ = both
    decoder, tokenizer = load_decoder(folder)
    ids = torch.tensor([[tokenizer.bos], [5], [100]])
    wanted = model.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        draft, written = decoder.start(), ids
        for _ in range(20):
            logits = decoder.step(written[:, -1:], draft)
            written = torch.cat([written, logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(written, wanted) and len(set(map(tuple, wanted[:, 1:].tolist()))) == 3


def test_tokens_are_those_of_transformers_between_its_one_reserved_token(both):
    folder, _, theirs = both
    _, tokenizer = load_decoder(folder)
    assert tokenizer.bos == tokenizer.eot == tokenizer.pad == theirs.eos_token_id == 259
    for text in TEXTS:
        row = tokenizer.encode([text], context=40)[0].tolist()
        assert row == [259, *theirs(text, add_special_tokens=False)["input_ids"], 259], text
        assert tokenizer.decode(row) == text


@pytest.mark.parametrize("old", ["inner names", "masks", "head"])
def test_older_files_mean_the_same(both, tmp_path, old):
    import shutil

    folder = shutil.copytree(both[0], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    if old == "inner names":
        tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    if old == "masks":
        tensors |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 24, 24).tril() for i in range(2)}
        tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    if old == "head":
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    ids = texts(2, 9)
    with torch.no_grad():
        assert torch.equal(load_decoder(folder)[0](ids), load_decoder(both[0])[0](ids))
