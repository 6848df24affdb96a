"""Any module as an encoder of ours: the user's own, handed over in Python or named by a function that makes it.

Letters: b batch · n tokens · l text length · d width.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Literal, get_type_hints

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.errors import UserError
from chiasm.models.language import TextRules
from chiasm.types import Encoded


@dataclass(frozen=True, kw_only=True)
class ModuleVisionConfig:
    """A picture encoder that the user's own function makes, named `package.module:function`.

    Loading a bundle with such an encoder imports and calls that function: code of this machine, never of the bundle.
    An empty `factory` is a module that lives in this process alone, and cannot be saved.
    """

    factory: str
    width: int
    size: tuple[int, int] = (224, 224)
    tune: bool = False


@dataclass(frozen=True, kw_only=True)
class ModuleTextConfig:
    """A text encoder that the user's own function makes; as `ModuleVisionConfig`."""

    factory: str
    width: int
    rules: TextRules = field(default_factory=TextRules)
    vocabulary: int = 0
    tune: bool = False


class Adapted(nn.Module):
    """Any module as an encoder: its output may be one vector, tokens, or a grid ("b d", "b n d", "b d rows columns").

    It is called with the pictures, or with the ids of texts and their `keep`, which is False at pads. Without `module`,
    `config.factory` makes it.
    """

    def __init__(self, config: ModuleVisionConfig | ModuleTextConfig, module: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.width = config.width
        self.module = (make_module(config.factory) if module is None else module).requires_grad_(config.tune)
        self.train(self.training)

    def train(self, mode: bool = True) -> Adapted:
        """A locked tower stays in evaluation mode."""
        return super().train(mode and self.config.tune)

    def forward(self, inputs: Tensor) -> Encoded:
        """Of pictures or ids: tokens and the pooled vector; ValueError where the module returns something else."""
        keep = None if isinstance(self.config, ModuleVisionConfig) else text_keep(inputs, self.config.rules.eot)
        with torch.set_grad_enabled(self.config.tune and torch.is_grad_enabled()):
            out = self.module(inputs) if keep is None else self.module(inputs, keep)
            tokens = as_tokens(out)
            if tokens.shape[-1] != self.width:
                raise ValueError(f"the module's vectors have width {tokens.shape[-1]}, the configuration {self.width}")
            if out.ndim == 2:
                return Encoded(tokens=tokens, pooled=out)
            return pool_tokens(tokens, "mean", keep=keep)


def make_module(factory: str) -> nn.Module:
    """What the user's `package.module:function` returns.

    A bundle may name any function, so only one that is declared to return an `nn.Module` is called; the module it
    lives in is imported all the same. UserError where there is none such.
    """
    place, _, name = factory.partition(":")
    try:
        function = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{factory!r} cannot be imported: {error}", "Write it as package.module:function; for a "
                        "file in this folder, put PYTHONPATH=. before the command.") from error  # fmt: skip
    declared = get_type_hints(function).get("return") if inspect.isfunction(function) else function
    if not (inspect.isclass(declared) and issubclass(declared, nn.Module)):
        raise UserError(f"{factory!r} is no function that is declared to return an nn.Module",
                        "Declare it: def encoder() -> nn.Module")  # fmt: skip
    return function()


def as_tokens(out: Tensor) -> Float[Tensor, "b n d"]:
    """An encoder's output (a vector, tokens, or a grid) as tokens; ValueError where it is none of these."""
    if out.ndim == 4:
        return out.flatten(2).transpose(1, 2)
    if out.ndim == 2:
        return out[:, None]
    if out.ndim != 3:
        raise ValueError(f"an encoder returns b d, b n d, or b d rows columns, not {tuple(out.shape)}")
    return out


def text_keep(ids: Int[Tensor, "b l"], eot: int) -> Bool[Tensor, "b l"]:
    """True up to the first EOT of each text, whatever the id of its pads; ValueError for a text without EOT."""
    ends = ids == eot
    if not ids.is_meta and not bool(ends.any(1).all()):
        raise ValueError(f"a text has no EOT (id {eot}), at which it ends")
    return torch.arange(ids.shape[1], device=ids.device) <= ends.int().argmax(1)[:, None]


def pool_tokens(
    tokens: Float[Tensor, "b n d"],
    pool: Literal["own", "cls", "mean"],
    own: Tensor | None = None,
    keep: Bool[Tensor, "b n"] | None = None,
) -> Encoded:
    """Tokens with their vector: the encoder's `own` (ValueError where it has none), the first, or the mean."""
    if pool == "own":
        if own is None:
            raise ValueError("the encoder has no pooled output of its own: pool by cls or mean")
        return Encoded(tokens=tokens, keep=keep, pooled=own.flatten(1))
    if pool == "cls":
        rest = None if keep is None else keep[:, 1:]
        return Encoded(tokens=tokens[:, 1:], keep=rest, pooled=tokens[:, 0])
    return Encoded(tokens=tokens, keep=keep, pooled=Encoded(tokens=tokens, keep=keep).mean())


__all__ = ["Adapted", "ModuleTextConfig", "ModuleVisionConfig", "as_tokens", "make_module", "pool_tokens", "text_keep"]
