"""Retrieval: where each query's own items rank among all items, exactly, in bounded memory, ties never hits by luck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from chiasm.metrics.captions import Score
from chiasm.metrics.intervals import percentile_interval, resampled_sums
from chiasm.progress import counting

TIE = 2e-6
"""Cosines closer than this are equal: fp32 gives equal vectors cosines that differ by their place in the matrix."""

Vectors = Float[Tensor, "_n _e"] | Float[np.ndarray, "_n _e"]
Groups = Shaped[np.ndarray, " _n"]
"""Numbers or names; `_n` is q for queries and n for items (a leading underscore: any size passes, checked by hand)."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each of q queries the company of its best own item: how many of the others score higher, and how many tie.

    Among ties every order is equally likely, so a hit is a probability; a model whose vectors collapse scores chance.
    """

    better: Int[np.ndarray, " q"]
    """Items that are not the query's own and score higher than its best own item."""
    tied: Int[np.ndarray, " q"]
    """Items that are not its own and score the same."""
    own: Int[np.ndarray, " q"]
    """Its own items with that score; at least 1."""

    def hits(self, k: int) -> Float[np.ndarray, " q"]:
        """The probability that at least one own item is among the first k; ValueError unless k is at least 1."""
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1")
        misses = np.ones(len(self.better))
        for drawn in range(k):  # without replacement, from the tied ones, as long as there is room below k
            others, left = np.maximum(self.tied - drawn, 0), np.maximum(self.tied + self.own - drawn, 1)
            misses *= np.where(drawn < k - self.better, others / left, 1.0)
        return 1.0 - misses

    def expected(self) -> Float[np.ndarray, " q"]:
        """The expected rank of the first own item, counted from 1."""
        return 1.0 + self.better + self.tied / (self.own + 1.0)

    def reciprocal(self) -> Float[np.ndarray, " q"]:
        """The expected reciprocal of the rank of the first own item."""
        values = 1.0 / (1.0 + self.better)
        ambiguous = np.flatnonzero(self.tied)
        rows = np.column_stack([self.better, self.tied, self.own])[ambiguous]
        known, inverse = np.unique(rows, axis=0, return_inverse=True)
        if len(known):
            values[ambiguous] = np.array([_expected_reciprocal(*row) for row in known.tolist()])[inverse.ravel()]
        return values

    def per_query(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Float[np.ndarray, " q"]]:
        """Values whose means are scores: "recall_at_<k>", the probability of a hit, and "mean_reciprocal_rank"."""
        return {f"recall_at_{k}": self.hits(k) for k in ks} | {"mean_reciprocal_rank": self.reciprocal()}


def retrieval_scores(
    queries: Vectors,
    items: Vectors,
    query_groups: Groups,
    item_groups: Groups,
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Score]:
    """Scores of finding a query's own items, those of its group, by cosine: "recall_at_<k>" (a hit if any own item is
    among the first k), "mean_reciprocal_rank" and "median_rank" (from 1, lower is better).

    Intervals resample groups, since the captions of one picture stand or fall together; the median's is Woodruff's
    (1952): the interval of the share at or below it, read back as ranks. Errors as of `rank_items`.
    """
    ranks = rank_items(queries, items, query_groups, item_groups, chunk=chunk)
    bootstrap = {"resamples": resamples, "seed": seed, "level": level}
    scores = mean_scores(ranks.per_query(ks), query_groups, **bootstrap)
    return scores | {"median_rank": median_score(ranks.expected(), query_groups, **bootstrap)}


def rank_items(
    queries: Vectors, items: Vectors, query_groups: Groups, item_groups: Groups, *, chunk: int = 1024
) -> Ranks:
    """The rank of each query's best own item among all items, by cosine in fp32; own are the items of its group.

    Never more than `chunk` x `chunk` cosines exist at once. ValueError where sizes do not fit, a vector is not finite,
    or a query has no own item.
    """
    query_rows, item_rows = unit_rows(queries, query_groups, "queries"), unit_rows(items, item_groups, "items")
    if query_rows.shape[1] != item_rows.shape[1]:
        raise ValueError(f"Queries of width {query_rows.shape[1]} do not fit items of width {item_rows.shape[1]}")
    query_ids, item_ids = number_groups(query_groups, item_groups)
    query_order, item_order = np.argsort(query_ids, kind="stable"), np.argsort(item_ids, kind="stable")
    first, last = (np.searchsorted(item_ids[item_order], query_ids[query_order], side) for side in ("left", "right"))
    if (first == last).any():
        missing = query_order[np.argmax(first == last)]
        raise ValueError(f"Query {missing} has no item of its own: no item is of group {query_groups[missing]!r}")
    ordered = _count(query_rows[query_order], item_rows[item_order], first, last, chunk)
    counts = torch.empty_like(ordered).index_copy_(1, torch.from_numpy(query_order).to(ordered.device), ordered)
    better, tied, own = counts.cpu().numpy()
    return Ranks(better=better, tied=tied, own=own)


