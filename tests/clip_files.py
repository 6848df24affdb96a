"""A tiny Clip as a bundle's folder, equal for equal seeds; its weights are random."""

import numpy as np
import torch

from chiasm.bundle import Bundle
from chiasm.data.transforms import PreprocessConfig
from chiasm.metrics.calibration import Calibration
from chiasm.models import build_model
from chiasm.models.clip import ClipConfig
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import VitConfig
from chiasm.text import Tokenizer

WORDS = ("a red circle", "a blue square", "a green triangle on white")


def write_clip(folder, *, seed=0, calibrated=True):
    """Write the bundle; calibrated, false pairs have cosines about 0 and true ones about 0.5."""
    tokenizer = Tokenizer.train(WORDS)
    config = ClipConfig(
        vision=VitConfig(size=(16, 16), patch_pixels=8, width=16, depth=1, heads=2, pool="mean"),
        text=TextConfig(width=16, depth=1, heads=2, rules=TextRules(context=8), vocabulary=tokenizer.vocab_size),
        embed_dim=24,
    )
    torch.manual_seed(seed)
    model = build_model(config)
    random = np.random.default_rng(0)
    false, true = (random.normal(mean, 0.1, 500).astype(np.float32) for mean in (0.0, 0.5))
    calibration = Calibration.fit(true, false) if calibrated else None
    preprocess = PreprocessConfig(size=(16, 16))
    Bundle(model=model, tokenizer=tokenizer, preprocess=preprocess, calibration=calibration).save(folder)
    return folder
