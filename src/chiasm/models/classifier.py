"""Classifiers: of a picture and a text that a fusion joins, and of a picture alone.

Letters: b batch · n tokens · d width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm.models.abilities import Classifier
from chiasm.models.adapted import ModuleTextConfig
from chiasm.models.brought import HfTextConfig
from chiasm.models.clip import build_text
from chiasm.models.fusion import EarlyConfig, FusionConfig, LateConfig, build_fusion
from chiasm.models.language import TextConfig, TextRules
from chiasm.models.vision import ConvConfig, VisionConfig, VitConfig, build_vision, check_pools
from chiasm.types import Batch, Encoded


@dataclass(frozen=True, kw_only=True)
class FusionClassifierConfig:
    """Sizes of both encoders and of what joins them; `classes` is completed by the data."""

    vision: VisionConfig = field(default_factory=lambda: VitConfig(depth=0))
    text: TextConfig | HfTextConfig | ModuleTextConfig = field(
        default_factory=lambda: TextConfig(depth=0, causal=False, pool="mean")
    )
    fusion: FusionConfig = field(default_factory=EarlyConfig)
    inputs: Literal["both", "picture", "text"] = "both"
    """A model of one modality is a baseline of the same sizes: the other's encoder is left out, and it is missing."""
    withhold: float = 0.0
    """The share of training examples of which one modality is withheld, so that the model can do without either."""
    vision_from: str = ""
    """The trained Clip or captioner whose picture encoder a new run starts with, locked unless `vision_tune`."""
    vision_tune: bool = False
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.withhold <= 1:
            raise ValueError(f"withhold is a share from 0 to 1, not {self.withhold}")
        if self.withhold and self.inputs != "both":
            raise ValueError(f"a model of the {self.inputs} alone has no modality that it could be withheld")
        of_tokens = not isinstance(self.fusion, LateConfig)
        if of_tokens and isinstance(self.vision, (VitConfig, ConvConfig)) and self.vision.pool not in ("none", "mean"):
            raise ValueError(
                f"this fusion reads tokens, and not what vision.pool {self.vision.pool} makes: set it to none"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels; (0, 0) where it sees none."""
        return (0, 0) if self.inputs == "text" else self.vision.size

    @property
    def rules(self) -> TextRules | None:
        """The ids and the length that texts keep to; None where it reads none."""
        return None if self.inputs == "picture" else self.text.rules

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return 0 if self.inputs == "picture" else self.text.vocabulary

    def completed(self, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> FusionClassifierConfig:
        """With what the tokenizer and the data know."""
        if self.rules is None:
            return replace(self, classes=classes)
        rules = replace(self.rules, unk=unk)
        return replace(self, text=replace(self.text, vocabulary=vocabulary, rules=rules), classes=classes)


class FusionClassifier(nn.Module, Classifier):
    """Two encoders, a fusion of what they return, and a linear layer on its pooled vector (as in 1505.00468)."""

    def __init__(self, config: FusionClassifierConfig, vision: nn.Module | None = None, text: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.vision: Any = build_vision(config.vision) if vision is None and config.inputs != "text" else vision
        self.text: Any = build_text(config.text) if text is None and config.inputs != "picture" else text
        widths = (config.fusion.width if side is None else side.width for side in (self.vision, self.text))
        self.fusion = build_fusion(config.fusion, *widths)
        self.head = _head(config.fusion.width, config.classes)
        if config.vision_from and not config.vision_tune and self.vision is not None:
            self.vision.requires_grad_(False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as the data call them."""
        return self.config.classes

    def classify(self, batch: Batch) -> Float[Tensor, "b classes"]:
        """The logit of each class; pictures of no pixels or texts of no tokens are missing.

        ValueError where both are.
        """
        picture = None if self.vision is None or not batch.images.shape[-1] else self.vision(batch.images)
        text = None if self.text is None or not batch.ids.shape[-1] else self.text(batch.ids)
        if self.training and self.config.withhold and picture is not None and text is not None:
            picture, text = _withheld(picture, text, self.config.withhold)
        return self.head(self.fusion(picture, text).pooled)


@dataclass(frozen=True, kw_only=True)
class PictureClassifierConfig:
    """Sizes of a picture encoder; `classes` is completed by the data."""

    vision: VisionConfig = field(default_factory=lambda: VitConfig(pool="cls"))
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_pools(self.vision)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.vision.size

    @property
    def rules(self) -> None:
        """None: it reads no texts."""

    @property
    def vocabulary(self) -> int:
        """None of its ids is a token's."""
        return 0

    def completed(self, vocabulary: int, unk: int | None, classes: tuple[str, ...] = ()) -> PictureClassifierConfig:
        """With what the data know."""
        return replace(self, classes=classes)


class PictureClassifier(nn.Module, Classifier):
    """A picture encoder and a linear layer on its pooled vector (2010.11929, section 3.1)."""

    def __init__(self, config: PictureClassifierConfig, vision: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.vision: Any = build_vision(config.vision) if vision is None else vision
        self.head = _head(self.vision.width, config.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, as the data call them."""
        return self.config.classes

    def classify(self, batch: Batch) -> Float[Tensor, "b classes"]:
        """The logit of each class."""
        return self.head(self.vision(batch.images).pooled)


def _head(width: int, classes: tuple[str, ...]) -> nn.Linear:
    if not classes:
        raise ValueError("a classifier needs classes: complete its configuration with those of the data")
    head = nn.Linear(width, len(classes))
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _withheld(picture: Encoded, text: Encoded, share: float) -> tuple[Encoded, Encoded]:
    """Both, with one of them masked in so many rows: the picture in half of these, the text in the other half."""
    draw = torch.rand(len(picture.tokens), 1, device=picture.tokens.device)
    return _kept(picture, draw >= share / 2), _kept(text, draw < 1 - share / 2)


def _kept(encoded: Encoded, rows: Tensor) -> Encoded:
    keep = rows.expand(encoded.tokens.shape[:2])
    return replace(encoded, keep=keep if encoded.keep is None else encoded.keep & keep)


__all__ = ["FusionClassifier", "FusionClassifierConfig", "PictureClassifier", "PictureClassifierConfig"]
