"""Published weights that are broken, pickled, foreign or of another kind: refused with the reason; others survive."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.models import Clip, ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import ConvConfig, VitConfig
from chiasm.pretrained import load_pretrained, save_pretrained
from chiasm.text import Tokenizer
from published_files import TEXTS, write_clip, write_openclip, write_siglip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_clip(folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy to break."""
    return shutil.copytree(published, tmp_path / "copy")


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_bundle_of_published_weights_is_the_same_model(published, tmp_path):
    clip, tokenizer, preprocess = load_pretrained(published)
    Bundle(model=clip, tokenizer=tokenizer, preprocess=preprocess).save(tmp_path / "bundle")
    again = Bundle.load(tmp_path / "bundle")
    ids = tokenizer.encode(TEXTS, context=24, truncate=True)
    assert torch.equal(again.tokenizer.encode(TEXTS, context=24, truncate=True), ids)
    assert torch.equal(again.model.embed_texts(ids), clip.embed_texts(ids))
    assert again.preprocess == preprocess and again.model.config == clip.config


def test_missing_and_extra_tensors_are_both_listed_by_their_own_names(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.self_attn.k_proj.bias"], tensors["logit_scale"]
    tensors["vision_model.encoder.layers.9.mlp.fc1.bias"] = torch.zeros(3)
    tensors["text_model.embeddings.position_ids"] = torch.arange(24)  # of older files: no harm
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_pretrained(folder)
    assert "2 missing (logit_scale, vision_model.encoder.layers.1.self_attn.k_proj.bias)" in error.value.message
    assert "1 not of this model (vision_model.encoder.layers.9.mlp.fc1.bias)" in error.value.message


def test_half_precision_and_position_ids_are_read(folder):
    expected = load_pretrained(folder)[0]
    tensors = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors | {"vision_model.embeddings.position_ids": torch.arange(5)}, folder / "model.safetensors")
    clip = load_pretrained(folder)[0]
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    torch.testing.assert_close(clip.log_scale, expected.log_scale, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", lambda d: d["text_config"].update(hidden_size=18), "of another shape|do not fit"),
        ("config.json", lambda d: d["vision_config"].update(patch_size=4), "do not fit|of another shape"),
        ("config.json", lambda d: d["vision_config"].update(hidden_act="relu"), "hidden_act is 'relu'"),
        ("config.json", lambda d: d["vision_config"].update(num_channels=1), "1 channels"),
        ("config.json", lambda d: d["vision_config"].update(patch_size=7), "whole number of 7-pixel patches"),
        ("config.json", lambda d: d["text_config"].update(vocab_size=7), "tokenizer has 525 tokens, the model 7"),
        ("config.json", lambda d: d.update(model_type="blip"), "model_type is 'blip'"),
        ("preprocessor_config.json", lambda d: d.update(do_normalize=False), "do_normalize is false"),
        ("preprocessor_config.json", lambda d: d.update(rescale_factor=1.0), "rescale_factor is 1.0"),
        ("preprocessor_config.json", lambda d: d.update(resample=0), "resized by nearest"),
        ("preprocessor_config.json", lambda d: d.update(size={"shortest_edge": 20}), "shortest_edge.*20"),
    ],
)  # fmt: skip
def test_what_we_do_not_have_is_refused(folder, file, change, told):
    edit(folder / file, change)
    with pytest.raises(UserError, match=told):
        load_pretrained(folder)


def test_settings_of_older_files_mean_the_same(folder):
    expected = load_pretrained(folder)[2]
    edit(folder / "preprocessor_config.json", lambda d: d.update(size=16, crop_size=16))
    assert load_pretrained(folder)[2] == expected
    whole = {"image_processor": json.loads((folder / "preprocessor_config.json").read_text())}
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps(whole))
    assert load_pretrained(folder)[2] == expected
    (folder / "processor_config.json").unlink()
    with pytest.raises(UserError, match=r"There is no .*preprocessor_config\.json"):
        load_pretrained(folder)


