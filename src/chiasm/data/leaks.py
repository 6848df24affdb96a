"""Pictures that stand in several splits, found among the pixels that a run has prepared anyway."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from chiasm.data.cache import Pictures
from chiasm.data.findings import Leaks, Place, leaks
from chiasm.data.source import picture_key
from chiasm.progress import waiting
from chiasm.types import Example


def prepared_leaks(pictures: Mapping[str, Pictures]) -> Leaks:
    """By two splits, each picture of the second that the first holds too, as the model sees them: prepared.

    So unlike `inspect_source` it reads no file, and finds also what became equal by being made small. Nothing is found
    where pixels are not stored.
    """
    rows: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    with waiting("comparing pictures of different splits"):
        for split, own in pictures.items():
            if own.pixels is None:
                continue
            pixels = np.asarray(own.pixels)  # a memory map is slow to index
            places, first = np.unique(own.places[own.good], return_index=True)
            for place, row in zip(places.tolist(), own.good[first].tolist(), strict=True):
                if place >= 0:
                    rows[hashlib.blake2b(pixels[place].data, digest_size=16).digest()].append((split, row))
    shared = [found for found in rows.values() if len({split for split, _ in found}) > 1]
    same = [[_place(split, pictures[split].examples[row]) for split, row in found] for found in shared]
    return leaks(same, list(pictures))


def _place(split: str, example: Example) -> Place:
    return Place(split=split, key=picture_key(example), group=example.group)


__all__ = ["prepared_leaks"]
