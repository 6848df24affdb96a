"""What training minimises: an objective takes a model and a batch, and gives the gradient and named losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from chiasm.losses import cached_backward, info_nce, info_nce_floor, next_token, refuse_batch_norm, sigmoid_pairs
from chiasm.losses.positives import count_positives
from chiasm.models import Captioner, Clip
from chiasm.models.clip import MAX_LOG_SCALE
from chiasm.types import Batch

CHUNK = 1024
"""Rows of a tile of the matrix of similarities, for batches above twice that."""
STUCK_SHARE = 0.98
"""A loss of so much of chance's has not been learnt from."""

Rows = Sequence[Mapping[str, float | None]]
"""What `backward` reported of some steps, as rows of metrics.csv hold it."""


class Objective(ABC):
    """What a training step and a validation know of a task."""

    unit: ClassVar[str]
    """What validation follows, and in what it is measured, in words."""
    columns: ClassVar[tuple[str, ...]]
    """What `backward` reports beside `loss`."""

    @abstractmethod
    def backward(self, model: Any, batch: Batch, parts: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Add the batch's gradient to the parameters, computed in so many parts; returns `loss` and the columns."""

    @abstractmethod
    def validate(self, model: Any, batch: Batch) -> tuple[float, int]:
        """The loss that validation follows, in nats, summed over the batch, and over how many terms."""

    def after_step(self, model: Any) -> None:  # noqa: B027 - most weights may be anything
        """What must hold of the weights after every optimizer step."""

    def advice(self, rows: Rows) -> str | None:
        """What to try, where these steps show that nothing is learnt."""
        return None

    def findings(self, model: Any, rows: Rows) -> list[str]:
        """Sentences for the card on how a run, whose last steps these are, ended."""
        return []


@dataclass(frozen=True, kw_only=True)
class Captioning(Objective):
    """Predict each caption's next token.

    Sums and not means, so that a batch that is run in parts has exactly the whole batch's mean over tokens.
    """

    label_smoothing: float = 0.0
    unit: ClassVar[str] = "loss per token, nats"
    columns: ClassVar[tuple[str, ...]] = ("token_loss",)

    def count(self, batch: Batch) -> int:
        """Tokens that are predicted: all but BOS and pads."""
        return int(batch.keep[:, 1:].sum())

    def __call__(self, model: Captioner, batch: Batch) -> dict[str, Tensor]:
        """`loss` (smoothed) and `token_loss` (plain), summed over tokens, in nats."""
        wanted = batch.keep[:, 1:]
        hidden = model(batch.images, batch.ids[:, :-1])
        logits = model.head(hidden[wanted])
        smoothed, plain = next_token(logits, batch.ids[:, 1:][wanted], self.label_smoothing)
        return {"loss": smoothed, "token_loss": plain}

    def backward(
        self, model: Captioner, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the mean over the whole batch's tokens."""
        count = self.count(batch)
        sums = {"loss": 0.0, "token_loss": 0.0}
        for part in batch.split(math.ceil(len(batch) / parts)):
            losses = self(model, part)
            backward(losses["loss"] / count)
            for name, value in losses.items():
                sums[name] += float(value.detach()) / count
        return sums

    def validate(self, model: Captioner, batch: Batch) -> tuple[float, int]:
        """The plain loss, by tokens."""
        return float(self(model, batch)["token_loss"]), self.count(batch)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Objective):
    """Tell which picture and which text of a batch belong together: InfoNCE or the sigmoid loss, as the model is.

    Pictures or texts that are equal are no negatives of each other, which gives InfoNCE a floor above zero. A batch in
    parts is still one batch: embeddings are computed twice, by part, and the loss once over all (2101.06983).
    """

    unit: ClassVar[str] = "loss above its floor, nats"
    columns: ClassVar[tuple[str, ...]] = ("excess_loss", "floor", "chance", "scale")

    def __call__(self, model: Clip, batch: Batch) -> Tensor:
        """Mean loss of the batch, in nats."""
        return self._loss(model, batch, model.embed_images(batch.images), model.embed_texts(batch.ids))

    def floor(self, model: Clip, batch: Batch) -> float:
        """The least that the loss can be on this batch, in nats."""
        return info_nce_floor(batch.image_ids, batch.text_ids) if model.bias is None else 0.0

    def chance(self, model: Clip, batch: Batch) -> float:
        """The loss on this batch of a model that tells no pair from another, in nats: InfoNCE's is ln(batch)."""
        if model.bias is None:
            return math.log(len(batch))
        ids = torch.stack([batch.image_ids, batch.text_ids])
        share = float(count_positives(ids, ids).sum()) / len(batch) ** 2  # to be told by the bias alone
        return len(batch) * sum(-p * math.log(p) for p in (share, 1 - share) if p > 0)

    def backward(self, model: Clip, batch: Batch, parts: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
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
                lambda images, texts: self._loss(model, batch, images, texts),
            )
        floor, chance = self.floor(model, batch), self.chance(model, batch)
        scale = float(model.log_scale.detach().exp())
        return {"loss": value, "excess_loss": value - floor, "floor": floor, "chance": chance, "scale": scale}

    def validate(self, model: Clip, batch: Batch) -> tuple[float, int]:
        """The loss above its floor, by pairs."""
        return (float(self(model, batch).detach()) - self.floor(model, batch)) * len(batch), len(batch)

    @torch.no_grad()
    def after_step(self, model: Clip) -> None:
        """Clamp InfoNCE's scale (2103.00020, section 2.5); SigLIP's, which is 117 as published, has no limit."""
        if model.bias is None:
            model.log_scale.clamp_(max=MAX_LOG_SCALE)

    def advice(self, rows: Rows) -> str | None:
        """What to try where the loss stays at `chance`: 98 % of it or more."""
        loss, floor, chance = (_mean(rows, name) for name in ("loss", "floor", "chance"))
        if loss < STUCK_SHARE * chance:
            return None
        if floor >= STUCK_SHARE * chance:
            return f"all texts or pictures of a batch are equal, so there is nothing to tell apart (loss {loss:.3f})"
        return (
            f"the loss, {loss:.3f}, is that of a model that tells nothing apart ({chance:.3f} for this batch_size); "
            "try a lower or higher train.learning_rate, a longer train.warmup, a larger train.batch_size, and check "
            "that pictures and texts belong together"
        )

    def findings(self, model: Clip, rows: Rows) -> list[str]:
        """Where loss and scale ended."""
        loss, floor = _mean(rows, "loss"), _mean(rows, "floor")
        told = [f"the training loss ended at {loss:.3f}; {_mean(rows, 'chance'):.3f} would be chance"]
        if floor > 0:
            told.append(f"the loss cannot go below {floor:.3f} here: equal texts or pictures in a batch")
        scale = float(model.log_scale.detach().exp())
        clamped = model.bias is None and float(model.log_scale.detach()) > MAX_LOG_SCALE - 0.01
        told.append(f"the scale of similarities ended at {scale:.1f}{', at its clamp' if clamped else ''}")
        advice = self.advice(rows)
        return told if advice is None else [*told, advice]

    def _loss(self, model: Clip, batch: Batch, images: Tensor, texts: Tensor) -> Tensor:
        chunk = CHUNK if len(batch) > 2 * CHUNK else None
        ids = batch.image_ids, batch.text_ids
        if model.bias is None:
            return info_nce(images, texts, model.log_scale, *ids, chunk=chunk)
        return sigmoid_pairs(images, texts, model.log_scale, model.bias, *ids, chunk=chunk)


def _mean(rows: Rows, name: str) -> float:
    values = [value for row in rows if (value := row.get(name)) is not None]
    return sum(values) / len(values)
