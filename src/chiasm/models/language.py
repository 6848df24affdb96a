"""What texts keep to in every model, and the encoder of whole texts.

Letters: b batch · l text length · d width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.nn import (
    Activation,
    Block,
    TokenEmbed,
    init_weights,
    packing,
)
from chiasm.text import Tokenizer
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """What a model takes for granted about its texts: reserved ids, and the most tokens, BOS and EOT counted."""

    pad: int = 0
    bos: int | None = 1
    """What every text begins with; None where that is its first word, as in SigLIP."""
    eot: int = 2
    unk: int | None = None
    """What stands for unknown words, and is never written; None where every text is known."""
    context: int = 32

    @property
    def unwritten(self) -> list[int]:
        """The ids that no generated text holds."""
        return [i for i in (self.pad, self.bos, self.unk) if i is not None and i != self.eot]

    @property
    def start(self) -> int:
        """The id from which a text is written on; ValueError where texts begin with a word."""
        if self.bos is None:
            raise ValueError("texts without BOS have nothing from which they could be written on")
        return self.bos

    @classmethod
    def of(cls, tokenizer: Tokenizer, context: int) -> TextRules:
        """The rules of a tokenizer's texts."""
        ids = {name: getattr(tokenizer, name) for name in ("pad", "bos", "eot", "unk")}
        return cls(**ids, context=context)

    def __post_init__(self) -> None:
        # Published tokenizers pad with EOT, or begin with it too, as GPT-2's; all else would be ambiguous.
        begins_with_pad = self.pad == self.bos and self.bos != self.eot
        if begins_with_pad or (self.unk is not None and self.unk in (self.pad, self.bos, self.eot)):
            raise ValueError(f"pad {self.pad}, bos {self.bos}, eot {self.eot} and unk {self.unk} must differ")
        if self.context < 3:
            raise ValueError(f"context {self.context} leaves no room for a word between BOS and EOT")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of a text encoder; `vocabulary` is completed by the tokenizer."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    rules: TextRules = field(default_factory=TextRules)
    vocabulary: int = 0
    causal: bool = True
    """Each token reads only what precedes it, as in CLIP; otherwise the whole text."""
    pool: Literal["eot", "mean", "last"] = "eot"
    """last: at the last place of the context, pads being read like words, as SigLIP was trained."""
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    activation: Activation = "gelu"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.rules.bos == self.rules.eot:
            raise ValueError(f"bos and eot are both {self.rules.eot}: the end of such a text cannot be found")


class TextEncoder(nn.Module):
    """CLIP's text transformer (2103.00020, section 2.4): tokens, positions, pre-norm blocks, one vector per text.

    Differs from the paper where asked: it can read both ways, and pool by the mean over real tokens.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        self.embed = TokenEmbed(config.vocabulary, config.rules.context, config.width)
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                dropout=config.dropout,
                activation=config.activation,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        init_weights(self, config.depth)

    def forward(self, ids: Int[Tensor, "b l"]) -> Encoded:
        """Tokens, and as `pooled` the vector at EOT, the mean, or the last; ValueError for a text without EOT.

        What stands right of the first EOT is padding, whatever its id: of a causal encoder no real token sees it.
        Texts of unlike lengths are computed side by side in fewer rows; then the tokens at pads are zeros.
        """
        ends = ids == self.config.rules.eot
        if not ids.is_meta and not bool(ends.any(1).all()):
            raise ValueError(f"a text has no EOT (id {self.config.rules.eot}), at which it ends")
        places = ends.int().argmax(1)
        keep = torch.arange(ids.shape[1], device=ids.device) <= places[:, None]
        if self.config.pool == "last":
            ids, keep = self._filled(ids, keep)
        packed = None if ids.is_meta else packing(keep)
        if packed is None:
            x = self._read(self.embed(ids), None if self.config.causal else keep)
        else:
            x = self.embed(packed.pack(ids, keep, self.config.rules.pad), positions=packed.positions)
            x = packed.unpack(self._read(x, packed.keep), keep)
        if self.config.pool == "last":
            return Encoded(tokens=x, keep=keep, pooled=x[:, -1])
        if self.config.pool == "mean":
            return Encoded(tokens=x, keep=keep, pooled=Encoded(tokens=x, keep=keep).mean())
        return Encoded(tokens=x, keep=keep, pooled=x[torch.arange(len(x), device=x.device), places])

    def _read(
        self, x: Float[Tensor, "r l d"], keep: Bool[Tensor, "r l"] | Bool[Tensor, "r l l"] | None
    ) -> Float[Tensor, "r l d"]:
        for block in self.blocks:
            x = block(x, keep=keep, causal=self.config.causal)
        return self.norm(x)

    def _filled(
        self, ids: Int[Tensor, "b l"], keep: Bool[Tensor, "b l"]
    ) -> tuple[Int[Tensor, "b context"], Bool[Tensor, "b context"]]:
        """Every text up to the whole context, with pads that count as words."""
        pad, room = self.config.rules.pad, max(0, self.config.rules.context - ids.shape[1])
        ids = F.pad(ids.masked_fill(~keep, pad), (0, room), value=pad)
        return ids, torch.ones_like(ids, dtype=torch.bool)
