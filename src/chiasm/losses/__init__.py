"""Losses as functions of tensors: contrastive ones over pairs, and the next token's cross-entropy."""

from chiasm.losses.contrastive import info_nce, info_nce_floor, sigmoid_pairs
from chiasm.losses.next_token import next_token

__all__ = ["info_nce", "info_nce_floor", "next_token", "sigmoid_pairs"]
