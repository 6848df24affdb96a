"""Tell which picture and which text of a batch belong together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from chiasm.losses import cached_backward, info_nce, info_nce_floor, refuse_batch_norm, sigmoid_pairs
from chiasm.losses.positives import count_positives
from chiasm.models import Clip, Coca
from chiasm.models.clip import MAX_LOG_SCALE
from chiasm.objectives.base import STUCK_SHARE, Objective, Rows, mean_of
from chiasm.types import Batch

CHUNK = 1024
"""Rows of a tile of the matrix of similarities, for batches above twice that."""


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Tell which picture and which text of a batch belong together: InfoNCE or the sigmoid loss, as the model is.

    Pictures or texts that are equal are no negatives of each other, which gives InfoNCE a floor above zero. A batch in
    parts is still one batch: embeddings are computed twice, by part, and the loss once over all (2101.06983).
    """

    unit: ClassVar[str] = "loss above its floor, nats"
    columns: ClassVar[tuple[str, ...]] = ("excess_loss", "floor", "chance", "scale")

    def __call__(self, model: Clip | Coca, batch: Batch) -> Tensor:
        """Mean loss of the batch, in nats."""
        return self.of_vectors(model, batch, model.embed_images(batch.images), model.embed_texts(batch.ids))

    def floor(self, model: Clip | Coca, batch: Batch) -> float:
        """The least that the loss can be on this batch, in nats."""
        return info_nce_floor(batch.image_ids, batch.text_ids) if model.bias is None else 0.0

    def chance(self, model: Clip | Coca, batch: Batch) -> float:
        """The loss on this batch of a model that tells no pair from another, in nats: InfoNCE's is ln(batch)."""
        if model.bias is None:
            return math.log(len(batch))
        ids = torch.stack([batch.image_ids, batch.text_ids])
        share = float(count_positives(ids, ids).sum()) / len(batch) ** 2  # to be told by the bias alone
        return len(batch) * sum(-p * math.log(p) for p in (share, 1 - share) if p > 0)

    def backward(
        self, model: Clip | Coca, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the batch's mean loss; ValueError for several parts of a model with batch norm."""
        if parts == 1:
            loss = self(model, batch)
            backward(loss)
            value = float(loss.detach())
        else:
            refuse_batch_norm(model)
            pieces = batch.split(math.ceil(len(batch) / parts))
            value = cached_backward(
                [lambda p=p: (model.embed_images(p.images), model.embed_texts(p.ids)) for p in pieces],
                lambda images, texts: self.of_vectors(model, batch, images, texts),
            )
        floor, chance = self.floor(model, batch), self.chance(model, batch)
        scale = float(model.log_scale.detach().exp())
        return {"loss": value, "excess_loss": value - floor, "floor": floor, "chance": chance, "scale": scale}

    def plain(self, model: Clip | Coca, batch: Batch) -> Tensor:
        """Every text as if it were different."""
        return (model.embed_images(batch.images) @ model.embed_texts(batch.ids).T).log_softmax(-1).sum()

    def validate(self, model: Clip | Coca, batch: Batch) -> tuple[float, int]:
        """The loss above its floor, by pairs."""
        return (float(self(model, batch).detach()) - self.floor(model, batch)) * len(batch), len(batch)

    @torch.no_grad()
    def after_step(self, model: Clip | Coca) -> None:
        """Clamp InfoNCE's scale (2103.00020, section 2.5); SigLIP's, which is 117 as published, has no limit."""
        if model.bias is None:
            model.log_scale.clamp_(max=MAX_LOG_SCALE)

    def advice(self, rows: Rows) -> str | None:
        """What to try where the loss stays at `chance`: 98 % of it or more."""
        loss, floor, chance = (mean_of(rows, name) for name in ("loss", "floor", "chance"))
        if loss < STUCK_SHARE * chance:
            return None
        if floor >= STUCK_SHARE * chance:
            return f"All texts or pictures of a batch are equal: there is nothing to tell apart (loss {loss:.3f})."
        return (
            f"The loss, {loss:.3f}, is that of a model that tells nothing apart ({chance:.3f} for this batch_size); "
            "try a lower or higher train.learning_rate, a longer train.warmup, a larger train.batch_size, and check "
            "that pictures and texts belong together."
        )

    def ending(self, model: Clip | Coca, rows: Rows) -> list[str]:
        """Where loss and scale ended."""
        loss, floor = mean_of(rows, "loss"), mean_of(rows, "floor")
        told = [f"the training loss ended at {loss:.3f}; {mean_of(rows, 'chance'):.3f} would be chance"]
        if floor > 0:
            told.append(f"the loss cannot go below {floor:.3f} here: equal texts or pictures in a batch")
        told.append(f"the scale of similarities ended at {float(model.log_scale.detach().exp()):.1f}")
        return told

    def of_vectors(self, model: Clip | Coca, batch: Batch, images: Tensor, texts: Tensor) -> Tensor:
        """The mean loss of the batch, from its vectors."""
        chunk = CHUNK if len(batch) > 2 * CHUNK else None
        ids = batch.image_ids, batch.text_ids
        if model.bias is None:
            return info_nce(images, texts, model.log_scale, *ids, chunk=chunk)
        return sigmoid_pairs(images, texts, model.log_scale, model.bias, *ids, chunk=chunk)
