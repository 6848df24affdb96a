"""`chiasm import` and `chiasm export`: there and back, and what they refuse."""

import pytest
import torch

from chiasm.bundle import Bundle
from chiasm.cli.pretrained import export, import_
from chiasm.errors import UserError
from published_files import TEXTS, write_clip, write_siglip


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
    with pytest.raises(UserError, match="no dual encoder"):
        export(tmp_path / "captioner", out=tmp_path / "out")
