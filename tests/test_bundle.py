"""A bundle brings its world with it, and says what is wrong with a folder that is none."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.bundle import Bundle, find_bundle, own_tensors
from chiasm.data.transforms import PreprocessConfig
from chiasm.errors import UserError
from chiasm.models.vision import VitConfig
from chiasm.text import Tokenizer

TOKENIZER = Tokenizer.train(["one red dog and two blue cats"])
VISION = VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, stem="conv")


@pytest.fixture
def make_bundle(make_captioner):
    def make(seed=0, tokenizer=TOKENIZER, card="card"):
        model = make_captioner(VISION, vocabulary=tokenizer.vocab_size, seed=seed)
        return Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(16, 16)), card=card)

    return make


@pytest.fixture
def folder(make_bundle, tmp_path):
    make_bundle().save(tmp_path / "run" / "bundle")
    return tmp_path / "run" / "bundle"


def complaint(folder):
    with pytest.raises(UserError) as caught:
        Bundle.load(folder)
    assert caught.value.hint
    return caught.value.message


def same(first, second):
    return all(
        torch.equal(p, q) for p, q in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_folder_holds_four_files_that_others_can_read(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.md", "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]  # no scratch is left
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1 and config["model"]["vision"]["kind"] == "VitConfig"


def test_the_run_s_folder_and_the_bundle_s_are_both_found(folder):
    assert find_bundle(folder) == find_bundle(folder.parent) == folder
    assert same(Bundle.load(folder).model, Bundle.load(str(folder.parent)).model)


def test_a_tied_weight_is_stored_once(folder, make_bundle):
    model = make_bundle().model
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == set(model.state_dict()) - {"decoder.head.weight"}
    assert set(own_tensors(model)) == set(stored)
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())


def test_saving_over_a_bundle_replaces_it_whole(folder, make_bundle):
    (folder / "stray.txt").write_text("of the old one")
    make_bundle(seed=1, card="new").save(folder)
    loaded = Bundle.load(folder)
    assert loaded.card == "new" and same(loaded.model, make_bundle(seed=1).model)
    assert not (folder / "stray.txt").exists() and [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_save_that_fails_leaves_the_old_bundle_and_nothing_else(folder, make_bundle, monkeypatch):
    def fail(self, path):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            make_bundle(seed=1).save(folder)
    assert same(Bundle.load(folder).model, make_bundle(seed=0).model)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_missing_card_is_no_fault(folder):
    (folder / "card.md").unlink()
    assert Bundle.load(folder).card == ""


def test_folders_that_hold_no_bundle(tmp_path):
    assert complaint(tmp_path / "nowhere") == f"There is no {tmp_path / 'nowhere'}"
    assert complaint(tmp_path) == f"{tmp_path} holds no trained model"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(folder, name, share):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * share)])
    assert str(folder / name) in complaint(folder)


def test_tensors_that_are_missing_left_over_or_misshapen_are_all_listed(folder):
    def change(tensors):
        del tensors["vision.norm.bias"], tensors["decoder.norm.weight"]
        tensors["vision.extra"] = torch.zeros(1)
        tensors["decoder.embed.positions"] = torch.zeros(3, 16)

    rewrite(folder, change)
    message = complaint(folder)
    assert "2 missing (decoder.norm.weight, vision.norm.bias)" in message
    assert "1 not of this model (vision.extra)" in message
    assert "1 of another shape (decoder.embed.positions)" in message


def test_long_lists_of_tensors_are_cut(folder):
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("vision.blocks")])
    message = complaint(folder)
    assert "…" in message and message.count("vision.blocks") == 5


def test_a_tokenizer_of_another_size_is_refused(folder):
    Tokenizer.train(["one red dog"]).save(folder / "tokenizer.json")
    assert f"the tokenizer has 7 tokens, the model {TOKENIZER.vocab_size}" in complaint(folder)


@pytest.mark.parametrize(
    "path, value, told",
    [
        (["preprocess", "size"], [16, 32], "(16, 32) pixels do not fit a model of (16, 16)"),
        (["format"], 2, "format is 2, this version reads 1"),
        (["model", "vision", "depht"], 2, "'model.vision.depht'"),
        (["model", "decoder", "heads"], 3, "model.decoder: width 16 is not a multiple of heads 3"),
        (["preprocess", "std"], [0.5, 0.0, 0.5], "preprocess: std"),
        (["preprocess", "resize"], "stretch", "preprocess.resize is 'stretch'"),
    ],
)
def test_a_world_that_does_not_fit_is_refused(folder, path, value, told):
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert told in complaint(folder)


def test_a_model_of_other_sizes_than_its_weights_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["vision"]["depth"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    assert "missing (vision.blocks.1." in complaint(folder)
