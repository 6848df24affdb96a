"""Writing by a step whose tensors never move, which a GPU replays as one CUDA graph and torch.compile can compile.

Letters: r rows (pictures × beams) · p pictures · d width · v vocabulary · h heads · k width of a head · n tokens of
context · s slots of a cache, for the prefix and for as many words as there is room for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.abilities import Writer
from chiasm.models.captioner import Captioner
from chiasm.models.coca import Coca
from chiasm.models.decoder import CausalDecoder, Draft
from chiasm.models.language import TextRules
from chiasm.models.lm import LanguageModel
from chiasm.nn import KeyValues, StaticCache

GRAPHED = Captioner, Coca, LanguageModel
"""The models that can write so: their steps depend on no number but how many words there are."""
KEPT = 4
"""So many steps, each of its own number of rows, are kept for later texts."""
WARM_UPS = 3
"""What CUDA wants to have run before it records."""
ALIGNED = 8
"""Slots come in such numbers, for the sake of the kernels that read a mask."""


class Graphed(Writer["GraphedDraft"]):
    """A model that writes as it would alone, each step one recording: a GPU is told all of a step at once.

    Steps are recorded when texts of a new shape (pictures, beams, tokens of a picture) are begun, and used again.
    Rows that leave are computed on unseen, since a GPU takes about as long for fewer. With `compile`, kernels are
    made by torch.compile, at the first step. On a CPU nothing is recorded. The weights must not change any more.
    """

    def __init__(self, model: Captioner | Coca | LanguageModel, *, compile: bool = False):
        self.model = model
        self.compile = compile
        self._idle: list[Step] = []

    @property
    def rules(self) -> TextRules:
        """The model's."""
        return self.model.rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> GraphedDraft:
        """The model's draft, its keys and values copied to where the step reads them."""
        draft, rows = self.model.start(images, beams), len(images) * beams
        step = self._step(draft, rows)
        graphed = GraphedDraft(step=step, rows=rows, beams=beams)
        weakref.finalize(graphed, _give_back, self._idle, step).atexit = False
        return graphed

    def step(self, ids: Int[Tensor, " r"], draft: GraphedDraft) -> Float[Tensor, "r v"]:
        """Append one token to every row; returns the next token's logits, which the next step overwrites."""
        return draft.extend(ids)

    def _step(self, draft: Draft, rows: int) -> Step:
        """One that nobody writes with, or a new one, with what the draft has read."""
        for step in list(self._idle):
            if step.fits(draft, rows):
                try:
                    self._idle.remove(step)
                except ValueError:  # another thread has taken it
                    continue
                step.load(draft)
                return step
        return Step(self.model.decoder, draft, rows, compile=self.compile)


@dataclass(kw_only=True, eq=False)
class GraphedDraft:
    """Texts being written in the first `rows` rows of a step."""

    step: Step
    rows: int
    beams: int

    def extend(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r v"]:
        """Logits after one more token of every row."""
        return self.step(ids)[: self.rows]

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows, in the given order, whole pictures together."""
        self.step.select(rows, self.beams)
        self.rows = len(rows)


class Step:
    """One more token for so many rows, computed on tensors that stay where they are."""

    @torch.inference_mode(False)  # so that they can be written to in every mode
    @torch.no_grad()
    def __init__(self, decoder: CausalDecoder, draft: Draft, rows: int, *, compile: bool):
        self.decoder, self.blocks = decoder, draft.steps
        self.context, config = decoder.config.rules.context, decoder.config
        weight = decoder.embed.positions
        self.prefix = draft.caches[0].length
        slots = -(-(self.prefix + self.context) // ALIGNED) * ALIGNED
        shape = config.depth, 2, rows, config.heads, slots, config.width // config.heads
        self.buffer = weight.new_zeros(shape)  # zeros: what is masked is still multiplied, by 0
        self.mask = weight.new_zeros(1, 1, 1, slots)
        self.ids = torch.zeros(rows, dtype=torch.long, device=weight.device)
        self.slot = torch.zeros(1, dtype=torch.long, device=weight.device)
        self.caches = [StaticCache(part, self.slot) for part in self.buffer]
        self.contexts = [c and KeyValues(*(t.clone(memory_format=torch.contiguous_format) for t in c))
                         for c in draft.contexts]  # fmt: skip
        self.logits = weight.new_zeros(rows, config.vocabulary)
        compute = torch.compile(self._compute, dynamic=False) if compile else self._compute
        self.load(draft)
        self._run = self._recorded(compute) if weight.device.type == "cuda" else compute

    def fits(self, draft: Draft, rows: int) -> bool:
        """Whether the draft has these shapes."""
        shapes = [c and c.keys.shape for c in draft.contexts]
        mine = [c and c.keys.shape for c in self.contexts]
        return len(self.ids) == rows and self.prefix == draft.caches[0].length and mine == shapes

    @torch.no_grad()
    def load(self, draft: Draft) -> None:
        """Begin anew with the prefix and the context of a draft."""
        assert draft.context_keep is None and draft.prefix_keep is None  # of whole pictures all is read
        for cache, seen in zip(self.caches, draft.caches, strict=True):
            if self.prefix:
                cache.buffer[:, :, :, : self.prefix].copy_(seen.seen)
        for mine, new in zip(self.contexts, draft.contexts, strict=True):
            if mine is not None and new is not None:
                mine.keys.copy_(new.keys)
                mine.values.copy_(new.values)
        self._begin()

    @torch.no_grad()
    def __call__(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "rows v"]:
        """Logits of all rows after the next token, which is given for the first ones; ValueError beyond the context."""
        if self.words == self.context:
            raise ValueError(f"a text of {self.words + 1} tokens does not fit a context of {self.context}")
        self.words += 1
        self.ids[: len(ids)].copy_(ids)
        self._run()
        return self.logits

    @torch.no_grad()
    def select(self, rows: Int[Tensor, " r"], beams: int) -> None:
        """Put the given rows first, in the given order, whole pictures together."""
        seen = self.buffer[:, :, :, :, : self.prefix + self.words]
        seen[:, :, : len(rows)] = seen.index_select(2, rows)
        pictures = rows[::beams] // beams
        if torch.equal(pictures, torch.arange(len(pictures), device=rows.device)):
            return
        for context in self.contexts:
            for part in context or ():
                part[: len(pictures)] = part.index_select(0, pictures)

    def _begin(self) -> None:
        self.words = 0
        self.slot.fill_(self.prefix)
        self.mask.fill_(-torch.inf)
        self.mask[..., : self.prefix] = 0.0

    def _compute(self) -> None:
        """The step itself; nothing in it but what tensors hold differs from one step to the next."""
        self.mask.index_fill_(3, self.slot, 0.0)
        positions = (self.slot - self.prefix).expand(len(self.ids), 1)
        x = self.decoder.embed(self.ids[:, None], positions=positions)[:, 0]
        for block, cache, context in zip(self.blocks, self.caches, self.contexts, strict=True):
            x = block(x, cache, context, self.mask)
        self.logits.copy_(self.decoder.head(self.decoder.norm(x)))
        self.slot.add_(1)

    def _recorded(self, compute: Callable[[], None]) -> Callable[[], None]:
        """The same as a CUDA graph."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._begin()
                compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._begin()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may be at work on the GPU
            compute()
        return graph.replay


def _give_back(idle: list[Step], step: Step) -> None:
    idle.append(step)
    del idle[:-KEPT]
