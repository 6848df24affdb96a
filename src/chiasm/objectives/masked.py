"""Say which tokens stand in the gaps of a text."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from chiasm.losses import cross_entropy
from chiasm.models import PerceiverMlm
from chiasm.objectives.base import Objective, Rows, mean_of
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class MaskedText(Objective):
    """Masked language modelling (1810.04805, section 3.1): cross-entropy over the tokens of the gaps.

    Differs from the paper: every chosen token is masked, none stays or becomes another, since what is masked looks like
    no token. Neither BOS nor EOT is. In training gaps are drawn from torch's global generator, which is a function of
    seed and step; in validation they are a function of the texts' keys. Every text has at least one gap.
    """

    share: float = 0.15
    unit: ClassVar[str] = "loss per masked token, nats"
    columns: ClassVar[tuple[str, ...]] = ("accuracy",)

    def gaps(self, model: PerceiverMlm, batch: Batch, generator: torch.Generator | None = None) -> Bool[Tensor, "b l"]:
        """Which tokens are masked."""
        rules = model.config.text.rules
        free = batch.keep & (batch.ids != rules.eot) & (batch.ids != (-1 if rules.bos is None else rules.bos))
        drawn = torch.rand(batch.ids.shape, generator=generator).to(batch.ids.device).masked_fill(~free, 2.0)
        return free & ((drawn < self.share) | (drawn == drawn.amin(1, keepdim=True)))

    def __call__(self, model: PerceiverMlm, batch: Batch, gaps: Bool[Tensor, "b l"]) -> dict[str, Tensor]:
        """`loss` in nats, and how many are `right`, summed over the gaps."""
        hidden = model(batch.ids, batch.keep, gaps)[gaps]
        logits, wanted = model.head(hidden), batch.ids[gaps]
        loss, _ = cross_entropy(logits, wanted, 0.0)
        return {"loss": loss, "right": (logits.argmax(-1) == wanted).sum()}

    def backward(
        self, model: PerceiverMlm, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the mean over the gaps of the whole batch."""
        gaps = self.gaps(model, batch)
        count, rows = max(1, int(gaps.sum())), math.ceil(len(batch) / parts)
        sums = {"loss": 0.0, "accuracy": 0.0}
        for part, own in zip(batch.split(rows), gaps.split(rows), strict=True):
            losses = self(model, part, own)
            backward(losses["loss"] / count)
            for name, value in zip(sums, losses.values(), strict=True):
                sums[name] += float(value.detach()) / count
        return sums

    def plain(self, model: PerceiverMlm, batch: Batch) -> Tensor:
        """Every token is a gap."""
        return -model.head(model(batch.ids, batch.keep, batch.keep)).float().log_softmax(-1)[..., 0].sum()

    def validate(self, model: PerceiverMlm, batch: Batch) -> tuple[float, int]:
        """The loss, by gaps that are the same whenever it is asked."""
        gaps = self.gaps(model, batch, keyed_generator(batch))
        return float(self(model, batch, gaps)["loss"].detach()), int(gaps.sum())

    def ending(self, model: PerceiverMlm, rows: Rows) -> list[str]:
        """Where loss and accuracy ended."""
        right = 100 * mean_of(rows, "accuracy")
        return [f"the training loss ended at {mean_of(rows, 'loss'):.3f}; {right:.1f} % of the last gaps were right"]


def keyed_generator(batch: Batch) -> torch.Generator:
    """Random numbers that are a function of a batch's keys."""
    return torch.Generator().manual_seed(zlib.crc32("\n".join(batch.keys).encode()))


__all__ = ["MaskedText", "keyed_generator"]
