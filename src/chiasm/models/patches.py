"""Pictures, sounds and videos cut into patches: what an adapter projects, and what a decoder can be asked to give back.

Letters: b batch · n patches · f values of a patch · c channels.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import assert_never

from chiasm.models.inputs import MelInput, PictureInput, VideoInput, WaveInput
from chiasm.models.mel import LogMel
from chiasm.types import Encoded


class PicturePatches(nn.Module):
    """Square patches, their values channel by channel."""

    def __init__(self, config: PictureInput):
        super().__init__()
        self.size, self.side = config.size, config.patch_pixels
        self.grid = tuple(pixels // self.side for pixels in self.size)
        self.values = 3 * self.side**2

    def forward(self, images: Float[Tensor, "b c height width"], keep: Bool[Tensor, " b"] | None = None) -> Encoded:
        """Patches in row order; `keep` is False for rows that have no picture."""
        check_size("pictures", tuple(images.shape[2:]), self.size)
        patches = images.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))  # b c rows p columns p
        return _rows(patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), keep)


class VideoPatches(nn.Module):
    """Blocks of some frames' square patches, by time, row and column."""

    def __init__(self, config: VideoInput):
        super().__init__()
        self.size, self.side, self.span = (config.frames, *config.size), config.patch_pixels, config.patch_frames
        self.grid = (config.frames // self.span, *(pixels // self.side for pixels in config.size))
        self.values = 3 * self.span * self.side**2

    def forward(
        self, videos: Float[Tensor, "b frames c height width"], keep: Bool[Tensor, " b"] | None = None
    ) -> Encoded:
        """Blocks in the order of the grid; `keep` is False for rows that have no video."""
        check_size("videos", (videos.shape[1], *videos.shape[3:]), self.size)
        blocks = videos.unflatten(4, (-1, self.side)).unflatten(3, (-1, self.side)).unflatten(1, (-1, self.span))
        return _rows(
            blocks.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4).flatten(1, 3), keep
        )  # of b t q c rows p columns p


class WavePatches(nn.Module):
    """Some samples each, one after the other."""

    def __init__(self, config: WaveInput):
        super().__init__()
        self.samples, self.values = config.samples, config.patch_samples
        self.grid = (math.ceil(self.samples / self.values),)

    def forward(self, sounds: Float[Tensor, "b samples"], keep: Bool[Tensor, "b samples"] | None = None) -> Encoded:
        """As many patches as the longest sound needs; padding is silence, and patches of nothing else are masked."""
        sounds, kept = _padded(sounds, keep, self.values, self.samples)
        return Encoded(tokens=sounds.unflatten(1, (-1, self.values)), keep=kept)


class MelPatches(nn.Module):
    """Some frames of a log-mel spectrogram each, one after the other."""

    def __init__(self, config: MelInput):
        super().__init__()
        self.mel = LogMel(config)
        self.samples, self.frames = config.samples, config.patch_frames
        self.values = self.frames * config.mels
        self.grid = (math.ceil(self.samples / (self.mel.hop * self.frames)),)

    def forward(self, sounds: Float[Tensor, "b samples"], keep: Bool[Tensor, "b samples"] | None = None) -> Encoded:
        """As many patches as the longest sound needs; those that begin after a sound's end are masked."""
        sounds, kept = _padded(sounds, keep, self.mel.hop * self.frames, self.samples)
        return Encoded(tokens=self.mel(sounds).unflatten(1, (-1, self.frames)).flatten(2), keep=kept)


Patches = PicturePatches | VideoPatches | WavePatches | MelPatches


def build_patches(config: PictureInput | VideoInput | WaveInput | MelInput) -> Patches:
    """What cuts the values of an input."""
    match config:
        case PictureInput():
            return PicturePatches(config)
        case VideoInput():
            return VideoPatches(config)
        case WaveInput():
            return WavePatches(config)
        case MelInput():
            return MelPatches(config)
        case _:
            assert_never(config)


def check_size(what: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """ValueError where the given size is not the wanted one."""
    if given != wanted:
        raise ValueError(f"{what} are of size {given}, the model's are of {wanted}")


def _rows(patches: Float[Tensor, "b n f"], keep: Bool[Tensor, " b"] | None) -> Encoded:
    return Encoded(tokens=patches, keep=None if keep is None else keep[:, None].expand(patches.shape[:2]))


def _padded(
    sounds: Float[Tensor, "b samples"], keep: Bool[Tensor, "b samples"] | None, patch_samples: int, most_samples: int
) -> tuple[Float[Tensor, "b padded"], Bool[Tensor, "b n"] | None]:
    """Sounds in silence up to a whole number of patches, and which of these hold any of them."""
    if sounds.shape[1] > most_samples:
        raise ValueError(f"a sound of {sounds.shape[1]} samples is longer than the model's {most_samples}")
    short = -sounds.shape[1] % patch_samples
    if keep is None:
        return F.pad(sounds, (0, short)), None
    kept = F.pad(keep, (0, short)).unflatten(1, (-1, patch_samples)).any(2)
    return F.pad(sounds.masked_fill(~keep, 0.0), (0, short)), kept


__all__ = ["MelPatches", "Patches", "PicturePatches", "VideoPatches", "WavePatches", "build_patches", "check_size"]