def mean_scores(
    values: Mapping[str, Float[np.ndarray, " q"]],
    groups: Groups,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Score]:
    """The means of per-query values by name, and their bootstrap intervals over whole groups of queries."""
    _, group = np.unique(groups, return_inverse=True)
    columns = [np.bincount(group, own) for own in values.values()]
    sums = resampled_sums(np.column_stack([*columns, np.bincount(group)]), resamples=resamples, seed=seed)
    scores = {}
    for (name, own), column in zip(values.items(), sums.T, strict=False):
        low, high = percentile_interval(column / sums[:, -1], level=level)
        scores[name] = Score(value=float(own.mean()), low=low, high=high, per_item=own)
    return scores


def median_score(
    values: Float[np.ndarray, " q"], groups: Groups, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Score:
    """The median of per-query values and its interval over whole groups of queries (Woodruff 1952)."""
    median = float(np.median(values))
    indicator = {"below": (values <= median).astype(float)}
    below = mean_scores(indicator, groups, resamples=resamples, seed=seed, level=level)["below"]
    shares = np.clip([0.5 + below.low - below.value, 0.5 + below.high - below.value], 0, 1)
    low, high = np.quantile(values, shares)
    return Score(value=median, low=float(low), high=float(high), per_item=values)


def _expected_reciprocal(better: int, tied: int, own: int) -> float:
    drawn = np.arange(tied + 1)
    left = tied + own - drawn
    reached = np.concatenate([[1.0], np.cumprod((tied - drawn) / left)[:-1]])
    return float((reached * own / left / (1 + better + drawn)).sum())


def unit_rows(vectors: Vectors, groups: Groups, name: str) -> Tensor:
    """The vectors in fp32 and of unit length; ValueError where there are none, or one is not finite."""
    rows = torch.as_tensor(vectors).float()
    if len(rows) != len(groups):
        raise ValueError(f"{len(groups)} groups do not fit {len(rows)} {name}")
    if len(rows) == 0:
        raise ValueError(f"There are no {name}")
    finite = rows.isfinite().all(1)
    if not finite.all():
        raise ValueError(f"Row {int(finite.int().argmin())} of the {name} is not finite")
    return torch.nn.functional.normalize(rows, dim=1)


def number_groups(query_groups: Groups, item_groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Both sides' groups as numbers, equal where the groups are; ValueError where names would meet numbers."""
    if (query_groups.dtype.kind in "iu") != (item_groups.dtype.kind in "iu"):  # numpy would make texts of the numbers
        raise ValueError(f"Groups of queries are {query_groups.dtype}, those of items {item_groups.dtype}")
    _, ids = np.unique(np.concatenate([query_groups, item_groups]), return_inverse=True)
    return ids[: len(query_groups)], ids[len(query_groups) :]


def _count(queries: Tensor, items: Tensor, first: np.ndarray, last: np.ndarray, chunk: int) -> Tensor:
    """Rows better, tied and own; query i's own items are those from first[i] to before last[i], both ascending."""
    best = torch.full((len(queries),), -torch.inf, device=queries.device)
    counts = torch.zeros(3, len(queries), dtype=torch.int64, device=queries.device)
    for rows, columns in _own_blocks(first, last, chunk):
        best[rows] = torch.maximum(best[rows], (queries[rows] @ items[columns].T).amax(1))
    floor, ceiling = (best - TIE)[:, None], (best + TIE)[:, None]
    for rows, columns in _own_blocks(first, last, chunk):
        counts[2, rows] += (queries[rows] @ items[columns].T >= floor[rows]).sum(1)
    tiles = -(-len(queries) // chunk) * -(-len(items) // chunk)
    with counting("Ranking", tiles) as advance:
        for rows in _slices(0, len(queries), chunk):
            ours = list(_own_blocks(first[rows], last[rows], chunk))
            for columns in _slices(0, len(items), chunk):
                cosines = queries[rows] @ items[columns].T
                _exclude(cosines, ours, columns)
                flags = torch.empty_like(cosines)  # floats: summed several times faster than booleans
                better = torch.gt(cosines, ceiling[rows], out=flags).sum(1).long()
                counts[0, rows] += better
                counts[1, rows] += torch.ge(cosines, floor[rows], out=flags).sum(1).long() - better
                advance(1)
    return counts


def _own_blocks(first: np.ndarray, last: np.ndarray, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of at most chunk x chunk that hold all pairs of a query and an own item, and no other pair."""
    starts = np.flatnonzero(np.diff(first, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(first)], strict=True):
        for rows in _slices(start, end, chunk):
            for columns in _slices(int(first[start]), int(last[start]), chunk):
                yield rows, columns


def _exclude(cosines: Tensor, ours: list[tuple[slice, slice]], columns: slice) -> None:
    for rows, own in ours:
        start, end = max(own.start, columns.start), min(own.stop, columns.stop)
        if start < end:
            cosines[rows, start - columns.start : end - columns.start] = -torch.inf


def _slices(start: int, end: int, chunk: int) -> Iterator[slice]:
    for at in range(start, end, chunk):
        yield slice(at, min(at + chunk, end))


__all__ = ["TIE", "Ranks", "mean_scores", "median_score", "rank_items", "retrieval_scores"]
