"""What counts as the same: pictures that show one thing, and the texts that are true of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from chiasm.types import Example


def things(examples: Sequence[Example]) -> Int[np.ndarray, " n"]:
    """A number per example, equal where two show the same thing: those of one group, and those with the same texts.

    One shared text among others does not make two things one: by "an animal" all animals would be.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names: dict[object, int] = {}
    edges = []
    for example in examples:
        own = names.setdefault((bool(example.group), example.group or example.key), len(names))
        said = names.setdefault(frozenset(example.texts), len(names)) if example.texts else own
        edges.append((own, said))
    rows, columns = np.array(edges).T
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1][rows].astype(np.int64)


def things_and_texts(same: Int[np.ndarray, " n"], examples: Sequence[Example]) -> list[tuple[int, str]]:
    """Every different text of every thing."""
    return list(dict.fromkeys((int(t), text) for t, e in zip(same, examples, strict=True) for text in e.texts))


__all__ = ["things", "things_and_texts"]
