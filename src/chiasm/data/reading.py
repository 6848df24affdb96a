"""Every picture of a data set read once, block by block, in threads or (where Python is most of the work) processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from chiasm.data.picture import BrokenPicture, picture_of
from chiasm.data.transforms import PreprocessConfig, read_pixels
from chiasm.machine import available_cores
from chiasm.progress import counting
from chiasm.types import Example

BLOCK = 64
"""Pictures read between two writes."""
RUN = 8
"""Pictures of a block that a thread reads in one go."""
SMALL_SECONDS = 4e-4
"""A picture that takes less of a processor's time than this is mostly Python's overhead, which threads cannot share."""
FORK_SECONDS = 0.5
"""Processes are not started for less work than this."""

Block = tuple[UInt8[Tensor, "b height width 3"], list[str | None]]
"""Pixels, black where a picture cannot be read, and of each the reason why, None where it can."""

_Begun = tuple[UInt8[np.ndarray, "b height width 3"], Iterator[list[str | None]]]


def blocks(examples: Sequence[Example], preprocess: PreprocessConfig) -> Iterator[Block]:
    """All pictures in order, BLOCK at a time; the last block may be smaller."""
    made = _Blocks(examples, preprocess)
    with counting("Reading pictures", len(examples)) as advance:
        began = time.process_time()
        first = made[0]
        picture_seconds = (time.process_time() - began) / len(first[1])
        for block in chain([first], _rest(made, range(BLOCK, len(examples), BLOCK), picture_seconds)):
            yield block
            advance(len(block[1]))


def _rest(made: _Blocks, starts: range, picture_seconds: float) -> Iterable[Block]:
    """The blocks that start there, read in the way that suits pictures of this cost."""
    if _processes_pay(picture_seconds, len(starts) * BLOCK):
        # A generator of its own: the default one draws from the global state, which training wants to itself.
        return DataLoader(
            made, batch_size=None, sampler=starts, num_workers=available_cores(), collate_fn=_as_it_is,
            generator=torch.Generator(),
        )  # fmt: skip
    return made.by_threads(starts, 1 if picture_seconds < SMALL_SECONDS else available_cores())


def _processes_pay(picture_seconds: float, pictures: int) -> bool:
    """Whether to read so many pictures in processes: many small ones.

    Only where processes are forked: others would import everything first, which takes longer than they save.
    """
    if picture_seconds > SMALL_SECONDS or picture_seconds * pictures < FORK_SECONDS or available_cores() == 1:
        return False
    return multiprocessing.get_start_method() == "fork" and not multiprocessing.current_process().daemon


class _Blocks(Dataset[Block]):
    """Blocks by the row that they start at, as PyTorch's worker processes want them."""

    def __init__(self, examples: Sequence[Example], preprocess: PreprocessConfig):
        self.examples = examples
        self.preprocess = preprocess

    def __getitem__(self, start: int) -> Block:
        pixels, part = self._empty(start)
        return torch.from_numpy(pixels), _fill(pixels, part, self.preprocess)

    def by_threads(self, starts: Iterable[int], threads: int) -> Iterator[Block]:
        """The blocks that start there, each read while the one before is written."""
        with ThreadPoolExecutor(threads) as pool:
            begun = chain((self._begun(start, pool) for start in starts), [None])
            for block, _ in pairwise(begun):
                assert block is not None
                pixels, reasons = block
                yield torch.from_numpy(pixels), list(chain(*reasons))

    def _begun(self, start: int, pool: ThreadPoolExecutor) -> _Begun:
        pixels, part = self._empty(start)
        runs = [slice(first, first + RUN) for first in range(0, len(part), RUN)]
        return pixels, pool.map(lambda run: _fill(pixels[run], part[run], self.preprocess), runs)

    def _empty(self, start: int) -> tuple[UInt8[np.ndarray, "b height width 3"], list[Example]]:
        # Examples are made here, in one thread: a source need not be safe with several.
        part = [self.examples[row] for row in range(start, min(start + BLOCK, len(self.examples)))]
        return np.zeros((len(part), *self.preprocess.size, 3), dtype=np.uint8), part


def _as_it_is(block: Any) -> Any:
    return block


def _fill(
    pixels: UInt8[np.ndarray, "b height width 3"], examples: Sequence[Example], preprocess: PreprocessConfig
) -> list[str | None]:
    """Read the pictures into their pixels; of each the reason why it cannot be read, None where it can."""
    reasons: list[str | None] = []
    for place, example in enumerate(examples):
        try:
            pixels[place] = read_pixels(picture_of(example), preprocess)
            reasons.append(None)
        except BrokenPicture as error:
            reasons.append(error.reason)
    return reasons


__all__ = ["BLOCK", "Block", "blocks"]
