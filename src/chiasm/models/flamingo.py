"""Flamingo: a language model that reads pictures between its words, and learns from examples in its prompt.

Letters: b batch · l text length · t pictures · f frames · c channels · n picture tokens · m latents · d width ·
v vocabulary · r rows of a draft (queries × beams) · p length of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.models.abilities import Writer
from chiasm.models.decoder import CausalDecoder, WriterConfig
from chiasm.models.language import TextRules
from chiasm.models.vision import VisionConfig, VitConfig, build_vision
from chiasm.nn import GatedCross, KeyValueCache, KeyValues, Resampler, init_weights

Part = Literal["vision", "decoder"]


@dataclass(frozen=True, kw_only=True)
class FlamingoConfig(WriterConfig):
    """Sizes of the picture encoder, the language model, and what joins them."""

    vision: VisionConfig = field(default_factory=VitConfig)
    latents: int = 16
    """What a picture is to the language model: so many vectors (64 in the paper)."""
    resampler_depth: int = 2
    resampler_heads: int = 4
    every: int = 1
    """A gated layer stands before every so many blocks of the language model, the first one included."""
    frames: int = 1
    """The most frames of a video; a picture is a video of one."""
    frozen: tuple[Part, ...] = ()
    """Parts that stay as they are: no gradient, always in evaluation mode."""
    vision_from: str = ""
    """The trained Clip or captioner whose picture encoder a new run starts with."""
    decoder_from: str = ""
    """The trained language model that a new run starts with, and whose tokenizer it keeps."""

    def __post_init__(self) -> None:
        for name in ("latents", "resampler_depth", "resampler_heads", "every", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size

    @property
    def mark(self) -> int:
        """The id of `<image>`: one past the language model's, which cannot write it."""
        return self.decoder.vocabulary


