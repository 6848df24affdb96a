"""Published ViT, GPT-2 and ViT with GPT-2: what is refused, and what can be trained on."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from chiasm.bundle import Bundle
from chiasm.cli.train import train
from chiasm.errors import UserError
from chiasm.pretrained import load_decoder, load_pretrained, load_vit, save_pretrained
from published_files import write_gpt2, write_vit, write_vit_gpt2

WRITE = {"vit": write_vit, "gpt2": write_gpt2, "captioner": write_vit_gpt2}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name, write in WRITE.items():
        write(folder / name)
    return folder


@pytest.fixture
def copy(published, tmp_path):
    """A copy of everything to break."""
    return shutil.copytree(published, tmp_path / "copy")


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("kind", "file", "change", "told"),
    [
        ("vit", "config.json", lambda d: d.update(architectures=["ViTModel"]), r"without classes \(ViTModel\)"),
        ("vit", "config.json", lambda d: d.update(qkv_bias=False), "qkv_bias"),
        ("vit", "config.json", lambda d: d.update(num_channels=1), "1 channels"),
        ("vit", "config.json", lambda d: d["id2label"].update({"3": "kind 0"}), "names a class twice .*kind 0"),
        ("vit", "config.json", lambda d: d["id2label"].pop("4"), "of another shape"),
        ("vit", "config.json", lambda d: d.update(num_hidden_layers=3), "missing .*layer.2"),
        ("vit", "preprocessor_config.json", lambda d: d.update(size={"height": 8, "width": 8}), "for a model of"),
        ("gpt2", "config.json", lambda d: d.update(scale_attn_by_inverse_layer_idx=True), "inverse_layer_idx is True"),
        ("gpt2", "config.json", lambda d: d.update(tie_word_embeddings=False), "tie_word_embeddings is False"),
        ("gpt2", "config.json", lambda d: d.update(vocab_size=9), "tokenizer has 260 tokens, the model 9"),
        ("gpt2", "config.json", lambda d: d.update(activation_function="relu"), "'relu'"),
        ("captioner", "config.json", lambda d: d["decoder"].update(model_type="bert"), "with a decoder of kind 'bert'"),
        ("captioner", "config.json", lambda d: d["encoder"].update(model_type="swin"), "an encoder of kind 'swin'"),
        ("captioner", "config.json", lambda d: d["decoder"].update(add_cross_attention=False), "reads no picture"),
    ],
)  # fmt: skip
def test_what_we_do_not_have_is_refused(copy, kind, file, change, told):
    edit(copy / kind / file, change)
    with pytest.raises(UserError, match=told):
        load_pretrained(copy / kind)


def test_an_output_layer_of_its_own_is_refused(copy):
    path = copy / "captioner" / "model.safetensors"
    tensors = load_file(path)
    head = tensors["decoder.transformer.wte.weight"].clone()
    save_file(tensors | {"decoder.lm_head.weight": head}, path)
    load_pretrained(copy / "captioner")
    save_file(tensors | {"decoder.lm_head.weight": head + 1}, path)
    with pytest.raises(UserError, match=r"lm_head.* has weights of its own"):
        load_pretrained(copy / "captioner")


def test_a_start_token_of_its_own_is_what_texts_begin_with(copy):
    edit(copy / "captioner" / "config.json", lambda d: d.update(decoder_start_token_id=7))
    rules = load_pretrained(copy / "captioner")[0].rules
    assert (rules.bos, rules.eot, rules.pad) == (7, 259, 259)


@pytest.mark.parametrize(("load", "kind"), [(load_decoder, "vit"), (load_vit, "gpt2")])
def test_parts_of_another_kind_are_refused(published, load, kind):
    with pytest.raises(UserError, match=r"PictureClassifier|model_type is 'gpt2'"):
        load(published / kind)


def test_what_vit_s_layout_cannot_express_is_named(make_images, tmp_path, published):
    from dataclasses import replace

    from chiasm.models import PictureClassifier
    from chiasm.models.vision import ConvConfig

    good, _, preprocess = load_pretrained(published / "vit")
    for vision, told in [
        (replace(good.config.vision, pool="mean"), "pool=cls"),
        (replace(good.config.vision, registers=2), "registers=0"),
        (ConvConfig(size=(16, 16), widths=(8,), pool="mean"), "other than a ViT"),
    ]:
        model = PictureClassifier(replace(good.config, vision=vision))
        with pytest.raises(ValueError, match=told):
            save_pretrained(model, None, preprocess, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """A folder of pictures, a class per folder, and a table of captions of them."""
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    generator, lines = np.random.default_rng(0), []
    for name, shade in (("dark", 30), ("light", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            pixels = (shade + generator.normal(0, 12, (20, 20, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
            lines.append(json.dumps({"image": f"data/{name}/{number}.png", "text": "red"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return tmp_path / "data"


def test_a_published_vit_is_trained_on_other_classes(published, classes, tmp_path):
    steps = ("train.steps=2", "train.batch_size=8", "train.precision=fp32", "train.ema_decay=0", "train.keep=last")
    assert (
        train("vit", str(classes), out=tmp_path / "run", from_=str(published / "vit"), tune="projection", set=steps)
        == 0
    )
    model, theirs = Bundle.load(tmp_path / "run").model, load_pretrained(published / "vit")[0]
    assert model.classes == ("dark", "light") and model.head.weight.shape == (2, 24)
    for name, tensor in theirs.vision.state_dict().items():
        assert torch.equal(model.vision.state_dict()[name], tensor), name


def test_a_published_captioner_is_trained_on_and_its_ends_count(published, classes, tmp_path):
    out, data = tmp_path / "run", str(tmp_path / "captions.jsonl")
    settings = ("train.steps=60", "train.batch_size=16", "train.precision=fp32", "train.learning_rate=0.03",
                "train.ema_decay=0", "train.label_smoothing=0")  # fmt: skip
    assert train("captioner", data, out=out, from_=str(published / "captioner"), set=settings) == 0
    bundle = Bundle.load(out)
    assert bundle.model.rules.eot == bundle.model.rules.pad == bundle.tokenizer.eot == 259
    told = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert {row["caption"] for row in told} == {"red"}  # which ends, though pads are what ends it
    scores = json.loads((out / "evaluation.json").read_text())["test"]["scores"]
    assert scores["token_loss"]["value"] < 0.15
