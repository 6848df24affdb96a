"""From an RGB picture to what a model sees (resize, normalise), and random changes for training (augment)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from chiasm.data.picture import read_picture
from chiasm.types import Picture

NO_PICTURES = 0, 0
"""The size of the pictures of a model that sees none."""
LUMINANCE = (0.299, 0.587, 0.114)
TRIM_TOLERANCE = 24
"""Of 255: how far a margin's pixels may differ from its colour, so that JPEG noise still counts as margin."""
TRIM_MARGIN_SHARE = 0.04
"""Of the content's longer side: the margin left around it, so that nothing touches the edge."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How pictures become model input; it travels with the weights, since another rule is another model."""

    size: tuple[int, int] = (64, 64)
    """Height and width in pixels; (0, 0) for a model that sees no pictures, so that none is read."""
    resize: Literal["squash", "crop", "pad"] = "pad"
    """pad: the whole picture between white bars; crop: the centre of the short side, as CLIP; squash: distorted."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    trim: bool = False
    """Cut away the uniform margin around the content first: for icons and product photos."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fast_decode: bool = True
    """Decode large JPEGs at a reduced scale and resize with short weights: several times faster, and some shades off
    where a photo is busy. Published weights come with False, as they were trained."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 and self.size != NO_PICTURES:
            raise ValueError(f"size is {self.size}, it must be at least one pixel each way")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, it must be positive")


def read_pixels(picture: Picture, config: PreprocessConfig) -> UInt8[np.ndarray, "height width 3"]:
    """A picture of any kind, read and resized: the one way from a file to pixels. Raises BrokenPicture."""
    height, width = config.size
    # Decoded to twice the size or more: what the bicubic filter then sees is as good as the full picture.
    enough = (2 * height, 2 * width) if config.fast_decode and not config.trim else None
    return preprocess(read_picture(picture, at_least_pixels=enough), config)


def preprocess(
    pixels: UInt8[np.ndarray, "full_height full_width 3"], config: PreprocessConfig
) -> UInt8[np.ndarray, "height width 3"]:
    """An RGB picture trimmed and resized as `config` says, antialiased."""
    if config.trim:
        pixels = _trimmed(pixels)
    (height, width), (full_height, full_width) = config.size, pixels.shape[:2]
    if config.resize == "squash":
        return _resized(pixels, height, width, config)
    if config.resize == "crop":
        if height * full_width >= width * full_height:
            covering = int(height * full_width / full_height), height
        else:
            covering = width, int(width * full_height / full_width)
        left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
        return _resized(pixels, covering[1], covering[0], config)[top : top + height, left : left + width]
    scale = min(width / full_width, height / full_height)
    inside = _resized(pixels, max(1, round(full_height * scale)), max(1, round(full_width * scale)), config)
    if inside.shape[:2] == config.size:
        return inside
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    top, left = (height - inside.shape[0]) // 2, (width - inside.shape[1]) // 2
    canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return canvas


def _resized(
    pixels: UInt8[np.ndarray, "full_height full_width 3"], height: int, width: int, config: PreprocessConfig
) -> UInt8[np.ndarray, "height width 3"]:
    """Pillow's antialiased resize; with `fast_decode` PyTorch's, which is several times faster.

    The filter is the same. Weights have 16 bits, and rows always come before columns: of some pictures Pillow takes
    columns first, which shows where the first pass saturates.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if not config.fast_decode:
        image = Image.fromarray(pixels)
        return np.array(image.resize((width, height), Image.Resampling[config.interpolation.upper()]))
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return F.interpolate(images, (height, width), mode=config.interpolation, antialias=True)[0].permute(1, 2, 0).numpy()


def unit_images(
    pixels: UInt8[Tensor, "b height width 3"] | UInt8[np.ndarray, "b height width 3"],
) -> Float[Tensor, "b 3 height width"]:
    """Pixels as floats in 0..1, channels first."""
    pixels = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)


