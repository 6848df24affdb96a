"""Made-up words for colours: sequences in which a word must be learnt from the pictures before it, and at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from chiasm.config import fingerprint, to_dict
from chiasm.data.shapes import COLOURS, ShapesConfig, draw_shapes
from chiasm.data.source import Source
from chiasm.types import Example

SYLLABLES = tuple(c + v for c, v in zip("bdfgklmnprstvzbdfgkl", "aeiouaeiouaeiouaeiou", strict=True))
"""A word is two of them, with a space between; the first ones make 400 words."""
SHOTS = 4
"""Pictures with their words that a sequence begins with, of as many colours; in training also fewer."""
PARTS = 8
"""Pictures of a training sequence: what follows the shots are questions."""
HELD_OUT_SHARE = 0.2
"""Of the words: those of tests."""
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """How many sequences, of how many different pictures."""

    episodes: int = 10_000
    pictures: int = 8_000
    named_share: float = 0.25
    """Of the training sequences: those that call the colours by their names, from which a model learns to see them."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 10 or self.pictures < 1000:
            raise ValueError(f"{self.episodes} episodes of {self.pictures} pictures are too few: from 10 and 1000 on")
        if not 0 <= self.named_share <= 1:
            raise ValueError(f"named_share is {self.named_share}, it must be in 0..1")


def episodes_source(config: EpisodesConfig) -> Source:
    """Fast binding (2106.13884, section 4.3) of words to colours, made of easy shapes.

    In every sequence each colour has another made-up word. The first pictures come with their words, which nobody could
    know (`given`); the same words then answer for other pictures of these colours. Words and pictures of the tests, of
    which each asks one question after four shots, are in no training sequence.
    """
    rng = np.random.default_rng(config.seed)
    drawn = draw_shapes(ShapesConfig(samples=config.pictures, seed=config.seed))
    colours = np.array([list(COLOURS).index(things[0].colour) for things in drawn.things])
    words = [f"{SYLLABLES[a]} {SYLLABLES[b]}" for a, b in rng.permutation([*np.ndindex(20, 20)])]
    held_out = int(HELD_OUT_SHARE * len(words))
    examples: list[Example] = []
    splits: dict[str, np.ndarray] = {}
    for split, share in SHARES.items():
        start = len(examples)
        bank = {c: rows[colours[rows] == c] for c in range(len(COLOURS)) for rows in [drawn.splits[split]]}
        known = words[:held_out] if split == "test" else words[held_out:]
        for number in range(int(share * config.episodes)):
            named = split == "train" and rng.random() < config.named_share
            shots, shown = _colours(rng, split, named)
            said = rng.permutation(len(known))[: len(COLOURS)]
            texts = [f"{list(COLOURS)[c]} one" if named else known[said[c]] for c in shown.tolist()]
            rows = [bank[c][rng.integers(len(bank[c]))] for c in shown.tolist()]
            group = f"{split}-{number}"
            examples += [
                Example(image=drawn.pixels[row], texts=(text,), key=f"{group}#{n}", group=group, given=n < shots)
                for n, (row, text) in enumerate(zip(rows, texts, strict=True))
            ]
        splits[split] = np.arange(start, len(examples))
    return Source(
        name="episodes",
        examples=examples,
        splits=splits,
        understood=f"episodes: {config.episodes:,} sequences in which made-up words stand for colours; "
        f"{len(words) - held_out} words in training, {held_out} others in tests, after {SHOTS} shots",
        fingerprint=fingerprint([to_dict(config), SYLLABLES]),
        interleaved=True,
    )


def _colours(rng: np.random.Generator, split: str, named: bool) -> tuple[int, Int[np.ndarray, " parts"]]:
    """How many pictures are shots, and the colour of every picture."""
    if named:
        return 0, rng.integers(len(COLOURS), size=PARTS)
    shots = int(rng.integers(2, SHOTS + 1)) if split == "train" else SHOTS
    chosen = rng.permutation(len(COLOURS))[:shots]
    questions = 1 if split == "test" else PARTS - shots
    return shots, np.concatenate([chosen, rng.choice(chosen, questions)])


__all__ = ["SHOTS", "EpisodesConfig", "episodes_source"]
