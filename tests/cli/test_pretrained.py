"""`chiasm import` and `chiasm export`: there and back, and what they refuse."""

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.cli.caption import caption
from chiasm.cli.pretrained import export, import_
from chiasm.errors import UserError
from chiasm.predict import CaptionPredictor, LanguagePredictor
from published_files import TEXTS, photo, write_clip, write_gpt2, write_siglip, write_vit, write_vit_gpt2


def test_there_and_back(tmp_path, capsys):
    from transformers import CLIPModel

    model, _ = write_clip(tmp_path / "theirs")
    assert import_(str(tmp_path / "theirs"), out=tmp_path / "bundle") == 0
    told = capsys.readouterr().out
    for words in (
        "2 layers of width 24, patches of 8",
        "16 x 16 pixels, crop, bicubic",
        "24 tokens of 525",
        "quick_gelu",
    ):
        assert words in told
    assert export(tmp_path / "bundle", out=tmp_path / "back") == 0
    ids = Bundle.load(tmp_path / "bundle").tokenizer.encode(TEXTS, context=24, truncate=True)
    with torch.no_grad():
        same = CLIPModel.from_pretrained(tmp_path / "back").eval().get_text_features(ids)
        torch.testing.assert_close(same.pooler_output, model.get_text_features(ids).pooler_output, rtol=0, atol=1e-5)


def test_what_cannot_be_exported_and_folders_in_use(tmp_path, make_captioner):
    (tmp_path / "siglip").mkdir()
    write_siglip(tmp_path / "siglip")
    import_(str(tmp_path / "siglip"), out=tmp_path / "bundle")
    with pytest.raises(UserError, match="as in SigLIP"):
        export(tmp_path / "bundle", out=tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        import_(str(tmp_path / "siglip"), out=tmp_path / "bundle")
    with pytest.raises(UserError, match="not empty"):
        export(tmp_path / "bundle", out=tmp_path / "siglip")
    bundle, captioner = Bundle.load(tmp_path / "bundle"), make_captioner(vocabulary=9)
    Bundle(model=captioner, tokenizer=bundle.tokenizer, preprocess=bundle.preprocess).save(tmp_path / "captioner")
    with pytest.raises(UserError, match="holds a Captioner"):
        export(tmp_path / "captioner", out=tmp_path / "out")


def test_a_published_captioner_writes_captions(tmp_path, capsys):
    from transformers import AutoImageProcessor

    model, theirs = write_vit_gpt2(tmp_path / "theirs")
    assert import_(str(tmp_path / "theirs"), out=tmp_path / "bundle") == 0
    assert "at most 24 tokens of 260" in capsys.readouterr().out
    photo(40, 60).save(tmp_path / "photo.png")
    assert caption(tmp_path / "bundle", (str(tmp_path / "photo.png"),), min_tokens=0, max_tokens=22) == 0
    written = capsys.readouterr().out.rstrip("\n").split("\t", 2)[2]
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "theirs")(images=photo(40, 60), return_tensors="pt")
    ids = model.generate(**pixels, do_sample=False, max_new_tokens=22, pad_token_id=theirs.eos_token_id)
    assert written == theirs.decode(ids[0], skip_special_tokens=True)
    assert CaptionPredictor.load(tmp_path / "bundle").caption(tmp_path / "photo.png", mode="beam").text


def test_a_published_language_model_and_a_classifier_are_understood(tmp_path, capsys):
    write_gpt2(tmp_path / "gpt2")
    import_(str(tmp_path / "gpt2"), out=tmp_path / "lm")
    told = capsys.readouterr().out
    assert "LanguageModel" in told and "pictures" not in told
    assert LanguagePredictor.load(tmp_path / "lm").write("a red", max_tokens=4)
    write_vit(tmp_path / "vit")
    import_(str(tmp_path / "vit"), out=tmp_path / "classifier")
    told = capsys.readouterr().out
    assert "5: kind 0, kind 1, kind 2, ..." in told and "texts" not in told
    assert export(tmp_path / "classifier", out=tmp_path / "back") == 0
    import_(str(tmp_path / "back"), out=tmp_path / "again")
    first, again = (Bundle.load(tmp_path / name).model for name in ("classifier", "again"))
    assert first.config == again.config
    for (name, tensor), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, same, msg=name)
