"""Beam search over any Writer, all pictures at once.

Letters: p pictures · k beams · r = p k rows · v vocabulary · t tokens written so far.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.generate.sampling import GenerateConfig, forbid, top
from chiasm.generate.written import Written
from chiasm.models import Writer


@dataclass
class Finished:
    """The best finished texts of one picture: a heap whose first entry is the worst of them."""

    room: int
    texts: list[tuple[float, int, Written]] = field(default_factory=list)
    seen: int = 0

    def add(self, score: float, text: Written) -> None:
        """Keep the text if it is among the best; of equals, the first."""
        self.seen += 1
        push = heapq.heappush if len(self.texts) < self.room else heapq.heappushpop
        push(self.texts, (score, -self.seen, text))

    def best(self, count: int) -> list[Written]:
        """The best texts, best first."""
        return [text for _, _, text in sorted(self.texts, reverse=True)[:count]]

    @property
    def bar(self) -> float:
        """The score that a further text has to beat."""
        return self.texts[0][0] if len(self.texts) == self.room else -torch.inf


@dataclass
class Beams:
    """The live beams of all pictures that are not done."""

    going: list[int]
    """The pictures, in the order of their rows."""
    scores: Float[Tensor, "p k"]
    """Log-probability of each beam so far; -inf where there is no beam yet."""
    written: Int[Tensor, "r t"]
    trail: Float[Tensor, "r t"]
    """Log-probability of each token in `written`."""

    def select(self, rows: Int[Tensor, " r"], tokens: Int[Tensor, " r"], log_probs: Float[Tensor, " r"]) -> None:
        """Go on with these rows, each followed by its next token."""
        self.written = torch.cat([self.written[rows], tokens[:, None]], 1)
        self.trail = torch.cat([self.trail[rows], log_probs[:, None]], 1)

    def text(self, row: int, end: float | None, eot: int) -> Written:
        """What a row has written, with the log-probability of its end if it has one."""
        ids, log_probs = self.written[row].tolist(), self.trail[row].tolist()
        return Written.of(ids, log_probs, eot) if end is None else Written.of([*ids, eot], [*log_probs, end], eot)


@torch.inference_mode()
def beam_search(
    writer: Writer, images: Float[Tensor, "b c height width"], config: GenerateConfig
) -> list[list[Written]]:
    """For each picture, the `config.captions` best texts found, best first (score: log-probability / length^penalty).

    The length counts the end. A picture is done when no live beam can beat its worst kept text any more, however it
    goes on; stopping at the first finished texts would prefer short ones.
    """
    if not len(images):
        return []
    rules, k, device = writer.rules, config.beams, images.device
    longest = min(config.max_tokens or rules.context, rules.context - 2)
    finished = [Finished(config.captions) for _ in range(len(images))]
    beams = Beams(
        going=list(range(len(images))),
        scores=torch.full((len(images), k), -torch.inf, device=device),
        written=torch.empty(len(images) * k, 0, dtype=torch.long, device=device),
        trail=torch.empty(len(images) * k, 0, device=device),
    )
    beams.scores[:, 0] = 0.0  # all beams begin alike, so only one of them counts
    draft = writer.start(images, k)
    current = torch.full((len(images) * k,), rules.start, device=device)
    for length in range(longest + 1):
        log_probs = forbid(writer.step(current, draft), beams.written, rules, config).log_softmax(-1)
        rows, tokens = _candidates(beams, log_probs, k)
        _finish(beams, finished, rows, tokens, log_probs, config, rules.eot)
        if length == longest:
            _cut(beams, finished, config, rules.eot)
            break
        rows, current = _advance(beams, rows, tokens, log_probs, k, rules.eot)
        winning = [
            place
            for place, (picture, best) in enumerate(zip(beams.going, beams.scores[:, 0].tolist(), strict=True))
            if _bound(best, length + 2, longest + 1, config.length_penalty) > finished[picture].bar
        ]
        if not winning:
            break
        if len(winning) < len(beams.going):
            chosen = torch.tensor(winning, device=device)
            inside = (chosen[:, None] * k + torch.arange(k, device=device)).flatten()
            rows, current = rows[inside], current[inside]
            beams = Beams(
                going=[beams.going[place] for place in winning],
                scores=beams.scores[chosen],
                written=beams.written[inside],
                trail=beams.trail[inside],
            )
        writer.reorder(draft, rows)
    return [texts.best(config.captions) for texts in finished]


def _candidates(beams: Beams, log_probs: Float[Tensor, "r v"], k: int) -> tuple[Int[Tensor, "p c"], Int[Tensor, "p c"]]:
    """For each picture the rows and next tokens of its best continuations, best first.

    Twice as many as beams: at most one per beam is an end, so at least as many as there are beams go on.
    """
    totals = (beams.scores[..., None] + log_probs.unflatten(0, (-1, k))).flatten(1)
    places = top(totals, min(2 * k, totals.shape[1]))[1]
    first_row = torch.arange(len(places), device=places.device)[:, None] * k
    return first_row + places // log_probs.shape[1], places % log_probs.shape[1]


def _finish(
    beams: Beams,
    finished: list[Finished],
    rows: Int[Tensor, "p c"],
    tokens: Int[Tensor, "p c"],
    log_probs: Float[Tensor, "r v"],
    config: GenerateConfig,
    eot: int,
) -> None:
    """Keep the texts that end here, of those that are among the best `k` continuations."""
    for place, rank in (tokens[:, : config.beams] == eot).nonzero().tolist():
        row = int(rows[place, rank])
        end = float(log_probs[row, eot])
        if float(beams.scores.flatten()[row]) + end > -torch.inf:  # more beams than choices: some are none
            text = beams.text(row, end, eot)
            score = sum(text.log_probs) / len(text.log_probs) ** config.length_penalty
            finished[beams.going[place]].add(score, text)


def _cut(beams: Beams, finished: list[Finished], config: GenerateConfig, eot: int) -> None:
    """At the longest length, a picture with no finished text keeps its unfinished ones."""
    for place, picture in enumerate(beams.going):
        if finished[picture].texts:
            continue
        for beam, total in enumerate(beams.scores[place].tolist()):
            if total > -torch.inf:
                text = beams.text(place * config.beams + beam, None, eot)
                finished[picture].add(total / len(text.ids) ** config.length_penalty, text)


def _advance(
    beams: Beams,
    rows: Int[Tensor, "p c"],
    tokens: Int[Tensor, "p c"],
    log_probs: Float[Tensor, "r v"],
    k: int,
    eot: int,
) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """Go on with the best k continuations that do not end; returns each new beam's old row and its token."""
    order = (tokens == eot).to(torch.int8).argsort(dim=1, stable=True)[:, :k]  # those that go on first, by score
    rows, tokens = rows.gather(1, order), tokens.gather(1, order)
    gained = log_probs[rows, tokens]
    beams.scores = beams.scores.flatten()[rows] + gained
    beams.select(rows.flatten(), tokens.flatten(), gained.flatten())
    return rows.flatten(), tokens.flatten()


def _bound(score: float, soonest: int, latest: int, length_penalty: float) -> float:
    """The best final score that a live beam can still reach, ending between these lengths at no further cost."""
    return max(score / length**length_penalty for length in (soonest, latest))
