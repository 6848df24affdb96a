"""A published GPT-2 as a Flamingo's language model: at step 0 it is transformers' model, and it stays so."""

import numpy as np
import torch

from chiasm.bundle import Bundle
from chiasm.cli.settings import start_settings
from chiasm.data.transforms import PreprocessConfig
from chiasm.models import build_model
from chiasm.predict import FlamingoPredictor, Shot
from chiasm.train.parts import load_parts, parts_tokenizer
from published_files import write_gpt2


def test_it_begins_as_transformers_model_and_writes_after_shots(tmp_path):
    theirs, _ = write_gpt2(tmp_path)
    config = start_settings("flamingo", "tiny", lm=str(tmp_path)).model
    tokenizer = parts_tokenizer(config)
    assert config.frozen == ("decoder",) and tokenizer.vocab_size == config.vocabulary
    torch.manual_seed(0)
    model = build_model(config).eval()
    load_parts(model)
    ids = torch.randint(0, 259, (2, 16), generator=torch.Generator().manual_seed(0))
    media = torch.randn(2, 1, 1, 3, 32, 32)
    with torch.no_grad():
        wanted, got = theirs(ids).logits, model.head(model.read(media, ids))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    assert not any(p.requires_grad for p in model.decoder.parameters())
    predictor = FlamingoPredictor(Bundle(model=model, tokenizer=tokenizer, preprocess=PreprocessConfig(size=(32, 32))))
    pictures = [np.full((32, 32, 3), value, np.uint8) for value in (0, 80, 160)]
    shots = [Shot(picture, "a dog") for picture in pictures[:2]]
    said = predictor.caption(pictures, shots, question="a", max_tokens=4)
    assert len(said) == 3 and all(len(caption.ids) <= 4 for caption in said)
