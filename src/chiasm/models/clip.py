"""CLIP: a picture encoder and a text encoder whose vectors meet in one space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import assert_never

from chiasm.models.abilities import Embedder
from chiasm.models.adapted import Adapted, ModuleTextConfig
from chiasm.models.brought import HfText, HfTextConfig
from chiasm.models.language import TextConfig, TextEncoder, TextRules
from chiasm.models.vision import VisionConfig, VitConfig, build_vision, check_pools

MAX_LOG_SCALE = math.log(100)
"""Where training clamps the scale: above it, it becomes unstable (2103.00020, section 2.5)."""
START_LOG_SCALE = {"softmax": math.log(1 / 0.07), "sigmoid": math.log(10)}


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of both towers and of the space in which they meet."""

    vision: VisionConfig = field(default_factory=lambda: VitConfig(pool="mean"))
    text: TextConfig | HfTextConfig | ModuleTextConfig = field(default_factory=TextConfig)
    embed_dim: int = 256
    similarity: Literal["softmax", "sigmoid"] = "softmax"
    """How cosines become probabilities, and so the loss: among all (InfoNCE, 2103.00020), or pair by pair (SigLIP,
    2303.15343), which has a bias."""

    projection: Literal["both", "text"] = "both"
    """Both towers' vectors by a matrix each, as CLIP; or the text's alone, with a bias, as SigLIP."""

    def __post_init__(self) -> None:
        check_pools(self.vision)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size

    @property
    def rules(self) -> TextRules:
        """The ids and the length that texts keep to."""
        return self.text.rules

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return self.text.vocabulary

    @property
    def classes(self) -> None:
        """None: it knows no classes."""

    def completed(self, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> ClipConfig:
        """With what the tokenizer and the data know."""
        rules = replace(self.rules, unk=unk)
        return replace(self, text=replace(self.text, vocabulary=vocabulary, rules=rules))


class Clip(nn.Module, Embedder):
    """Two encoders, one linear projection each, and the scale (and bias) of their similarities (2103.00020)."""

    def __init__(self, config: ClipConfig, vision: nn.Module | None = None, text: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.vision: Any = build_vision(config.vision) if vision is None else vision
        self.text: Any = build_text(config.text) if text is None else text
        if config.projection == "text" and self.vision.width != config.embed_dim:
            raise ValueError(f"a picture's {self.vision.width} values need a projection to {config.embed_dim}")
        both = config.projection == "both"
        self.project_image = projection(self.vision.width, config.embed_dim) if both else nn.Identity()
        self.project_text = projection(self.text.width, config.embed_dim, bias=not both)
        self.log_scale = nn.Parameter(torch.tensor(START_LOG_SCALE[config.similarity]))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if config.similarity == "sigmoid" else None

    @classmethod
    def from_parts(cls, vision: Any, text: Any, **sizes: Any) -> Clip:
        """Of two encoders that exist (ours, `HfVision`, `HfText`, or `Adapted` modules); `sizes` as in `ClipConfig`."""
        return cls(ClipConfig(vision=vision.config, text=text.config, **sizes), vision, text)

    def embed_images(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b e"]:
        """One vector of unit length per picture."""
        pooled = self.vision(images).pooled
        assert pooled is not None
        return unit(self.project_image(pooled))

    def embed_texts(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
        """One vector of unit length per text, which ends at its first EOT."""
        pooled = self.text(ids).pooled
        assert pooled is not None
        return unit(self.project_text(pooled))


def build_text(config: TextConfig | HfTextConfig | ModuleTextConfig) -> TextEncoder | HfText | Adapted:
    """The text encoder that a configuration describes."""
    match config:
        case TextConfig():
            return TextEncoder(config)
        case HfTextConfig():
            return HfText(config)
        case ModuleTextConfig():
            return Adapted(config)
        case _:
            assert_never(config)


def projection(width: int, embed_dim: int, bias: bool = False) -> nn.Linear:
    """The matrix from an encoder's vector into the common space."""
    project = nn.Linear(width, embed_dim, bias=bias)
    nn.init.normal_(project.weight, std=width**-0.5)
    if bias:
        nn.init.zeros_(project.bias)
    return project


def unit(vectors: Float[Tensor, "b e"]) -> Float[Tensor, "b e"]:
    """The vectors at length 1, in fp32 whatever they were computed in."""
    return F.normalize(vectors.float(), dim=-1)


__all__ = ["MAX_LOG_SCALE", "START_LOG_SCALE", "Clip", "ClipConfig", "build_text", "projection", "unit"]
