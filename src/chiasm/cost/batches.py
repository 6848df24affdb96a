"""What a step of training is of: an example of its batches, and its objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from chiasm.data.interleaved import MOST_PACKED
from chiasm.models import FlamingoConfig, ModelConfig
from chiasm.objectives import Captioning, ContrastiveCaptioning, Interleaving, Objective, objective_of
from chiasm.predict.loading import heard
from chiasm.types import Batch


def example_batch(
    config: ModelConfig, batch_size: int, text_tokens: int, *, noise: Callable[..., Tensor] = torch.randn
) -> Batch:
    """A batch of noise and arbitrary words, of the shapes that training would see; everything is of the first class.

    `text_tokens` are those of a text, BOS and EOT included. A Flamingo's row is a sequence of several pictures, each
    with such a text, as the loader packs them. `noise` makes pictures and sounds of the size that it is given.
    """
    sound = heard(config)
    ids = torch.full((batch_size, text_tokens if config.rules else 0), config.vocabulary - 1)
    if config.rules:
        ids[:, -1] = config.rules.eot
    keep, images, media = torch.ones_like(ids, dtype=torch.bool), noise(batch_size, 3, *config.size), None
    if isinstance(config, FlamingoConfig):
        t = pictures_per_sequence(config, text_tokens)
        ids, images = ids.repeat(1, t), torch.zeros(batch_size, 3, 0, 0)
        ids[:, ::text_tokens] = config.mark
        keep = ids != config.mark
        first = torch.full((batch_size, 1), config.rules.start)
        ids, keep = torch.cat([first, ids], 1), torch.cat([torch.ones_like(keep[:, :1]), keep], 1)
        media = noise(batch_size, t, 1, 3, *config.size)
    return Batch(
        images=images,
        media=media,
        ids=ids,
        keep=keep,
        image_ids=torch.arange(batch_size),
        text_ids=torch.arange(batch_size),
        keys=tuple(map(str, range(batch_size))),
        labels=torch.zeros(batch_size, dtype=torch.long),
        sounds=None if sound is None else noise(batch_size, sound.samples),
    )


def training_objective(config: ModelConfig) -> Objective:
    """What `chiasm.train` minimises: words with smoothed labels, which takes room where vocabularies are large."""
    objective, smoothing = objective_of(config), {"label_smoothing": 0.1}
    if isinstance(objective, (Captioning, ContrastiveCaptioning)):
        return replace(objective, **smoothing)
    return Interleaving(captioning=Captioning(**smoothing)) if isinstance(objective, Interleaving) else objective


def pictures_per_sequence(config: ModelConfig, text_tokens: int) -> int:
    """How many captioned pictures a row of a batch has: 1, but for a Flamingo, whose context the loader fills."""
    if not isinstance(config, FlamingoConfig):
        return 1
    return max(1, min(MOST_PACKED, (config.rules.context - 1) // text_tokens))


__all__ = ["example_batch", "pictures_per_sequence", "training_objective"]
