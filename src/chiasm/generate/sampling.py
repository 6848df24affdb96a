"""How to choose the next token: the settings of generation, and functions from logits to logits.

Letters: r rows (pictures × captions or beams) · v vocabulary · t tokens written so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chiasm.models.language import TextRules


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How to write; lengths count tokens without BOS and EOT."""

    mode: Literal["greedy", "sample", "beam"] = "greedy"
    captions: int = 1
    """How many per picture: samples, or the best beams."""
    max_tokens: int | None = None
    """None: as many as the model's context holds."""
    min_tokens: int = 1
    no_repeat_ngram: int = 0
    """Never write the same n tokens in a row twice; 0 allows it."""
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    """Sample from the fewest tokens whose probabilities reach this sum (1904.09751); always at least one."""
    beams: int = 4
    length_penalty: float = 1.0
    """Beam scores are divided by length to this power: 0 favours short texts, 1 is the mean per token."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"captions": 1, "beams": 1, "max_tokens": 1, "top_k": 1, "min_tokens": 0, "no_repeat_ngram": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} is {value}, it must be at least {low}")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, it must be above 0 (for the likeliest text: greedy)")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, it must be above 0 and at most 1")
        if self.mode == "greedy" and self.captions > 1:
            raise ValueError("greedy writes one caption per picture; ask for several with mode sample or beam")
        if self.mode == "beam" and self.captions > self.beams:
            raise ValueError(f"{self.captions} captions need at least as many beams, not {self.beams}")


NUCLEUS = 256
"""Among how many likeliest tokens a nucleus is looked for first: sorting all of them takes longer than a step."""


def filter_logits(
    logits: Float[Tensor, "r v"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "r v"]:
    """Logits to sample from: tempered, and -inf outside the top k and the nucleus."""
    choices, tokens = candidates(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return choices if tokens is None else torch.full_like(logits, -torch.inf).scatter(-1, tokens, choices)


def candidates(
    logits: Float[Tensor, "r v"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> tuple[Float[Tensor, "r c"], Int[Tensor, "r c"] | None]:
    """The tempered logits of the tokens that may be drawn (-inf for others among them), and their ids if not all."""
    if temperature != 1:
        logits = logits / temperature
    most = logits.shape[1] if top_k is None else min(top_k, logits.shape[1])
    few = most < logits.shape[1]
    if top_p is None or top_p == 1:
        return top(logits, most) if few else (logits, None)
    choices, tokens = top(logits, most if few else min(NUCLEUS, most))
    log_sum = (choices if few else logits).logsumexp(-1, keepdim=True)
    if not few and bool(((choices - log_sum).exp().sum(-1) < top_p).any()):
        choices, tokens = logits.sort(descending=True, stable=True)
    probs = (choices - log_sum).exp()
    outside = probs.cumsum(-1) - probs >= top_p  # the mass before a token: the first one is always inside
    return choices.masked_fill(outside, -torch.inf), tokens


GROUP = 16
"""Values of which the largest is looked for first."""
SPARSE, MANY = 64, 2**16
"""So many times as many values as are wanted, and so many in all, make groups pay."""


def top(values: Float[Tensor, "r v"], count: int) -> tuple[Float[Tensor, "r c"], Int[Tensor, "r c"]]:
    """The largest values of each row and their places, the largest first, as `topk`; several times faster for large v.

    They can only lie in the groups of values whose own largest are the largest.
    """
    r, v = values.shape
    if v < SPARSE * count or r * v < MANY or values.device.type != "cpu":
        return values.topk(count)
    groups = v // GROUP
    grouped, starts = groups * GROUP, torch.arange(0, groups * GROUP, groups)
    best = values[:, :grouped].view(r, GROUP, groups).amax(1).topk(count, sorted=False).indices
    places = torch.cat([(best[:, None] + starts[:, None]).flatten(1), torch.arange(grouped, v).expand(r, -1)], 1)
    found = values.gather(1, places).topk(count)
    return found.values, places.gather(1, found.indices)


def draw(logits: Float[Tensor, "r v"], config: GenerateConfig, generator: torch.Generator) -> Int[Tensor, " r"]:
    """One token per row, by one random number per row: where it falls among the cumulated probabilities.

    The numbers are drawn on the CPU, so that a seed gives the same texts on every device.
    """
    choices, tokens = candidates(logits, temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    shares = choices.softmax(-1).cumsum(-1)
    number = torch.rand(len(shares), 1, generator=generator).to(shares.device) * shares[:, -1:]
    places = torch.searchsorted(shares, number, right=True).clamp_(max=shares.shape[1] - 1)
    return (places if tokens is None else tokens.gather(1, places))[:, 0]


def repeated_ngrams(written: Int[Tensor, "r t"], n: int) -> list[tuple[int, int]]:
    """(row, token) pairs which, written next, would repeat an n-gram of that row."""
    banned = []
    for row, ids in enumerate(written.tolist()):
        tail = ids[len(ids) - n + 1 :] if n > 1 else []
        starts = (start for start in range(len(ids) - n + 1) if ids[start : start + n - 1] == tail)
        banned += [(row, ids[start + n - 1]) for start in starts]
    return banned


def forbid(
    logits: Float[Tensor, "r v"], written: Int[Tensor, "r t"], rules: TextRules, config: GenerateConfig
) -> Float[Tensor, "r v"]:
    """fp32 logits with -inf, written in place, where a token may not come next: a reserved id, an early end, a repeat.

    Where no token is left, the text ends, early or not.
    """
    logits = logits.float()
    never = _never(rules, written.shape[1] < config.min_tokens, logits.device)
    if len(never):
        logits.index_fill_(1, never, -torch.inf)
    if config.no_repeat_ngram:
        pairs = repeated_ngrams(written, config.no_repeat_ngram)
        if pairs:
            rows, tokens = torch.tensor(pairs, device=logits.device).T
            logits[rows, tokens] = -torch.inf
            logits[logits.isneginf().all(-1), rules.eot] = 0.0
    return logits


@lru_cache(maxsize=64)
def _never(rules: TextRules, early: bool, device: torch.device) -> Int[Tensor, " never"]:
    """The ids that no text holds, with EOT where it is too early; on the device once, not at every step."""
    with torch.inference_mode(False):  # it outlives the mode in which it is first asked for
        return torch.tensor(
            [*rules.unwritten, rules.eot] if early else rules.unwritten, dtype=torch.long, device=device
        )
