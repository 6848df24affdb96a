"""Losses as functions of tensors: contrastive ones over pairs, and cross-entropy."""

from chiasm.losses.cached import cached_backward, refuse_batch_norm
from chiasm.losses.contrastive import info_nce, info_nce_floor, sigmoid_pairs
from chiasm.losses.cross_entropy import cross_entropy
from chiasm.losses.ranks import gather, info_nce_across_ranks, sigmoid_across_ranks

__all__ = [
    "cached_backward",
    "cross_entropy",
    "gather",
    "info_nce",
    "info_nce_across_ranks",
    "info_nce_floor",
    "refuse_batch_norm",
    "sigmoid_across_ranks",
    "sigmoid_pairs",
]
