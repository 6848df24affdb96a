"""Batches for training and evaluation; whatever is random in them is a pure function of the seed and the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chiasm.data.cache import Pictures
from chiasm.data.sound import Sounds
from chiasm.data.transforms import (
    NO_PICTURES,
    AugmentConfig,
    PreprocessConfig,
    augment,
    normalize,
    standardize,
    unit_images,
)
from chiasm.errors import UserError
from chiasm.progress import counting
from chiasm.text import Tokenizer
from chiasm.types import Batch, Example

AHEAD = 3
"""Batches that wait ready while the model computes."""
CHUNK = 4096
"""Texts tokenised at once."""
ORDER, TEXT, AUGMENT = 0, 1, 2
"""What a random stream is for; it keeps the three apart."""


class Loader:
    """The good pictures of some examples and their texts as batches, by step."""

    def __init__(
        self,
        examples: Sequence[Example],
        pictures: Pictures,
        tokenizer: Tokenizer | None,
        *,
        preprocess: PreprocessConfig,
        augment: AugmentConfig | None,
        batch_size: int,
        context: int,
        seed: int,
        truncate: bool = False,
        workers: int = 0,
        classes: Sequence[str] = (),
        sounds: Sounds | None = None,
        partial: bool = False,
        together: int = 1,
    ):
        """Tokenise all texts once; UserError for a text longer than `context` ids, or an example that lacks something.

        Without a tokenizer texts are empty. Labels are places in `classes`, where there are any. With `partial` an
        example may lack its picture, text or sound, and nothing of that is kept in its row; sounds may always be
        lacking. Rows whose picture or sound is broken are left out.

        With `truncate` longer texts lose their end instead. So many neighbours as `together` says stay in one batch.
        `workers` processes make the batches of `stream`; with 0 it is a thread, which is quicker unless pictures are
        read for every batch.
        """
        if pictures.preprocess != preprocess:
            raise ValueError(f"The pictures were prepared with {pictures.preprocess}, not with {preprocess}")
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size is {batch_size} and seed {seed}; they must be at least 1 and 0")
        self.pictures = pictures
        self.preprocess = preprocess
        self.augment = augment
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.together = together
        self.sounds = sounds
        self.rows = np.setdiff1d(pictures.good, [broken.row for broken in sounds.broken] if sounds else [])
        chosen = [examples[int(row)] for row in self.rows]
        self.keys = [example.key for example in chosen]
        self._images = _numbered((bool(example.group), example.group or example.key) for example in chosen)
        self._shown = pictures.places[self.rows] >= 0
        texts = [(example.texts or (None,)) if tokenizer else (None,) for example in chosen]
        if not partial:
            self._check_whole(texts if tokenizer else [])
        self._counts = np.array([len(own) for own in texts])
        self._starts = np.cumsum(self._counts) - self._counts
        self._texts = _numbered(text for own in texts for text in own)
        self._tokens = _Tokens(chosen, tokenizer, context, truncate) if tokenizer else None
        places = {name: place for place, name in enumerate(classes)}
        self._labels = np.array([places.get(example.label, -1) for example in chosen]) if classes else None
        self._order: tuple[int, np.ndarray] = -1, self._starts

    def _check_whole(self, texts: Sequence[tuple[str | None, ...]]) -> None:
        bare = next((key for key, own in zip(self.keys, texts, strict=False) if own == (None,)), None)
        if bare is not None:
            raise UserError(f"The picture {bare} has no text", "Give it one, or leave it out.")
        if self.preprocess.size != NO_PICTURES and not self._shown.all():
            raise UserError(f"{self.keys[int(self._shown.argmin())]} has no picture", "Give it one, or leave it out.")

    def __len__(self) -> int:
        """How many good examples there are."""
        return len(self.keys)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that visit every picture once, but for a last partial one; fewer pictures than a batch are one."""
        return max(1, len(self) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of one step: the same for the same seed and step, whatever was asked for before."""
        if step < 0:
            raise ValueError(f"step is {step}, it must not be negative")
        return self.of(self._rows_of(step), step)

    def pair_ids(self, step: int) -> Int[Tensor, "2 b"]:
        """`image_ids` and `text_ids` of the batch of one step, without its pictures being made."""
        rows = self._rows_of(step)
        texts = self._texts[self._starts[rows] + self._picks(rows, step)]
        return torch.from_numpy(np.stack([self._images[rows], texts]))

    def of(self, rows: np.ndarray, step: int | None = None) -> Batch:
        """The good pictures at these places, with their texts and changes of one step, or the first and none."""
        if step is None:
            return self._made(rows, np.zeros_like(rows), None)
        generator = torch.Generator().manual_seed(int(self._random(AUGMENT, step).integers(2**63)))
        return self._made(rows, self._picks(rows, step), generator)

    def stream(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of the steps from `start_step` to before `stop_step`, made ahead of time."""
        steps = range(start_step, stop_step)
        if self.workers == 0:
            return ahead(self.batch, steps)
        # A generator of its own: the default one draws from the global state, which training wants to itself.
        return iter(
            DataLoader(
                _Steps(self), batch_size=None, sampler=steps, num_workers=self.workers, generator=torch.Generator()
            )
        )

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Every good picture once, in order, with its first text and without random changes, `rows` at a time."""
        parts = (np.arange(start, min(start + rows, len(self))) for start in range(0, len(self), rows))
        return ahead(self.of, parts)

    @property
    def unigram_loss(self) -> float:
        """Nats per token of a model that knows how common each token is in these texts, and nothing else.

        Each text's first token is BOS, which nobody predicts. ValueError where there are no texts.
        """
        if self._tokens is None:
            raise ValueError("there are no texts")
        lengths = np.diff(self._tokens.ends, prepend=0)
        weights = np.repeat(self._shares(), lengths)
        weights[(self._tokens.ends - lengths)[lengths > 0]] = 0.0
        counts = np.bincount(self._tokens.ids, weights)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    @property
    def cut_shares(self) -> tuple[float, float]:
        """The share of the texts that lose their end to the context, and that of their tokens which are lost."""
        if self._tokens is None:
            return 0.0, 0.0
        shares, lost = self._shares(), self._tokens.lost
        whole = np.diff(self._tokens.ends, prepend=0) + lost
        return float(shares[lost > 0].sum() / shares.sum()), float((shares * lost).sum() / (shares * whole).sum())

    def _shares(self) -> np.ndarray:
        """How often an epoch reads each different text, on average."""
        return np.bincount(self._texts, np.repeat(1 / self._counts, self._counts))

    def _rows_of(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def _picks(self, rows: np.ndarray, step: int) -> np.ndarray:
        """Which of its texts each row has in this step."""
        return (self._random(TEXT, step).random(len(rows)) * self._counts[rows]).astype(np.int64)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            groups = self._random(ORDER, epoch).permutation(-(-len(self) // self.together))
            order = (groups[:, None] * self.together + np.arange(self.together)).ravel()
            self._order = epoch, order[order < len(self)]
        return self._order[1]

    def _random(self, purpose: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, index))

    def _made(self, rows: np.ndarray, picks: np.ndarray, generator: torch.Generator | None) -> Batch:
        pixels = self.pictures.pixels_of(self.rows[rows])
        if self.augment and generator and pixels.size:
            images = standardize(augment(unit_images(pixels), self.augment, generator), self.preprocess)
        else:
            images = normalize(pixels, self.preprocess)
        texts = self._texts[self._starts[rows] + picks]
        ids, keep = self._tokens.padded(texts) if self._tokens else _no_tokens(len(rows))
        shown = torch.from_numpy(self._shown[rows])
        is_whole = bool(shown.all()) or not images.numel()
        sounds, sound_keep = self.sounds.of(self.rows[rows]) if self.sounds else (None, None)
        return Batch(
            images=images if is_whole else images * shown[:, None, None, None],
            image_keep=None if is_whole else shown,
            sounds=sounds,
            sound_keep=sound_keep,
            labels=None if self._labels is None else torch.from_numpy(self._labels[rows]),
            ids=ids,
            keep=keep,
            image_ids=torch.from_numpy(self._images[rows]),
            text_ids=torch.from_numpy(texts),
            keys=tuple(self.keys[row] for row in rows),
        )


class _Tokens:
    """The ids of every distinct text, laid end to end in the order in which the texts first occur.

    The lack of a text counts as one that has no ids.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer, context: int, truncate: bool):
        numbered = list(dict.fromkeys(text for example in examples for text in example.texts or (None,)))
        texts = [text for text in numbered if text is not None]
        self.pad = tokenizer.pad
        parts: list[np.ndarray] = []
        lengths: list[int] = []
        lost: list[int] = []
        with counting("Tokenising", len(texts)) as advance:
            for start in range(0, len(texts), CHUNK):
                chunk = texts[start : start + CHUNK]
                try:
                    rows = tokenizer.rows(chunk, context=context, truncate=truncate)
                except ValueError as error:
                    raise _too_long(examples, chunk, tokenizer, context) from error
                parts.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
                lengths += map(len, rows)
                lost += _lost(chunk, rows, tokenizer, context)
                advance(len(chunk))
        if len(texts) < len(numbered):
            lengths.insert(numbered.index(None), 0)
            lost.insert(numbered.index(None), 0)
        self.ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        self.ends = np.cumsum(lengths)
        self.lost = np.array(lost)

    def padded(self, texts: np.ndarray) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids of the texts and which of them are real, padded to the longest of these."""
        starts, ends = np.where(texts > 0, self.ends[texts - 1], 0), self.ends[texts]
        places = starts[:, None] + np.arange(max(1, *(ends - starts)))
        keep = places < ends[:, None]
        ids = np.full(keep.shape, self.pad, dtype=np.int64)
        ids[keep] = self.ids[places[keep]]
        return torch.from_numpy(ids), torch.from_numpy(keep)


def _no_tokens(rows: int) -> tuple[Int[Tensor, "b 0"], Bool[Tensor, "b 0"]]:
    return torch.zeros(rows, 0, dtype=torch.long), torch.zeros(rows, 0, dtype=torch.bool)


def _lost(texts: Sequence[str], rows: Sequence[Sequence[int]], tokenizer: Tokenizer, context: int) -> list[int]:
    """How many tokens of each text are beyond the context; only those that fill it are looked at again."""
    lost = [0] * len(texts)
    full = [place for place, row in enumerate(rows) if len(row) == context]
    for place, length in zip(full, tokenizer.lengths([texts[place] for place in full]), strict=True):
        lost[place] = length - context
    return lost


def _too_long(examples: Sequence[Example], texts: Sequence[str], tokenizer: Tokenizer, context: int) -> UserError:
    text, length = next(pair for pair in zip(texts, tokenizer.lengths(texts), strict=True) if pair[1] > context)
    key = next(example.key for example in examples if text in example.texts)
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return UserError(
        f"The text of {key} has {length} tokens, more than the context of {context}: {shown!r}",
        "Cut such texts with --set data.truncate=true, or train with a longer context.",
    )


class _Steps(Dataset[Batch]):
    """A loader as PyTorch's worker processes want it: an item is a step."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __getitem__(self, step: int) -> Batch:
        return self.loader.batch(step)


def _numbered(values: Iterable[Any]) -> np.ndarray:
    """Each value's number, counting distinct ones as they first occur."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def ahead(make: Callable[[Any], Batch], items: Iterable[Any]) -> Iterator[Batch]:
    """`make` of each item, computed by a thread up to AHEAD of the consumer; it ends when the consumer does."""
    items = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(make, item) for item in islice(items, AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(items, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
