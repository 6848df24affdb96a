"""What generation returns."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """One generated text: its ids without BOS and EOT, and the log-probability (nats) of each, then of the end."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    complete: bool
    """False where the longest length was reached without an end."""

    @classmethod
    def of(cls, ids: list[int], log_probs: list[float], eot: int) -> Written:
        """A text from the tokens that were chosen, the end among them or not."""
        complete = bool(ids) and ids[-1] == eot
        return cls(tuple(ids[:-1] if complete else ids), tuple(log_probs), complete)

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities, in 0..1."""
        return math.exp(sum(self.log_probs) / max(1, len(self.log_probs)))
