"""Comparisons small enough to be trained in a test."""

from __future__ import annotations

import pytest

from chiasm.cli.settings import fused, start_settings
from chiasm.compare.config import Arm, CompareConfig
from chiasm.config import merge

TINY = {
    "data": {"path": "shapes", "shapes": {"difficulty": "lesson", "samples": 60}},
    "model": {
        "vision": {"size": [32, 32], "width": 16, "depth": 1, "heads": 2, "stem": "patch"},
        "decoder": {"width": 16, "depth": 1, "heads": 2},
    },
    "train": {"steps": 6, "batch_size": 8, "precision": "fp32", "validate_every_epochs": 0.5, "augment": None},
}


@pytest.fixture
def config_of():
    def make(equal="samples", arms=("cross", "early"), **settings):
        """Tiny captioners of the lesson's shapes, which see as many samples."""
        made = []
        for name in arms:
            start = fused(start_settings("captioner", "tiny", fusion=name), name)
            made.append(Arm(name=name, settings=merge(start, TINY)))
        return CompareConfig(task="caption", arms=tuple(made), equal=equal, **settings)

    return make
