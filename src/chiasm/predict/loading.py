"""Examples as the batches that a trained model wants: its pictures, its texts, its sounds."""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.bundle import Bundle
from chiasm.data.cache import Pictures
from chiasm.data.loader import Loader
from chiasm.data.sound import SoundConfig, Sounds, prepare_sounds
from chiasm.models import ModelConfig
from chiasm.models.perceiver import PerceiverConfig
from chiasm.types import Example

ROWS = 128
"""Examples that a model is asked about at once."""


def heard(config: ModelConfig) -> SoundConfig | None:
    """How a model's sounds are prepared; None for a model that hears none."""
    if not isinstance(config, PerceiverConfig) or config.inputs.sound is None:
        return None
    return SoundConfig(rate_hertz=config.inputs.sound.rate_hertz, seconds=config.inputs.sound.seconds)


def sounds_of(config: ModelConfig, examples: Sequence[Example], name: str) -> Sounds | None:
    """The sounds of some examples, for a model that hears them; UserError where it does and none has one."""
    wanted = heard(config)
    return None if wanted is None else prepare_sounds(examples, wanted, name=name)


def loader_of(bundle: Bundle, examples: Sequence[Example], pictures: Pictures, name: str) -> Loader:
    """Batches of all the examples that can be read, for a model as it was trained; long texts lose their end.

    A Perceiver does without what an example lacks.
    """
    config = bundle.model.config
    return Loader(
        examples,
        pictures,
        bundle.tokenizer,
        preprocess=bundle.preprocess,
        augment=None,
        batch_size=ROWS,
        context=config.rules.context if config.rules else 0,
        seed=0,
        truncate=True,
        sounds=sounds_of(config, examples, name),
        partial=isinstance(config, PerceiverConfig),
    )


__all__ = ["ROWS", "heard", "loader_of", "sounds_of"]
