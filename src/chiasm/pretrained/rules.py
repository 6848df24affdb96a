"""How another layout's tensors become ours and back: a layout is a list of rules, each read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Rule(NamedTuple):
    """Some of our tensors, those of the other layout that say the same, and the way from them to ours (and back)."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    join: Callable[..., Tensors]
    split: Callable[..., Tensors] | None = None
    """None in layouts that are only read."""


def same(ours: str, theirs: str) -> Rule:
    """One tensor under two names."""
    return Rule((ours,), (theirs,), lambda x: (x,), lambda x: (x,))


def layer(ours: str, theirs: str) -> list[Rule]:
    """The weight and bias of a linear layer or a norm."""
    return [same(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]


def names(rules: Iterable[Rule]) -> set[str]:
    """The names that the other layout has."""
    return {name for rule in rules for name in rule.theirs}


def to_ours(rules: Iterable[Rule], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors, in fp32; ValueError names those whose shapes do not fit each other."""
    made: dict[str, Tensor] = {}
    for rule in rules:
        theirs = [tensors[name].float() for name in rule.theirs]
        try:
            made |= zip(rule.ours, rule.join(*theirs), strict=True)
        except (RuntimeError, IndexError) as error:
            told = ", ".join(f"{n} {tuple(t.shape)}" for n, t in zip(rule.theirs, theirs, strict=True))
            raise ValueError(f"the shapes of {told} do not fit each other, or config.json") from error
    return made


def to_theirs(rules: Iterable[Rule], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other layout's tensors."""
    made: dict[str, Tensor] = {}
    for rule in rules:
        assert rule.split is not None
        made |= zip(rule.theirs, rule.split(*(tensors[name] for name in rule.ours)), strict=True)
    return {name: tensor.contiguous() for name, tensor in made.items()}


def join_attention(
    key: Float[Tensor, "k c"], value: Float[Tensor, "v c"], value_bias: Float[Tensor, " v"],
    out: Float[Tensor, "d v"], out_bias: Float[Tensor, " d"],
) -> Tensors:  # fmt: skip
    """Our `key_value.weight`, `out.weight` and `out.bias`.

    Weights over the keys sum to 1, so that a value's bias passes through and is one with the output's.
    """
    return torch.cat([key, value]), out, out_bias + out @ value_bias


def attention(ours: str, key: str, value: str, out: str) -> Rule:
    """Keys, values and output of an attention of four linear layers with biases; its query is a `layer`."""

    def join(key: Tensor, _: Tensor, value: Tensor, value_bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensors:
        return join_attention(key, value, value_bias, out, out_bias)

    def split(key_value: Tensor, out: Tensor, out_bias: Tensor) -> Tensors:
        key, value = key_value.chunk(2)
        return key, torch.zeros_like(out_bias), value, torch.zeros_like(out_bias), out, out_bias

    return Rule(
        tuple(f"{ours}.{name}" for name in ("key_value.weight", "out.weight", "out.bias")),
        tuple(f"{theirs}.{part}" for theirs in (key, value, out) for part in ("weight", "bias")),
        join,
        split,
    )


def join_fused_attention(
    weight: Float[Tensor, "three_d d"], bias: Float[Tensor, " three_d"],
    out: Float[Tensor, "d d"], out_bias: Float[Tensor, " d"],
) -> Tensors:  # fmt: skip
    """Our attention's tensors, in the order of `FUSED`, of a `torch.nn.MultiheadAttention`."""
    query, key, value = weight.chunk(3)
    query_bias, _, value_bias = bias.chunk(3)
    return query, query_bias, *join_attention(key, value, value_bias, out, out_bias)


FUSED = ("query.weight", "query.bias", "key_value.weight", "out.weight", "out.bias")
MULTIHEAD = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
"""The names that belong to the two sides of `join_fused_attention`."""


def stem(ours: str, theirs: tuple[str, str, str], grid: tuple[int, int]) -> Rule:
    """The picture's first layer: patches without bias, the class token, and one table of positions for both."""

    def join(patches: Tensor, cls: Tensor, positions: Tensor) -> Tensors:
        table = positions[1:].T.unflatten(1, grid)
        return patches, patches.new_zeros(len(patches)), cls + positions[0], table

    def split(patches: Tensor, bias: Tensor, cls: Tensor, table: Tensor) -> Tensors:
        places = (table + bias[:, None, None]).flatten(1).T
        return patches, cls, torch.cat([torch.zeros_like(cls)[None], places])

    mine = ("embed.project.weight", "embed.project.bias", "cls", "positions.table")
    return Rule(tuple(f"{ours}.{name}" for name in mine), theirs, join, split)
