"""Texts side by side in fewer rows, so that little is computed for pads.

Letters: b texts · l the longest of them · r rows that hold them, each of l places · d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

WORTH = 0.75
"""Share of the rows that must be left at most: else packing costs what it saves."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Where each token of some texts lies among fewer rows; no text reads another (2107.02027)."""

    positions: Int[Tensor, "r l"]
    """Which token of its text lies here, counted from 0; 0 where none does."""
    keep: Bool[Tensor, "r l l"]
    """True where a place may read another: both hold the same text, or neither any."""
    places: Int[Tensor, "b l"]
    """Where each token lies, counted through all rows; anywhere for pads."""

    def pack(self, ids: Int[Tensor, "b l"], real: Bool[Tensor, "b l"], pad: int) -> Int[Tensor, "r l"]:
        """The ids as they lie there."""
        packed = ids.new_full((self.positions.numel(),), pad)
        packed[self.places[real]] = ids[real]
        return packed.view_as(self.positions)

    def unpack(self, x: Float[Tensor, "r l d"], real: Bool[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """A row per text again, zeros at its pads."""
        return x.flatten(0, 1)[self.places].masked_fill(~real[..., None], 0.0)


def packing(real: Bool[Tensor, "b l"]) -> Packed | None:
    """How to pack texts of which these tokens are real, all pads on the right; None where it is not worth it.

    Long texts come first, each into the row with the least room that has enough.
    """
    b, l = real.shape
    lengths = real.sum(1)
    if b == 0 or float(lengths.sum()) > WORTH * b * l:
        return None
    rows, starts = _fitted(lengths.cpu().numpy(), l)
    used = int(rows.max()) + 1
    if used > WORTH * b:
        return None
    within = torch.arange(l, device=real.device)
    places = torch.from_numpy(rows * l + starts).to(real.device)[:, None] + within
    places = places.masked_fill(~real, 0)
    texts, positions = (torch.full((used * l,), fill, device=real.device) for fill in (-1, 0))
    texts[places[real]] = torch.arange(b, device=real.device)[:, None].expand(b, l)[real]
    positions[places[real]] = within.expand(b, l)[real]
    texts = texts.view(used, l)
    same = texts[:, :, None] == texts[:, None, :]
    return Packed(positions=positions.view(used, l), keep=same, places=places)


def _fitted(lengths: Int[np.ndarray, " b"], room: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """The row of each text, and the place at which it starts."""
    rows, starts = np.empty_like(lengths), np.empty_like(lengths)
    by_space: list[list[int]] = [[] for _ in range(room + 1)]
    used = 0
    for text in np.argsort(-lengths, kind="stable"):
        length = int(lengths[text])
        space = next((space for space in range(length, room + 1) if by_space[space]), None)
        if space is None:
            space, row, used = room, used, used + 1
        else:
            row = by_space[space].pop()
        rows[text], starts[text] = row, room - space
        by_space[space - length].append(row)
    return rows, starts


__all__ = ["Packed", "packing"]
