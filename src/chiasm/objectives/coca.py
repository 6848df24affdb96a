"""Tell pairs apart and predict captions, at once: CoCa's two objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from chiasm.losses import cached_backward, cross_entropy, refuse_batch_norm
from chiasm.models import Coca
from chiasm.objectives.base import Objective, Rows
from chiasm.objectives.captioning import Captioning
from chiasm.objectives.contrastive import Contrastive
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class ContrastiveCaptioning(Objective):
    """The weighted sum of InfoNCE and of the captions' loss per token (2205.01917, equation 4; weights 1 and 2).

    A batch in parts has exactly the whole batch's gradient: vectors and sums of losses are computed twice, by part.
    """

    label_smoothing: float = 0.0
    contrastive_weight: float = 1.0
    captioning_weight: float = 2.0
    contrastive: Contrastive = field(default_factory=Contrastive)
    unit: ClassVar[str] = "both losses, weighted, nats"
    columns: ClassVar[tuple[str, ...]] = (
        "token_loss", "contrastive_loss", "excess_loss", "floor", "chance", "scale",
    )  # fmt: skip

    def __call__(self, model: Coca, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and of it `contrastive_loss` and `token_loss` (without label smoothing, per token), in nats."""
        return self._losses(model, batch, *self._forward(model, batch))

    def backward(self, model: Coca, batch: Batch, parts: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Gradient of the batch's loss; ValueError for several parts of a model with batch norm."""
        told: dict[str, Tensor] = {}
        if parts == 1:
            told = self(model, batch)
            backward(told["loss"])
        else:
            refuse_batch_norm(model)

            def loss(*made: Tensor) -> Tensor:
                told.update(self._losses(model, batch, *made))
                return told["loss"]

            pieces = batch.split(math.ceil(len(batch) / parts))
            cached_backward([lambda p=p: self._forward(model, p) for p in pieces], loss)
        values = {name: float(value.detach()) for name, value in told.items()}
        floor, chance = self.contrastive.floor(model, batch), self.contrastive.chance(model, batch)
        scale = float(model.log_scale.detach().exp())
        excess = values["contrastive_loss"] - floor
        return values | {"excess_loss": excess, "floor": floor, "chance": chance, "scale": scale}

    def plain(self, model: Coca, batch: Batch) -> Tensor:
        """Every text as if it were different, and every token counts, pads too."""
        images, texts, hidden = model.pairs(batch.images, batch.ids)
        told = (images @ texts.T).log_softmax(-1).sum()
        return told + model.head(hidden.flatten(0, 1)).float().log_softmax(-1).sum()

    def validate(self, model: Coca, batch: Batch) -> tuple[float, int]:
        """The weighted sum of the contrastive loss above its floor and the loss per token, by pairs."""
        told = self(model, batch)
        excess = float(told["contrastive_loss"].detach()) - self.contrastive.floor(model, batch)
        both = self.contrastive_weight * excess + self.captioning_weight * float(told["token_loss"].detach())
        return both * len(batch), len(batch)

    def after_step(self, model: Coca) -> None:
        """Clamp the scale of similarities."""
        self.contrastive.after_step(model)

    def advice(self, rows: Rows) -> str | None:
        """What to try where the contrastive loss stays at chance."""
        return self.contrastive.advice(_of_pairs(rows))

    def ending(self, model: Coca, rows: Rows) -> list[str]:
        """Where the contrastive loss and the scale ended."""
        return self.contrastive.ending(model, _of_pairs(rows))

    def _forward(self, model: Coca, batch: Batch) -> tuple[Tensor, ...]:
        """Vectors of both sides, and the sums of the captions' smoothed and plain losses."""
        images, texts, hidden = model.pairs(batch.images, batch.ids)
        wanted = batch.keep[:, 1:]
        sums = cross_entropy(model.head(hidden[wanted]), batch.ids[:, 1:][wanted], self.label_smoothing)
        return images, texts, *(loss[None] for loss in sums)

    def _losses(
        self, model: Coca, batch: Batch, images: Tensor, texts: Tensor, smoothed: Tensor, plain: Tensor
    ) -> dict[str, Tensor]:
        contrastive, count = self.contrastive.of_vectors(model, batch, images, texts), Captioning().count(batch)
        loss = self.contrastive_weight * contrastive + self.captioning_weight * smoothed.sum() / count
        return {"loss": loss, "contrastive_loss": contrastive, "token_loss": plain.sum() / count}


def _of_pairs(rows: Rows) -> Rows:
    """The rows as the contrastive objective alone would report them."""
    return [{**row, "loss": row["contrastive_loss"]} for row in rows]
