"""The causal decoder, which may read a context or go on from a prefix.

Letters: b batch · l text length · n tokens of context or prefix · d width · v vocabulary · r rows of a draft
(contexts × beams).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.models.language import TextRules
from chiasm.nn import (
    Activation,
    Block,
    BlockStep,
    KeyValueCache,
    KeyValues,
    TokenEmbed,
    causal_keep,
    init_weights,
    packing,
    prefix_causal_keep,
)
from chiasm.types import Encoded

W = TypeVar("W", bound="WriterConfig")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a causal decoder; `vocabulary` is completed by the tokenizer."""

    width: int = 256
    depth: int = 4
    heads: int = 4
    rules: TextRules = field(default_factory=TextRules)
    vocabulary: int = 0
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    unimodal_depth: int = 0
    """How many of the first blocks read no context but the words, as in CoCa (2205.01917)."""

    def __post_init__(self) -> None:
        if not 0 <= self.unimodal_depth <= self.depth:
            raise ValueError(f"of {self.depth} blocks, {self.unimodal_depth} cannot read words alone")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.rules.bos is None:
            raise ValueError("a decoder needs BOS to start from")


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """What the configurations of all models that write with a decoder have in common."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to; for interleaved sequences, that of a whole one."""
        return self.decoder.rules

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return self.decoder.vocabulary

    @property
    def classes(self) -> None:
        """None: it knows no classes."""

    def completed(self: W, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> W:
        """With what the tokenizer knows."""
        rules = replace(self.rules, unk=unk)
        return replace(self, decoder=replace(self.decoder, vocabulary=vocabulary, rules=rules))


@dataclass(kw_only=True)
class Draft:
    """Texts being written: what the decoder remembers of them between two steps, held by the caller."""

    contexts: list[KeyValues | None]
    """Per layer, what cross-attention reads (None: nothing): one row per picture, shared by its beams."""
    context_keep: Bool[Tensor, "pictures n"] | None
    prefix_keep: Bool[Tensor, "r n"] | None
    beams: int
    caches: list[KeyValueCache]
    """Per layer, keys and values of the prefix and of the `length` tokens so far."""
    steps: list[BlockStep]
    rows: int | None = None
    """How many there are; None before the first step of a draft without a context or a prefix."""
    ancestry: Bool[Tensor, "pictures beams s"] | None = None
    """Which of all tokens that a picture's beams have read lie on the way to each of its beams.

    None while every row has gone on from itself. From its first change on, the beams of a picture share their caches,
    and none of the keys and values is ever copied again when beams go on from others.
    """
    length: int = 0

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows, in the given order; beams of a picture stay side by side."""
        places = rows.view(-1, self.beams)
        pictures, within = places[:, 0] // self.beams, places % self.beams
        assert self.rows is not None
        if self.ancestry is None and not torch.equal(within, _numbers(self.beams, rows).expand_as(within)):
            self._share(self.rows // self.beams, rows.device)
        if self.ancestry is not None:
            self.ancestry = self.ancestry[pictures[:, None], within]
        if len(rows) == self.rows and torch.equal(pictures, _numbers(len(pictures), rows)):
            return
        self.rows = len(rows)
        for cache in self.caches:
            cache.select(rows if self.ancestry is None else pictures)
        if self.prefix_keep is not None:
            self.prefix_keep = self.prefix_keep[rows]
        self.contexts = [context and context.select(pictures) for context in self.contexts]
        if self.context_keep is not None:
            self.context_keep = self.context_keep[pictures]

    def extend(self, tokens: int) -> Bool[Tensor, "r n"] | Bool[Tensor, "pictures q n"] | None:
        """Go on by so many tokens; returns what each of them may read, itself included (None: all that is before it).

        With an ancestry, the q = beams × tokens of a picture are queries side by side, and their order is in it.
        """
        self.length += tokens
        if self.ancestry is None:
            return None if self.prefix_keep is None else F.pad(self.prefix_keep, (0, self.length), value=True)
        itself = torch.eye(self.beams, dtype=torch.bool, device=self.ancestry.device)
        before, pictures = self.ancestry.repeat_interleave(tokens, 1), len(self.ancestry)
        new = torch.kron(itself, causal_keep(tokens, tokens, itself.device))
        own = itself.repeat_interleave(tokens, 1)
        self.ancestry = torch.cat([self.ancestry, own.expand(pictures, -1, -1)], 2)
        return self.ancestry if tokens == 1 else torch.cat([before, new.expand(pictures, -1, -1)], 2)

    def _share(self, pictures: int, device: torch.device) -> None:
        """From now on the beams of a picture are queries to the same keys, told apart by their ancestry."""
        itself = torch.eye(self.beams, dtype=torch.bool, device=device)
        seen = self.caches[0].length
        self.ancestry = itself.repeat_interleave(seen, 1).expand(pictures, -1, -1)
        if self.prefix_keep is not None:
            prefix = F.pad(self.prefix_keep, (0, self.length), value=True).view(pictures, 1, -1)
            self.ancestry, self.prefix_keep = self.ancestry & prefix, None
        for cache in self.caches:
            cache.share(self.beams)


class CausalDecoder(nn.Module):
    """A GPT-2-like decoder, which may read more than the words before, in one of two ways.

    With a `context_width`, its blocks (but the first `unimodal_depth`) also read a context of that width by
    cross-attention (1706.03762, section 3.1).
    Without, it is a language model; given a prefix, vectors that stand in front of the words, it is a prefix language
    model (1910.10683, section 3.2.1): the prefix's tokens read each other in both directions. Positions are counted
    from the first word on. The output layer is the token table, transposed (1608.05859).
    """

    def __init__(self, config: DecoderConfig, context_width: int | None = None):
        super().__init__()
        self.config = config
        self.embed = TokenEmbed(config.vocabulary, config.rules.context, config.width)
        self.blocks = cast(
            "Sequence[Block]",
            nn.ModuleList(
                Block(
                    config.width,
                    config.heads,
                    context_width=context_width if number >= config.unimodal_depth else None,
                    mlp_ratio=config.mlp_ratio,
                    dropout=config.dropout,
                    activation=config.activation,
                    norm_eps=config.norm_eps,
                )
                for number in range(config.depth)
            ),
        )
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        init_weights(self, config.depth)
        self.head.weight = self.embed.tokens.weight

    def forward(
        self,
        ids: Int[Tensor, "b l"],
        context: Encoded | None = None,
        prefix: Encoded | None = None,
        real: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The last hidden state of every word; `head` turns those that are wanted into logits.

        Pads stand right of the text, so a causal mask alone hides them from every real token. Told which are `real`, a
        language model computes texts of unlike lengths side by side in fewer rows; then those of pads are zeros.
        """
        alone = context is None and prefix is None and not ids.is_meta
        packed = packing(real) if alone and real is not None else None
        if packed is not None and real is not None:
            x = self.embed(packed.pack(ids, real, self.config.rules.pad), positions=packed.positions)
            for block in self.blocks:
                x = block(x, keep=packed.keep, causal=True)
            return packed.unpack(self.norm(x), real)
        x, keep = self._sequence(ids, prefix)
        for block in self.blocks:
            x = block(x, keep=keep, causal=keep is None, **_read(block, context))
        return self.norm(x[:, -ids.shape[1] :])

    def start(self, context: Encoded | None = None, beams: int = 1, prefix: Encoded | None = None) -> Draft:
        """An empty draft; the keys and values of the context or of the prefix are computed here, once.

        Without either, the first step says how many rows there are.
        """
        draft = Draft(
            contexts=[_read(block, context).get("context") for block in self.blocks],
            context_keep=None if context is None else context.keep,
            prefix_keep=None,
            beams=beams,
            caches=[KeyValueCache() for _ in self.blocks],
            steps=[BlockStep(block) for block in self.blocks],
            rows=None if context is None else beams * len(context.tokens),
        )
        if prefix is not None:
            self._prefill(draft, prefix)
        return draft

    def step(self, ids: Int[Tensor, "r l"], draft: Draft) -> Float[Tensor, "r l v"]:
        """Logits after each of the next `l` tokens of every row, which the draft then remembers."""
        x = self.embed(ids, draft.length)
        r, l, d = x.shape
        draft.rows, keep = r, draft.extend(l)
        shared = draft.ancestry is not None
        if l == 1 and draft.context_keep is None and (keep is None or shared) and not self.training:
            row, mask = x[:, 0], None
            if keep is not None:
                mask = row.new_zeros(()).masked_fill(~keep[:, None], -torch.inf)
            for step, cache, context in zip(draft.steps, draft.caches, draft.contexts, strict=True):
                row = step(row, cache, context, mask)
            return self.head(self.norm(row))[:, None]
        if shared:
            x = x.view(r // draft.beams, -1, d)
        for block, cache, context in zip(self.blocks, draft.caches, draft.contexts, strict=True):
            x = block(x, keep=keep, causal=not shared, cache=cache, context=context, context_keep=draft.context_keep)
        return self.head(self.norm(x)).view(r, l, -1)

    def attention_maps(
        self, ids: Int[Tensor, "b l"], context: Encoded | None = None, prefix: Encoded | None = None
    ) -> Float[Tensor, "b layers h l n"]:
        """Where each word looks in the context, or else in the prefix, for every head of every layer that reads it.

        Shares of a context sum to 1; those of a prefix to less, as the words before are read by the same attention.
        """
        (x, keep), maps = self._sequence(ids, prefix), []
        for block in self.blocks:
            read = _read(block, context)
            if read:
                maps.append(block.cross_weights(x, read["context"], read["context_keep"]))
            elif context is None:
                maps.append(
                    block.self_weights(x, keep=keep, causal=keep is None)[:, :, -ids.shape[1] :, : -ids.shape[1]]
                )
            x = block(x, keep=keep, causal=keep is None, **read)
        return torch.stack(maps, 1)

    def _sequence(
        self, ids: Int[Tensor, "b l"], prefix: Encoded | None
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n n"] | None]:
        """The words behind their prefix, and which of them each may read; None is a plain causal mask."""
        words = self.embed(ids)
        if prefix is None:
            return words, None
        keep = prefix_causal_keep(prefix.tokens.shape[1], ids.shape[1], ids.device).expand(len(ids), -1, -1)
        if prefix.keep is not None:
            keep = keep & F.pad(prefix.keep, (0, ids.shape[1]), value=True)[:, None]
        return torch.cat([prefix.tokens, words], 1), keep

    def _prefill(self, draft: Draft, prefix: Encoded) -> None:
        """Read the prefix once, and give each of its beams a copy of the keys and values."""
        x = prefix.tokens
        for block, cache in zip(self.blocks, draft.caches, strict=True):
            x = block(x, keep=prefix.keep, cache=cache)
        draft.prefix_keep, draft.rows = prefix.keep, len(x) * draft.beams
        if draft.beams > 1:
            rows = torch.arange(len(x), device=x.device).repeat_interleave(draft.beams)
            for cache in draft.caches:
                cache.select(rows)
            if prefix.keep is not None:
                draft.prefix_keep = prefix.keep[rows]


def _numbers(count: int, like: Tensor) -> Int[Tensor, " n"]:
    return torch.arange(count, device=like.device)


def _read(block: Block, context: Encoded | None) -> dict[str, Any]:
    """What a block is told of its context."""
    if context is None or not block.reads_context:
        return {}
    return {"context": block.project(context.tokens), "context_keep": context.keep}