@dataclass(kw_only=True)
class MediaDraft:
    """Texts being written and the pictures that they read, held by the caller: the model remembers nothing."""

    media: list[KeyValues]
    """Per gated layer, keys and values of each query's pictures, shared by its beams."""
    prompt: Int[Tensor, "r p"]
    """What each row says between BOS and the first token that is written."""
    beams: int
    caches: list[KeyValueCache]
    seen: Int[Tensor, " r"]
    """How many pictures each row has passed."""
    length: int = 0

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the given rows, in the given order; beams of a query stay side by side."""
        for cache in self.caches:
            cache.select(rows)
        self.seen, self.prompt = self.seen[rows], self.prompt[rows]
        queries = rows[:: self.beams] // self.beams
        self.media = [context.select(queries) for context in self.media]


class Flamingo(nn.Module, Writer):
    """Frozen or not, a picture encoder and a language model, joined by a resampler and gated layers (2204.14198).

    A sequence is BOS, then `<image>` and a text that ends in EOT, again and again; `<image>` is a vector of its own
    among the language model's. Text reads the latest picture before it alone. Differs from the paper: chunks end in
    the language model's own EOT instead of a new token.
    """

    def __init__(self, config: FlamingoConfig):
        super().__init__()
        self.config = config
        width, decoder = config.decoder.width, config.decoder
        self.decoder = CausalDecoder(decoder)
        sizes = {"mlp_ratio": decoder.mlp_ratio}
        vision = build_vision(config.vision)
        self.resampler = Resampler(
            config.latents, vision.width, config.resampler_heads, depth=config.resampler_depth, frames=config.frames
        )
        self.gated = cast(
            "Sequence[GatedCross]",
            nn.ModuleList(
                GatedCross(width, decoder.heads, context_width=vision.width, **sizes)
                for _ in range(0, decoder.depth, config.every)
            ),
        )
        self.mark = nn.Parameter(torch.randn(width) * 0.02)
        init_weights(self.resampler, config.resampler_depth)
        init_weights(cast(nn.Module, self.gated), len(self.gated))
        self.vision = vision
        for part in config.frozen:
            getattr(self, part).requires_grad_(False)

    def train(self, mode: bool = True) -> Flamingo:
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.config.frozen:
            getattr(self, part).eval()
        return self

    def encode(self, media: Float[Tensor, "b t f c height width"]) -> Float[Tensor, "b pictures m d"]:
        """What the language model reads of each picture or video; of none at all, what no token will."""
        if not media.shape[1]:  # attention wants a key, be it one that nothing reads
            media = media.new_zeros(len(media), 1, *media.shape[2:])
        b, t, f = media.shape[:3]
        tokens = self.vision(media.flatten(0, 2)).tokens
        return self.resampler(tokens.view(b, t, f, *tokens.shape[1:]))

    def forward(self, images: Float[Tensor, "b c height width"], ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` predicts the token after each of `ids`, where one picture follows BOS."""
        marks = torch.full_like(ids[:, :1], self.config.mark)
        return self.read(images[:, None, None], torch.cat([ids[:, :1], marks, ids[:, 1:]], 1))[:, 1:]

    def read(self, media: Float[Tensor, "b t f c height width"], ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """Hidden states from which `head` predicts the token after each of `ids`; ValueError for too few pictures.

        The i-th `<image>` of a row stands for the i-th of its pictures; what is left of them is not read.
        """
        seen = (ids == self.config.mark).cumsum(1)
        if not ids.is_meta and seen.numel() and int(seen.max()) > media.shape[1]:
            raise ValueError(f"a text has {int(seen.max())} <image>, and there are {media.shape[1]} pictures")
        contexts = self._project(self.encode(media))
        return self._blocks(self._embed(ids, 0), seen, contexts, [None] * self.config.decoder.depth)

    def head(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Logits of hidden states, all of them or a selection."""
        return self.decoder.head(hidden)

    @property
    def rules(self) -> TextRules:
        """The ids, and the length of a text that follows its picture and nothing else."""
        return replace(self.config.rules, context=self.config.rules.context - 1)

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> MediaDraft:
        """Each text follows its picture, and nothing else is shown: no shots."""
        mark = torch.full((len(images), 1), self.config.mark, device=images.device)
        return self.start_prompted(self.encode(images[:, None, None]), mark, beams)

    def start_prompted(self, latents: Float[Tensor, "b t m d"], prompt: Int[Tensor, "b p"], beams: int) -> MediaDraft:
        """Each text follows its prompt, in which `<image>` stands for its pictures, encoded, one after the other."""
        rows = prompt.repeat_interleave(beams, 0)
        return MediaDraft(
            media=self._project(latents),
            prompt=rows,
            beams=beams,
            caches=[KeyValueCache() for _ in self.decoder.blocks],
            seen=rows.new_zeros(len(rows)),
        )

    def step(self, ids: Int[Tensor, " r"], draft: MediaDraft) -> Float[Tensor, "r v"]:
        """Append one token to every row, and the prompt to BOS, the first of all; returns the next token's logits."""
        read = ids[:, None] if draft.length else torch.cat([ids[:, None], draft.prompt], 1)
        return self.extend(read, draft)[:, -1]

    def extend(self, ids: Int[Tensor, "r l"], draft: MediaDraft) -> Float[Tensor, "r l v"]:
        """Logits after each of the next `l` tokens of every row, which the draft then remembers."""
        seen = draft.seen[:, None] + (ids == self.config.mark).cumsum(1)
        x = self._embed(ids, draft.length)
        draft.length, draft.seen = draft.length + ids.shape[1], seen[:, -1]
        return self.head(self._blocks(x, seen, draft.media, draft.caches))

    @property
    def looks(self) -> bool:
        """Nothing is to be seen of where it looked: latents are no places."""
        return False

    @property
    def gates(self) -> dict[str, float]:
        """What each gated layer lets through: the tanh of its two gates."""
        return {
            f"gate_{number}_{name}": float(gate.detach().tanh())
            for number, layer in enumerate(self.gated)
            for name, gate in (("cross", layer.gate_cross), ("mlp", layer.gate_mlp))
        }

    def _project(self, latents: Float[Tensor, "b t m d"]) -> list[KeyValues]:
        return [layer.project(latents.flatten(1, 2)) for layer in self.gated]

    def _embed(self, ids: Int[Tensor, "r l"], start: int) -> Float[Tensor, "r l d"]:
        marks = ids == self.config.mark
        words = self.decoder.embed(ids.masked_fill(marks, self.rules.pad), start)
        positions = self.decoder.embed.positions[start : start + ids.shape[1]]
        return torch.where(marks[..., None], self.mark + positions, words)

    def _blocks(
        self,
        x: Float[Tensor, "r l d"],
        seen: Int[Tensor, "r l"],
        media: Sequence[KeyValues],
        caches: Sequence[KeyValueCache | None],
    ) -> Float[Tensor, "r l d"]:
        """The language model's blocks, with a gated layer before every so many."""
        keep = latest_picture(seen, media[0].keys.shape[2] // self.config.latents, self.config.latents)
        for number, (block, cache) in enumerate(zip(self.decoder.blocks, caches, strict=True)):
            gated, other = divmod(number, self.config.every)
            if not other:
                x = self.gated[gated](x, media[gated], keep)
            x = block(x, causal=True, cache=cache)
        return self.decoder.norm(x)


def latest_picture(seen: Int[Tensor, "r l"], pictures: int, latents: int) -> Bool[Tensor, "r l n"]:
    """True where a token that has passed `seen` pictures may read: the latents of the latest of them."""
    numbers = torch.arange(1, pictures + 1, device=seen.device).repeat_interleave(latents)
    return seen[..., None] == numbers


class FewShot(Writer):
    """A Flamingo and what it is shown before it writes: the pictures and the texts of one call, and of no other."""

    def __init__(self, model: Flamingo, latents: Float[Tensor, "b t m d"], prompt: Int[Tensor, "b p"]):
        """ValueError where the prompt, which does not hold BOS, leaves no room for a token and EOT."""
        self.model = model
        self.latents = latents
        self.prompt = prompt
        context = model.config.rules.context
        room = context - prompt.shape[1]
        if room < 3:
            raise ValueError(f"a prompt of {prompt.shape[1]} tokens leaves no room in a context of {context}")
        self._rules = replace(model.rules, context=room)

    @property
    def rules(self) -> TextRules:
        """The model's, with the length that the prompt leaves."""
        return self._rules

    def start(self, images: Float[Tensor, "b c height width"], beams: int = 1) -> MediaDraft:
        """A draft for each row of the prompt, whose pictures are known: `images` says how many and no more."""
        return self.model.start_prompted(self.latents, self.prompt, beams)

    def step(self, ids: Int[Tensor, " r"], draft: MediaDraft) -> Float[Tensor, "r v"]:
        """Append one token to every row; returns the next token's logits."""
        return self.model.step(ids, draft)
