"""Small runs: settings of a captioner that trains for a second, and a picture cache of the session's own."""

import dataclasses

import pytest

from chiasm.data.shapes import ShapesConfig
from chiasm.data.transforms import augment_for
from chiasm.models.captioner import CaptionerConfig
from chiasm.models.decoder import DecoderConfig
from chiasm.models.vision import VitConfig
from chiasm.train.config import DataConfig, RunConfig, TrainConfig


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def settings():
    """A run of six steps, four to an epoch, with everything random turned on; keywords change the training."""
    run = RunConfig(
        data=DataConfig(path="shapes", shapes=ShapesConfig(difficulty="lesson", samples=40)),
        model=CaptionerConfig(
            vision=VitConfig(size=(32, 32), width=32, depth=1, heads=2, dropout=0.1),
            decoder=DecoderConfig(width=32, depth=1, heads=2, dropout=0.1),
        ),
        train=TrainConfig(
            steps=6,
            batch_size=8,
            precision="fp32",
            label_smoothing=0.1,
            ema_decay=0.9,
            augment=augment_for("strong"),
            validate_every_epochs=0.5,
            checkpoint_every_seconds=0.0,
        ),
    )

    def settings(**train):
        return dataclasses.replace(run, train=dataclasses.replace(run.train, **train))

    return settings
