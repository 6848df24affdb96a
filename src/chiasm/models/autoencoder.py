"""Perceiver IO as an autoencoder of any modalities: what stands at every place of each, of hidden ones too.

Letters: b batch · n places · q queries · d width · f values of a patch, or logits of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from chiasm.models.adapters import Multimodal, PatchAdapter, PositionTable, TextAdapter
from chiasm.models.inputs import ConvInput, Given, Positions
from chiasm.models.perceiver import PerceiverConfig, PerceiverEncoder, ReadConfig, build_read, depth_of
from chiasm.nn import init_weights
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class PerceiverAutoencoderConfig(PerceiverConfig):
    """A Perceiver that gives back its inputs, what was hidden of them too."""

    decoder: ReadConfig = field(default_factory=lambda: ReadConfig(residual=False))
    query_width: int = 128

    def __post_init__(self) -> None:
        if isinstance(self.inputs.picture, ConvInput):
            raise ValueError("an autoencoder gives back pixels or patches; a ConvInput has neither")


class PerceiverAutoencoder(nn.Module):
    """Queries for every place of every modality read the latents, and say what stands there (2107.14795, section 4.3).

    What is hidden is not read, be it some tokens (as 2111.06377 does it) or a whole modality: latents that know how
    modalities go together give it back from the others.
    """

    def __init__(self, config: PerceiverAutoencoderConfig):
        super().__init__()
        self.config = config
        self.input = Multimodal(config.inputs)
        self.encoder = PerceiverEncoder(config.latents, self.input.width)
        width = config.query_width
        self.queries, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for name, adapter in self.input.adapters.items():
            if isinstance(adapter, PatchAdapter):
                self.queries[name] = PlaceQueries(adapter.patches.grid, width)
                self.heads[name] = nn.Linear(width, adapter.patches.values)
            elif isinstance(adapter, TextAdapter):
                self.queries[name] = TableQueries(len(adapter.embed.positions), width)
                self.heads[name] = nn.Linear(width, config.vocabulary)
        self.decoder = build_read(config.decoder, width, config.latents.width)
        init_weights(self, depth_of(config))

    def forward(
        self, values: Mapping[str, Given], hidden: Mapping[str, Bool[Tensor, "b _"]] | None = None
    ) -> dict[str, Float[Tensor, "b _ _"]]:
        """For each given modality, what stands at every place: values, or logits; `hidden` places are not read."""
        latents = self.encoder(self.input(values, hidden))
        lengths = {name: self.places(name, values[name]) for name in self.queries if name in values}
        asked = torch.cat([self.queries[name]()[:n] for name, n in lengths.items()])
        answers = self.decoder(asked.expand(len(latents.tokens), -1, -1), latents).split(list(lengths.values()), 1)
        return {name: self.heads[name](answer) for name, answer in zip(lengths, answers, strict=True)}

    def targets(self, name: str, values: Given) -> Encoded:
        """What stands at every place of a modality that is not text, and which places are real."""
        return cast(PatchAdapter, self.input.adapters[name]).patches(*values)

    def places(self, name: str, values: Given) -> int:
        """How many places a modality has in this batch."""
        return values.values.shape[1] if name == "text" else self.targets(name, values).tokens.shape[1]


class PlaceQueries(nn.Module):
    """A query for each place of a grid: its Fourier features, projected; the bias tells the modality.

    With these a Perceiver answers densely, place by place, whatever is asked: colours, classes, flow (2107.14795, 3.2).
    """

    def __init__(self, grid: tuple[int, ...], width: int, bands: int = 16):
        super().__init__()
        self.places = PositionTable(Positions(bands=bands), grid)
        self.project = nn.Linear(self.places.channels, width)

    def forward(self) -> Float[Tensor, "q d"]:
        """All queries, in the order of the grid."""
        return self.project(self.places(self.project.weight.device).to(self.project.weight.dtype))


class TableQueries(nn.Module):
    """A learned query for each place."""

    def __init__(self, places: int, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(places, width) * 0.02)

    def forward(self) -> Float[Tensor, "q d"]:
        """All queries, in order."""
        return self.table
