"""What a Perceiver takes in: the sizes of each modality's input, and what a batch has of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

from chiasm.models.language import TextRules
from chiasm.types import Batch


@dataclass(frozen=True, kw_only=True)
class Positions:
    """How a token's position is told: by Fourier features of its place, or by learned channels."""

    learned: bool = False
    bands: int = 16
    max_frequency: float | None = None
    """Twice the highest frequency; None: the number of places along each axis, the Nyquist frequency."""
    width: int = 64
    """Channels of learned positions."""

    def __post_init__(self) -> None:
        if min(self.bands, self.width) < 1:
            raise ValueError(f"bands {self.bands} and width {self.width} must be at least 1")

    def channels(self, axes: int) -> int:
        """How many channels a position of so many axes takes."""
        return self.width if self.learned else axes * (2 * self.bands + 1)


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """Token ids, be they words or bytes, with learned positions; `vocabulary` is completed by the tokenizer."""

    width: int = 128
    rules: TextRules = field(default_factory=TextRules)
    vocabulary: int = 0


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """Pictures as pixels (`patch_pixels` 1) or square patches, as they are or projected to `width` channels."""

    size: tuple[int, int] = (64, 64)
    patch_pixels: int = 1
    width: int | None = None
    positions: Positions = field(default_factory=Positions)

    def __post_init__(self) -> None:
        _whole("a picture", self.size, (self.patch_pixels, self.patch_pixels), "pixels")


@dataclass(frozen=True, kw_only=True)
class ConvInput:
    """Pictures as a convolution's features, at a quarter of the size (2107.14795, section 4.4)."""

    size: tuple[int, int] = (64, 64)
    width: int = 64
    positions: Positions = field(default_factory=Positions)

    def __post_init__(self) -> None:
        if min(self.size) < 8:
            raise ValueError(f"size is {self.size}; the convolution needs at least 8 pixels each way")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the features."""
        rows, columns = (((side + 1) // 2 - 3) // 2 + 1 for side in self.size)
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class WaveInput:
    """Sound as its raw samples, some of them to a token (2107.14795, section 4.3)."""

    rate_hertz: int = 16_000
    seconds: float = 1.0
    """The longest sound; a position's features tell of its place within that."""
    patch_samples: int = 16
    width: int | None = None
    positions: Positions = field(default_factory=lambda: Positions(bands=64))

    @property
    def samples(self) -> int:
        """Samples of the longest sound."""
        return round(self.rate_hertz * self.seconds)


@dataclass(frozen=True, kw_only=True)
class MelInput:
    """Sound as its log-mel spectrogram, some frames of all bands to a token."""

    rate_hertz: int = 16_000
    seconds: float = 1.0
    mels: int = 64
    window_seconds: float = 0.025
    hop_seconds: float = 0.01
    patch_frames: int = 1
    width: int | None = None
    positions: Positions = field(default_factory=Positions)

    @property
    def samples(self) -> int:
        """Samples of the longest sound."""
        return round(self.rate_hertz * self.seconds)


@dataclass(frozen=True, kw_only=True)
class VideoInput:
    """Frames cut into space-time patches."""

    size: tuple[int, int] = (64, 64)
    frames: int = 8
    patch_frames: int = 1
    patch_pixels: int = 4
    width: int | None = None
    positions: Positions = field(default_factory=Positions)

    def __post_init__(self) -> None:
        _whole("a picture", self.size, (self.patch_pixels, self.patch_pixels), "pixels")
        _whole("a video", (self.frames,), (self.patch_frames,), "frames")


InputConfig = TextInput | PictureInput | ConvInput | WaveInput | MelInput | VideoInput


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a Perceiver takes in: any of these, at least one."""

    picture: PictureInput | ConvInput | None = None
    text: TextInput | None = None
    sound: WaveInput | MelInput | None = None
    video: VideoInput | None = None
    modality_width: int = 8
    """Learned channels that tell one modality from another: the widest has so many, the others more."""

    NAMES: ClassVar = ("picture", "text", "sound", "video")

    def __post_init__(self) -> None:
        if not self.named():
            raise ValueError(f"there is no input; name at least one of {', '.join(self.NAMES)}")
        if self.modality_width < 1:
            raise ValueError(f"modality_width is {self.modality_width}, it must be at least 1")

    def named(self) -> dict[str, InputConfig]:
        """Those that there are."""
        return {name: config for name in self.NAMES if (config := getattr(self, name)) is not None}

    def completed(self, vocabulary: int, unk: int | None) -> Inputs:
        """With what the tokenizer knows."""
        if self.text is None:
            return self
        rules = replace(self.text.rules, unk=unk)
        return replace(self, text=replace(self.text, vocabulary=vocabulary, rules=rules))


class Given(NamedTuple):
    """The values of one modality, and which are real: of texts and sounds each value, of pictures and videos rows."""

    values: Tensor
    keep: Tensor | None = None


def given(batch: Batch, inputs: Inputs) -> dict[str, Given]:
    """What a batch has for these inputs."""
    found: dict[str, Given] = {}
    if inputs.picture is not None:
        found["picture"] = Given(batch.images, batch.image_keep)
    if inputs.text is not None:
        found["text"] = Given(batch.ids, batch.keep)
    if inputs.sound is not None and batch.sounds is not None:
        found["sound"] = Given(batch.sounds, batch.sound_keep)
    return found


def _whole(what: str, sizes: tuple[int, ...], patches: tuple[int, ...], unit: str) -> None:
    if min(*sizes, *patches, 1) < 1 or any(size % patch for size, patch in zip(sizes, patches, strict=True)):
        shown = " x ".join(map(str, sizes))
        raise ValueError(f"{what} of {shown} {unit} is not a whole number of patches of {patches[0]} {unit}")


__all__ = [
    "ConvInput",
    "Given",
    "InputConfig",
    "Inputs",
    "MelInput",
    "PictureInput",
    "Positions",
    "TextInput",
    "VideoInput",
    "WaveInput",
    "given",
]
