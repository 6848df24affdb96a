"""Give back what was hidden of pictures, sounds and texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from chiasm.losses import cross_entropy
from chiasm.models import PerceiverAutoencoder
from chiasm.models.adapters import all_kept
from chiasm.models.inputs import Given, given
from chiasm.objectives.base import Objective, Rows, mean_of
from chiasm.objectives.masked import keyed_generator
from chiasm.types import Batch

Hidden = dict[str, Bool[Tensor, "b _"]]


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Objective):
    """Masked reconstruction of any modalities (2107.14795, section 4.3; hidden as in 2111.06377).

    Of each modality a `share` of the places is hidden, and of an example with several now and then (`whole`) one of
    them altogether. Errors are mean squares of values, of texts nats, over hidden places; the loss is their sum over
    modalities. In training the choice is from torch's global generator, in validation a function of the keys.
    """

    share: float = 0.5
    whole: float = 0.3
    unit: ClassVar[str] = "error of what is hidden (mean square, of texts nats)"
    columns: ClassVar[tuple[str, ...]] = ("picture_loss", "text_loss", "sound_loss")

    def hidden(self, model: PerceiverAutoencoder, batch: Batch, generator: torch.Generator | None = None) -> Hidden:
        """Which places of each modality are hidden; what is padding counts as not hidden."""
        there = places(model, batch)
        b, device = len(batch), batch.ids.device
        whole = torch.rand(b, generator=generator) < self.whole
        chosen = torch.randint(len(there), (b,), generator=generator)
        found = {}
        for i, (name, kept) in enumerate(there.items()):
            hide = torch.rand(kept.shape, generator=generator) < self.share
            if len(there) > 1:
                hide = hide | (whole & (chosen == i))[:, None]
            found[name] = hide.to(device) & kept
        return found

    def __call__(self, model: PerceiverAutoencoder, batch: Batch, hidden: Hidden) -> dict[str, Float[Tensor, ""]]:
        """For each modality the error, summed over hidden places."""
        values = given(batch, model.config.inputs)
        answers = model(values, hidden)
        return {name: _error(model, name, answers[name][hide], values[name], hide) for name, hide in hidden.items()}

    def backward(
        self, model: PerceiverAutoencoder, batch: Batch, parts: int, backward: Callable[[Tensor], None]
    ) -> dict[str, float]:
        """Gradient of the sum of the modalities' means over the whole batch."""
        hidden, rows = self.hidden(model, batch), math.ceil(len(batch) / parts)
        counts = {name: max(1, int(hide.sum())) for name, hide in hidden.items()}
        sums = dict.fromkeys(counts, 0.0)
        for i, part in enumerate(batch.split(rows)):
            own = {name: hide[i * rows : (i + 1) * rows] for name, hide in hidden.items()}
            means = {name: error / counts[name] for name, error in self(model, part, own).items()}
            backward(torch.stack(list(means.values())).sum())
            for name, mean in means.items():
                sums[name] += float(mean.detach())
        return {"loss": sum(sums.values())} | {f"{name}_loss": value for name, value in sums.items()}

    def plain(self, model: PerceiverAutoencoder, batch: Batch) -> Tensor:
        """Nothing is hidden, and what is given back is to be small."""
        answers = model(given(batch, model.config.inputs))
        return torch.stack([answer.float().square().mean() for answer in answers.values()]).sum()

    def validate(self, model: PerceiverAutoencoder, batch: Batch) -> tuple[float, int]:
        """The sum of the modalities' means, by examples."""
        hidden = self.hidden(model, batch, keyed_generator(batch))
        errors = self(model, batch, hidden)
        return sum(float(e.detach()) / max(1, int(hidden[n].sum())) for n, e in errors.items()) * len(batch), len(batch)

    def ending(self, model: PerceiverAutoencoder, rows: Rows) -> list[str]:
        """Where each modality's error ended."""
        names = [
            name for name in model.config.inputs.named() if any(row.get(f"{name}_loss") is not None for row in rows)
        ]
        told = ", ".join(f"{mean_of(rows, f'{name}_loss'):.4f} of {name}" for name in names)
        return [f"the errors of what was hidden ended at {told} (mean square, of text nats)"]


def places(model: PerceiverAutoencoder, batch: Batch) -> Hidden:
    """For each modality of the batch, which places are real."""
    found = {}
    for name, values in given(batch, model.config.inputs).items():
        found[name] = batch.keep if name == "text" else all_kept(model.targets(name, values))
    return found


def _error(
    model: PerceiverAutoencoder, name: str, answers: Float[Tensor, "hidden f"], values: Given, hide: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    if name == "text":
        return cross_entropy(answers, values.values[hide], 0.0)[0]
    wanted = model.targets(name, values).tokens[hide]
    return (answers.float() - wanted.float()).square().mean(-1).sum()


__all__ = ["Reconstruction", "places"]
