"""Greedy writing and sampling, token by token; `generate` gathers what `stream` yields.

Letters: b pictures · r rows (pictures × captions) · t tokens written so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from chiasm.generate.beam import beam_search
from chiasm.generate.sampling import GenerateConfig, draw, forbid
from chiasm.generate.written import Written
from chiasm.models import Writer


class Token(NamedTuple):
    """One token of one caption, as it is written; the end (EOT) is a token too."""

    picture: int
    caption: int
    id: int
    log_prob: float


def generate(writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig) -> list[list[Written]]:
    """For each picture, `config.captions` texts, best first.

    Log-probabilities are the model's own over the tokens that may come next, before temperature and filters.
    """
    if config.mode == "beam" and config.beams > 1:  # one beam is greedy writing
        return beam_search(writer, images, config)
    texts: list[tuple[list[int], list[float]]] = [([], []) for _ in range(len(images) * config.captions)]
    for said in _steps(writer, images, config):
        for row, token, log_prob in said:
            ids, log_probs = texts[row]
            ids.append(token)
            log_probs.append(log_prob)
    written = [Written.of(*text, writer.rules.eot) for text in texts]
    starts = range(0, len(written), config.captions)
    return [sorted(written[s : s + config.captions], key=lambda text: -text.confidence) for s in starts]


def stream(writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig) -> Iterator[Token]:
    """Tokens in the order in which they are written, the captions of all pictures in step.

    A caption is over at its EOT, or with the stream where the longest length left no room for one.
    """
    if config.mode == "beam" and config.beams > 1:
        raise ValueError("beam search knows its words only at the end: stream with mode greedy or sample")
    for said in _steps(writer, images, config):
        for row, token, log_prob in said:
            yield Token(*divmod(row, config.captions), token, log_prob)


@torch.inference_mode()
def _steps(
    writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig
) -> Iterator[list[tuple[int, int, float]]]:
    """For each step, the (row, token, log-probability) of every row that is not over."""
    if not len(images):
        return
    rules, device, captions = writer.rules, images.device, config.captions
    longest = min(config.max_tokens or rules.context, rules.context - 2)
    generator = torch.Generator().manual_seed(config.seed)
    rows = list(range(len(images) * captions))
    draft = writer.start(images, captions)
    current = torch.full((len(rows),), rules.start, device=device)
    written = current.new_empty(len(rows), 0)
    alive = [True] * len(rows)
    for length in range(longest + 1):
        logits = forbid(writer.step(current, draft), written, rules, config)
        current = draw(logits, config, generator) if config.mode == "sample" else logits.max(-1).indices
        chosen = logits.log_softmax(-1).gather(1, current[:, None])[:, 0]
        tokens = current.tolist()
        yield [
            (row, token, log_prob)
            for row, token, log_prob, going in zip(rows, tokens, chosen.tolist(), alive, strict=True)
            if going and (token == rules.eot or length < longest)
        ]
        alive = [going and token != rules.eot for going, token in zip(alive, tokens, strict=True)]
        if not any(alive):
            return
        written = torch.cat([written, current[:, None]], 1)
        going = _going_on(alive, captions)
        if len(going) <= 0.75 * len(rows):  # copying what lives on costs about as much as a quarter of the rows
            chosen_rows = torch.tensor(going, device=device)
            writer.reorder(draft, chosen_rows)
            current, written = current[chosen_rows], written[chosen_rows]
            rows, alive = [rows[place] for place in going], [alive[place] for place in going]


def _going_on(alive: list[bool], captions: int) -> list[int]:
    """The rows of pictures of which some caption is not over."""
    groups = range(0, len(alive), captions)
    return [row for start in groups if any(alive[start : start + captions]) for row in range(start, start + captions)]