class Trap:
    """A pickle that would tell on whoever opens it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_pickles_are_never_opened(folder):
    import pickle

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    for source in (folder, folder / "pytorch_model.bin", "nowhere/open_clip_pytorch_model.bin"):
        with pytest.raises(UserError, match="pickle") as error:
            load_pretrained(source)
        assert "pytorch_model.bin" in error.value.message and "safetensors" in error.value.hint


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(folder, file):
    path = folder / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{file} (cannot be read|is damaged|is not JSON)"):
        load_pretrained(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"config.json|tokenizer.json|safetensors"):
        load_pretrained(folder)


def test_a_missing_shard_is_named(tmp_path):
    write_clip(tmp_path, shards=True)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        load_pretrained(tmp_path)


def test_what_is_neither_a_folder_nor_on_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"no folder somebody/clip.*no connection"):
        load_pretrained("somebody/clip")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        load_pretrained(tmp_path / "file.txt")


def test_from_the_hub_only_what_is_read_is_fetched(monkeypatch, published):
    import huggingface_hub

    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **settings: asked.update({name: settings}) or str(published)
    )
    assert load_pretrained("somebody/clip")[0].config == load_pretrained(published)[0].config
    assert asked == {"somebody/clip": {"allow_patterns": ["*.json", "*.safetensors"]}}


def test_openclip_towers_of_other_kinds_are_refused(tmp_path):
    model, tokenizer = write_clip(tmp_path / "hf")
    folder = tmp_path / "open"
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    write_openclip(folder, model)
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.safetensors")
    load_pretrained(folder)
    path = folder / "open_clip_config.json"
    original = path.read_text()
    for change, told in [
        (lambda d: d["model_cfg"]["vision_cfg"].update(timm_model_name="vit"), "timm_model_name"),
        (lambda d: d["model_cfg"]["text_cfg"].update(hf_model_name="bert"), "hf_model_name"),
        (lambda d: d["model_cfg"].update(custom_text=True), "custom_text"),
        (lambda d: d["model_cfg"]["vision_cfg"].update(layers=[3, 4]), "ResNet"),
        (lambda d: d["preprocess_cfg"].update(resize_mode="longest"), "longest"),
    ]:
        edit(path, change)
        with pytest.raises(UserError, match=told):
            load_pretrained(folder)
        path.write_text(original)


def test_siglip_without_its_head_is_refused(tmp_path):
    write_siglip(tmp_path)
    edit(tmp_path / "config.json", lambda d: d["vision_config"].update(vision_use_head=False))
    with pytest.raises(UserError, match="vision_use_head"):
        load_pretrained(tmp_path)


def test_siglip_towers_of_two_widths_are_refused(tmp_path):
    write_siglip(tmp_path)
    edit(tmp_path / "config.json", lambda d: d["text_config"].update(projection_size=20))
    with pytest.raises(UserError, match="24 values need a projection to 20"):
        load_pretrained(tmp_path)


def test_what_the_layout_cannot_express_is_named_and_nothing_is_written(tmp_path):
    tokenizer = Tokenizer.train(["a red dog"])
    vision = VitConfig(size=(16, 16), patch_pixels=8, width=8, depth=1, heads=2, pool="cls", norm_first=True)
    text = TextConfig(width=8, depth=1, heads=2, vocabulary=tokenizer.vocab_size, rules=TextRules(context=9))
    good, crop = ClipConfig(vision=vision, text=text, embed_dim=8), PreprocessConfig(size=(16, 16), resize="crop")
    for config, preprocess, told in [
        (replace(good, vision=replace(vision, pool="mean")), crop, "pool=cls"),
        (replace(good, vision=replace(vision, stem="conv")), crop, "stem=patch"),
        (replace(good, vision=replace(vision, norm_first=False)), crop, "norm_first"),
        (replace(good, vision=replace(vision, size=(16, 24))), crop, "square"),
        (replace(good, vision=ConvConfig(size=(16, 16), widths=(8, 8), pool="mean")), crop, "other than a ViT"),
        (replace(good, text=replace(text, causal=False)), crop, "causal"),
        (replace(good, text=replace(text, pool="mean")), crop, "pool=eot"),
        (replace(good, similarity="sigmoid"), crop, "similarity"),
        (good, replace(crop, resize="pad"), "resize=pad"),
        (good, replace(crop, trim=True), "trim"),
    ]:
        with pytest.raises(ValueError, match=told):
            save_pretrained(Clip(config), tokenizer, preprocess, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save_pretrained(Clip(good), tokenizer, crop, tmp_path / "out")
    load_pretrained(tmp_path / "out")