def standardize(
    images: Float[Tensor, "b 3 height width"], config: PreprocessConfig
) -> Float[Tensor, "b 3 height width"]:
    """Images in 0..1 less the mean, over the standard deviation."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (config.mean, config.std))
    return (images - mean).div_(std)


def normalize(
    pixels: UInt8[Tensor, "b height width 3"] | UInt8[np.ndarray, "b height width 3"], config: PreprocessConfig
) -> Float[Tensor, "b 3 height width"]:
    """Pixels as a model takes them: standardized unit images, up to rounding, in one pass over them."""
    pixels = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
    rows, height, width, _ = pixels.shape
    images = torch.empty(rows, 3, height, width, device=pixels.device)
    for channel, (mean, std) in enumerate(zip(config.mean, config.std, strict=True)):
        shift = torch.tensor(-mean / std, device=pixels.device)
        torch.add(shift, pixels[..., channel], alpha=1 / (255 * std), out=images[:, channel])
    return images


def _trimmed(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "inner_height inner_width 3"]:
    signed = pixels.astype(np.int16)
    edge = np.concatenate([signed[0], signed[-1], signed[:, 0], signed[:, -1]])
    content = (np.abs(signed - np.median(edge, axis=0)) > TRIM_TOLERANCE).any(axis=-1)
    if not content.any():
        return pixels
    (top, *_, bottom), (left, *_, right) = (np.flatnonzero(content.any(axis=axis)).repeat(2) for axis in (1, 0))
    margin = math.ceil(TRIM_MARGIN_SHARE * (max(bottom - top, right - left) + 1))
    left, top = max(0, left - margin), max(0, top - margin)
    return pixels[top : bottom + margin + 1, left : right + margin + 1]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes in training; the defaults are mild and safe for photos. Amounts are 0, probabilities in 0..1."""

    scale: tuple[float, float] = (0.85, 1.15)
    rotation_degrees: float = 5.0
    translation: float = 0.05
    """Share of the height and the width."""
    aspect: float = 0.05
    shear_degrees: float = 0.0
    flip: bool = False
    """Mirror every other picture: wrong where captions say left or right, or pictures show writing."""
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.15
    hue_degrees: float = 5.0
    gray: float = 0.0
    """Probability, as all below: without colour."""
    shuffle_channels: float = 0.0
    outline: float = 0.0
    """Dark lines where colours change."""
    posterize: float = 0.0
    """Two to five shades per channel."""
    blur: float = 0.0
    erase: float = 0.0
    """A rectangle of one colour over the picture."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}, it must be a positive range (low, high)")
        for name in ("gray", "shuffle_channels", "outline", "posterize", "blur", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be a probability in 0..1")


def augment_for(name: Literal["none", "light", "strong"]) -> AugmentConfig:
    """A preset: none, light (the defaults, for photos), or strong (for icons and drawings: other styles too)."""
    if name == "light":
        return AugmentConfig()
    if name == "strong":
        return AugmentConfig(
            scale=(0.75, 1.15), rotation_degrees=15.0, translation=0.08, aspect=0.15, shear_degrees=8.0,
            brightness=0.2, contrast=0.3, saturation=0.5, hue_degrees=20.0, gray=0.15, shuffle_channels=0.05,
            outline=0.4, posterize=0.2, blur=0.15, erase=0.15,
        )  # fmt: skip
    return AugmentConfig(
        scale=(1.0, 1.0), rotation_degrees=0.0, translation=0.0, aspect=0.0,
        brightness=0.0, contrast=0.0, saturation=0.0, hue_degrees=0.0,
    )  # fmt: skip


def augment(
    images: Float[Tensor, "b 3 height width"], config: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "b 3 height width"]:
    """Images in 0..1, each changed at random in style, place, colour and by a rectangle.

    Equal generators give equal changes. What a configuration leaves out costs nothing. The input stays as it is.
    """
    images = _some(images, config.outline, generator, _outline)
    images = _some(images, config.posterize, generator, _posterize)
    images = _some(images, config.blur, generator, _blur)
    images = _move(images, config, generator)
    images = _colour(images, config, generator)
    return _some(images, config.erase, generator, _erase)


def _some(
    images: Tensor, probability: float, generator: torch.Generator, change: Callable[[Tensor, torch.Generator], Tensor]
) -> Tensor:
    if probability == 0:
        return images
    rows = (torch.rand(len(images), generator=generator) < probability).nonzero()[:, 0]
    return images.index_copy(0, rows, change(images[rows], generator)) if len(rows) else images


def _uniform(rows: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, generator=generator) * (high - low) + low


def _line_pixels(images: Tensor) -> int:
    """How thick lines and blurs are, so that they look the same at every resolution: 3 at 64 pixels."""
    return 2 * max(1, round(min(images.shape[2:]) / 64)) + 1


def _outline(images: Tensor, generator: torch.Generator) -> Tensor:
    thick = _line_pixels(images)
    both = F.max_pool2d(torch.cat([images, -images]), thick, stride=1, padding=thick // 2)
    steps = (both[: len(images)] + both[len(images) :]).amax(dim=1, keepdim=True)
    darkness = _uniform(len(images), 0.5, 1.0, generator)[:, None, None, None]
    return images * (1 - darkness * ((steps - 0.1) / 0.2).clamp(0, 1))


def _posterize(images: Tensor, generator: torch.Generator) -> Tensor:
    steps = torch.randint(1, 5, (len(images), 1, 1, 1), generator=generator)
    return (images * steps).round() / steps


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    thick = _line_pixels(images)
    return F.avg_pool2d(images, thick, stride=1, padding=thick // 2, count_include_pad=False)


def _move(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """One affine map per picture, sampled once; beyond the edge its nearest colour goes on."""
    amounts = config.rotation_degrees, config.translation, config.aspect, config.shear_degrees, config.flip
    if config.scale == (1, 1) and not any(amounts):
        return images
    rows, _, height, width = images.shape
    angle = torch.deg2rad(_uniform(rows, -config.rotation_degrees, config.rotation_degrees, generator))
    shear = torch.deg2rad(_uniform(rows, -config.shear_degrees, config.shear_degrees, generator)).tan()
    stretch = _uniform(rows, -config.aspect, config.aspect, generator).exp().sqrt()
    scale = _uniform(rows, math.log(config.scale[0]), math.log(config.scale[1]), generator).exp()
    mirror = 1 - 2 * (torch.rand(rows, generator=generator) < 0.5 * config.flip).float()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(rows)
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(rows, 2, 2)
    skew = torch.stack([mirror * stretch, shear, zero, 1 / stretch], dim=1).view(rows, 2, 2)
    theta = torch.empty(rows, 2, 3)
    theta[:, :, :2] = turn @ skew / scale[:, None, None]
    theta[:, 0, 1] *= height / width  # the grid goes from -1 to 1 both ways, turns are in pixels
    theta[:, 1, 0] *= width / height
    theta[:, :, 2] = _uniform(2 * rows, -2 * config.translation, 2 * config.translation, generator).view(rows, 2)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp_(0, 1)


def _colour(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """All changes of colour as one 3 x 3 matrix and one offset per picture; grey stays grey but for its brightness."""
    amounts = config.brightness, config.contrast, config.saturation, config.hue_degrees
    if not any((*amounts, config.gray, config.shuffle_channels)):
        return images
    rows = len(images)
    brightness, contrast, saturation = (_uniform(rows, 1 - x, 1 + x, generator)[:, None, None] for x in amounts[:3])
    saturation[torch.rand(rows, generator=generator) < config.gray] = 0
    hue = torch.deg2rad(_uniform(rows, -config.hue_degrees, config.hue_degrees, generator))[:, None, None]
    orders = torch.rand(rows, 3, generator=generator).argsort(dim=1)
    orders[torch.rand(rows, generator=generator) >= config.shuffle_channels] = torch.arange(3)
    identity, third = torch.eye(3), torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = hue.cos() * identity + (1 - hue.cos()) * third + hue.sin() * across  # about the grey axis (Rodrigues)
    matrix = saturation * identity + (1 - saturation) * torch.tensor(LUMINANCE)
    matrix = brightness * contrast * matrix @ turn @ identity[orders]
    offset = brightness * (1 - contrast) / 2
    return torch.baddbmm(offset.to(images), matrix.to(images), images.flatten(2)).view_as(images).clamp_(0, 1)


def _erase(images: Tensor, generator: torch.Generator) -> Tensor:
    rows, _, height, width = images.shape
    inside = torch.ones(rows, 1, 1, 1, dtype=torch.bool)
    for shape, pixels in (((rows, 1, height, 1), height), ((rows, 1, 1, width), width)):
        side = _uniform(rows, 0.1, 0.4, generator)
        start = torch.rand(rows, generator=generator) * (1 - side)
        place = (torch.arange(pixels) + 0.5) / pixels
        inside = inside & ((place >= start[:, None]) & (place < (start + side)[:, None])).view(shape)
    return torch.where(inside.to(images.device), torch.rand(rows, 3, 1, 1, generator=generator).to(images), images)
