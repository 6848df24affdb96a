"""Picture encoders: the vision transformer (patches or a convolutional stem) and a small convolutional network.

Letters: b batch · c channels · n tokens (rows × columns of the grid) · d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import assert_never

from chiasm.models.adapted import Adapted, ModuleVisionConfig
from chiasm.models.brought import HfVision, HfVisionConfig
from chiasm.nn import Activation, Block, GridPositions, LatentReader, PatchEmbed, init_weights
from chiasm.types import Encoded

Pool = Literal["none", "cls", "mean", "attention", "map"]
"""`attention` is a learned query that reads the normalised grid; `map` is SigLIP's, which has no norms of its own and
the blocks' activation and sizes."""


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Sizes of a vision transformer; `size` is (height, width) in pixels, any multiple of `patch_pixels`."""

    size: tuple[int, int] = (64, 64)
    patch_pixels: int = 8
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    pool: Pool = "none"
    stem: Literal["patch", "conv"] = "patch"
    """`conv` puts a residual CNN of the same stride in front (2106.14881): far better on small data."""
    dropout: float = 0.0
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    norm_first: bool = False
    """A layer norm before the first block too, as OpenAI's CLIP has it."""
    registers: int = 0
    """Learned tokens without a place that take part in the blocks and are then dropped (2309.16588)."""
    patch_dropout: float = 0.0
    """Share of the patches that training does not look at, others in every picture and step (FLIP, 2212.00794)."""

    def __post_init__(self) -> None:
        _check_size(self.size, self.patch_pixels)
        if self.registers < 0:
            raise ValueError(f"registers is {self.registers}, it cannot be negative")
        if not 0 <= self.patch_dropout < 1:
            raise ValueError(f"patch_dropout is {self.patch_dropout}, it must be at least 0 and below 1")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which 2-D positions need")
        if self.stem == "conv" and (self.patch_pixels < 2 or math.log2(self.patch_pixels) % 1):
            raise ValueError(
                f"a conv stem halves the picture, so patch_pixels is a power of 2 from 2 on, not {self.patch_pixels}"
            )
        if self.stem == "conv" and self.width % 8:
            raise ValueError(f"width {self.width} is not a multiple of 8, which a conv stem's group norms need")


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Sizes of a convolutional encoder: one stage per entry of `widths`, each halving the picture."""

    size: tuple[int, int] = (32, 32)
    widths: tuple[int, ...] = (32, 64, 128)
    pool: Literal["none", "mean", "attention"] = "none"
    """Without a class token: a CNN has no layer in which one would read the grid."""

    def __post_init__(self) -> None:
        if not self.widths or any(w % 8 for w in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of 8, at least one")
        _check_size(self.size, 2 ** len(self.widths))


VisionConfig = VitConfig | ConvConfig | HfVisionConfig | ModuleVisionConfig


def check_pools(config: VisionConfig) -> None:
    """ValueError for an encoder that makes no one vector of a picture."""
    if isinstance(config, (VitConfig, ConvConfig)) and config.pool == "none":
        raise ValueError("a picture needs one vector, so vision.pool must be cls, mean, attention or map, not none")


def build_vision(config: VisionConfig) -> Vit | Conv | HfVision | Adapted:
    """The picture encoder that a configuration describes."""
    match config:
        case VitConfig():
            return Vit(config)
        case ConvConfig():
            return Conv(config)
        case HfVisionConfig():
            return HfVision(config)
        case ModuleVisionConfig():
            return Adapted(config)
        case _:
            assert_never(config)


class Vit(nn.Module):
    """The vision transformer (2010.11929): patches, positions, pre-norm blocks.

    Differs from the paper: positions are a grid that starts as sin-cos and is interpolated for other picture sizes,
    and pooling is a choice; `tokens` are the grid alone, the class token is `pooled`, registers are dropped.
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config = config
        self.width = config.width
        if config.stem == "conv":
            stages = int(math.log2(config.patch_pixels))
            widths = [max(8, config.width // 2**i // 8 * 8) for i in reversed(range(1, stages))]
            self.embed: nn.Module = ConvStages((*widths, config.width))
        else:
            self.embed = PatchEmbed(config.patch_pixels, config.width)
        self.positions = GridPositions(*self.grid(config.size), config.width)
        self.cls = nn.Parameter(torch.randn(config.width) * 0.02) if config.pool == "cls" else None
        self.registers = nn.Parameter(torch.randn(config.registers, config.width) * 0.02) if config.registers else None
        self.norm_first = nn.LayerNorm(config.width, config.norm_eps) if config.norm_first else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                dropout=config.dropout,
                activation=config.activation,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        sizes = {"mlp_ratio": config.mlp_ratio, "activation": config.activation, "norm_eps": config.norm_eps}
        reading = {"norm_read": False, **sizes} if config.pool == "map" else {}
        self.pool = Pooling(config.pool, config.width, config.heads, **reading)
        init_weights(self, config.depth)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture of this size in pixels."""
        return size[0] // self.config.patch_pixels, size[1] // self.config.patch_pixels

    def forward(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """`tokens` in row order, `pooled` unless the pooling is `none`; in training without those that are dropped."""
        grid = self.embed(images)
        x = (grid + self.positions(*grid.shape[2:])).flatten(2).transpose(1, 2)
        if self.training and self.config.patch_dropout:
            x = without_some(x, self.config.patch_dropout)
        if self.registers is not None:
            x = torch.cat([x, self.registers.expand(len(x), -1, -1)], 1)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1)
        x = self.norm_first(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, : x.shape[1] - self.config.registers])
        if self.cls is not None:
            return Encoded(tokens=x[:, 1:], pooled=x[:, 0])
        return self.pool(x)


def without_some(x: Float[Tensor, "b n d"], share: float) -> Float[Tensor, "b kept d"]:
    """Without this share of the tokens, in each row others, by torch's generator; one stays at least."""
    b, n, d = x.shape
    kept = max(1, round(n * (1 - share)))
    places = torch.rand(b, n, device=x.device).topk(kept).indices.sort().values
    return x.gather(1, places[..., None].expand(-1, -1, d))


class Conv(nn.Module):
    """A small residual CNN that returns its last grid as tokens, with a learned position for each place."""

    def __init__(self, config: ConvConfig):
        super().__init__()
        self.config = config
        self.width = config.widths[-1]
        self.stages = ConvStages(config.widths)
        self.positions = GridPositions(*self.grid(config.size), self.width)
        self.norm = nn.LayerNorm(self.width)
        self.pool = Pooling(config.pool, self.width, heads=4)
        init_weights(self, len(config.widths))

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the tokens of a picture of this size in pixels."""
        stride = 2 ** len(self.config.widths)
        return size[0] // stride, size[1] // stride

    def forward(self, images: Float[Tensor, "b c height width"]) -> Encoded:
        """`tokens` in row order, `pooled` unless the pooling is `none`."""
        grid = self.stages(images)
        return self.pool(self.norm((grid + self.positions(*grid.shape[2:])).flatten(2).transpose(1, 2)))


class ConvStages(nn.Sequential):
    """Stages of a residual CNN: each halves the picture and refines it once; channels-last, the fast layout."""

    def __init__(self, widths: tuple[int, ...]):
        stages: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), Residual(after)]
        super().__init__(*stages)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """The last stage's grid."""
        return super().forward(images.contiguous(memory_format=torch.channels_last))


class Residual(nn.Module):
    """x + conv(norm(gelu(conv(norm(x))))): the pre-activation residual unit (1603.05027), with group norm.

    Group norm and not batch norm: a picture's features must not depend on its batch.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.widen = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.GELU()

    def forward(self, x: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b d rows columns"]:
        """The same shape."""
        return x + self.mix(self.act(self.widen(self.act(self.norm(x)))))


class Pooling(nn.Module):
    """How tokens become one vector; `none` and `cls` (which the encoder itself holds) have nothing to do here."""

    def __init__(self, kind: Pool, width: int, heads: int, **reading: Any):
        super().__init__()
        self.kind = kind
        self.reader = LatentReader(1, width, heads, **reading) if kind in ("attention", "map") else None

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Encoded:
        """The tokens, with their pooled vector where there is one."""
        encoded = Encoded(tokens=tokens)
        if self.reader is not None:
            return Encoded(tokens=tokens, pooled=self.reader(encoded).pooled)
        return Encoded(tokens=tokens, pooled=tokens.mean(1)) if self.kind == "mean" else encoded


def _check_size(size: tuple[int, int], patch_pixels: int) -> None:
    if patch_pixels < 1 or min(size) < 1 or any(side % patch_pixels for side in size):
        raise ValueError(
            f"a picture of {size[0]} x {size[1]} pixels is not a whole number of {patch_pixels}-pixel patches"
        )
