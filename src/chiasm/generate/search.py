"""Greedy writing and sampling, token by token; `generate` gathers what `stream` yields.

Letters: b pictures · r rows (pictures × captions) · t tokens written so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.generate.beam import beam_search
from chiasm.generate.sampling import GenerateConfig, filter_logits, forbid
from chiasm.generate.written import Written
from chiasm.models import Writer


@dataclass(frozen=True)
class Token:
    """One token of one caption, as it is written; the end (EOT) is a token too."""

    picture: int
    caption: int
    id: int
    log_prob: float


@torch.no_grad()
def generate(writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig) -> list[list[Written]]:
    """For each picture, `config.captions` texts, best first.

    Log-probabilities are the model's own over the tokens that may come next, before temperature and filters.
    """
    if config.mode == "beam" and config.beams > 1:  # one beam is greedy writing
        return beam_search(writer, images, config)
    texts: list[list[tuple[list[int], list[float]]]] = [
        [([], []) for _ in range(config.captions)] for _ in range(len(images))
    ]
    for token in stream(writer, images, config):
        ids, log_probs = texts[token.picture][token.caption]
        ids.append(token.id)
        log_probs.append(token.log_prob)
    written = [[Written.of(*text, writer.rules.eot) for text in several] for several in texts]
    return [sorted(several, key=lambda text: -text.confidence) for several in written]


@torch.no_grad()
def stream(writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig) -> Iterator[Token]:
    """Tokens in the order in which they are written, the captions of all pictures in step.

    A caption is over at its EOT, or with the stream where the longest length left no room for one.
    """
    if config.mode == "beam" and config.beams > 1:
        raise ValueError("beam search knows its words only at the end: stream with mode greedy or sample")
    if not len(images):
        return
    rules, device, captions = writer.rules, images.device, config.captions
    longest = min(config.max_tokens or rules.context, rules.context - 2)
    generator = torch.Generator(device).manual_seed(config.seed)
    rows = list(range(len(images) * captions))
    draft = writer.start(images, captions)
    current = torch.full((len(rows),), rules.bos, device=device)
    written = current.new_empty(len(rows), 0)
    alive = [True] * len(rows)
    for length in range(longest + 1):
        logits = forbid(writer.step(current, draft), written, rules, config)
        current = _choose(logits, config, generator)
        chosen = logits.gather(1, current[:, None])[:, 0] - logits.logsumexp(-1)
        for place, (token, log_prob) in enumerate(zip(current.tolist(), chosen.tolist(), strict=True)):
            if alive[place] and (token == rules.eot or length < longest):
                yield Token(*divmod(rows[place], captions), token, log_prob)
            alive[place] = alive[place] and token != rules.eot
        if not any(alive):
            return
        written = torch.cat([written, current[:, None]], 1)
        going = _going_on(alive, captions)
        if len(going) <= 0.75 * len(rows):  # copying what lives on costs about as much as a quarter of the rows
            chosen_rows = torch.tensor(going, device=device)
            writer.reorder(draft, chosen_rows)
            current, written = current[chosen_rows], written[chosen_rows]
            rows, alive = [rows[place] for place in going], [alive[place] for place in going]


def _choose(logits: Float[Tensor, "r v"], config: GenerateConfig, generator: torch.Generator) -> Int[Tensor, " r"]:
    if config.mode != "sample":
        return logits.argmax(-1)
    filtered = filter_logits(logits, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    return torch.multinomial(filtered.softmax(-1), 1, generator=generator)[:, 0]


def _going_on(alive: list[bool], captions: int) -> list[int]:
    """The rows of pictures of which some caption is not over."""
    groups = range(0, len(alive), captions)
    return [row for start in groups if any(alive[start : start + captions]) for row in range(start, start + captions)]
