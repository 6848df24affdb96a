"""Any sound file to one channel at the model's rate, and the sounds of some examples as batches want them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chiasm.data.cache import BLOCK, Broken
from chiasm.errors import UserError
from chiasm.progress import counting
from chiasm.types import Example, Sound

LIMIT_BYTES = 2**30
"""Sounds that take more in memory than this are read anew for every batch."""


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """How sounds become model input: resampled to a rate, and cut to their first seconds."""

    rate_hertz: int = 16_000
    seconds: float = 1.0
    """The longest sound."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"{self.seconds} seconds at {self.rate_hertz} hertz are not even one sample")

    @property
    def samples(self) -> int:
        """Samples of the longest sound."""
        return round(self.rate_hertz * self.seconds)


class BrokenSound(UserError):  # noqa: N818 (what it names is the sound)
    """A sound that cannot be read; `reason` is a few words for the quarantine list."""

    def __init__(self, reason: str):
        super().__init__(f"The sound cannot be read: {reason}", "Listen to it in a player; replace or remove it.")
        self.reason = reason


def read_sound(sound: Sound, config: SoundConfig) -> Float[np.ndarray, " samples"]:
    """The mean of a sound's channels in [-1, 1], at the rate and no longer than `config` says.

    Files are what soundfile reads (WAV, FLAC, OGG, MP3); an array is taken to be at the rate already. Raises
    BrokenSound for what cannot be read, and UserError where soundfile is not installed.
    """
    if isinstance(sound, np.ndarray):
        values, rate = sound.astype(np.float32), config.rate_hertz
    else:
        values, rate = _decoded(sound, config.seconds)
    if values.ndim != 1 or not len(values):
        raise BrokenSound("it has no samples" if values.ndim == 1 else f"its values have {values.ndim} axes, not one")
    if not np.isfinite(values).all():
        raise BrokenSound("some of its values are no numbers")
    return _resampled(values, rate, config.rate_hertz)[: config.samples]


def _decoded(sound: bytes | Path, seconds: float) -> tuple[Float[np.ndarray, " samples"], int]:
    """The first seconds of a file, and its rate in hertz."""
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            "Sounds are read with soundfile, which is not installed", "pip install 'chiasm[sound]'"
        ) from error
    try:
        if (sound.stat().st_size if isinstance(sound, Path) else len(sound)) == 0:
            raise BrokenSound("the file is empty")
        with soundfile.SoundFile(sound if isinstance(sound, Path) else io.BytesIO(sound)) as file:
            frames = file.read(math.ceil(seconds * file.samplerate) + 1, dtype="float32", always_2d=True)
            return frames.mean(axis=1), file.samplerate
    except BrokenSound:
        raise
    except OSError as error:
        raise BrokenSound(error.strerror or str(error)) from error
    except Exception as error:  # libsndfile's own errors, and what damaged files make of the rest
        reason = str(error).rstrip(".").rsplit(": ", 1)[-1]
        raise BrokenSound(reason or type(error).__name__) from error


def _resampled(values: Float[np.ndarray, " n"], rate: int, wanted: int) -> Float[np.ndarray, " m"]:
    if rate == wanted:
        return values
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(values, wanted // common, rate // common).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sounds:
    """The sounds of some examples by row, in memory or (where they are too many) read when asked for."""

    examples: Sequence[Example]
    config: SoundConfig
    broken: tuple[Broken, ...]
    kept: list[Float[np.ndarray, " _"]] | None
    """By row, empty where an example has no sound; None where sounds are read when asked for."""

    def of(self, rows: Int[np.ndarray, " b"]) -> tuple[Float[Tensor, "b samples"], Bool[Tensor, "b samples"]]:
        """The sounds of some rows and which samples are real, padded with zeros to the longest of these."""
        sounds = [self._one(row) for row in rows.tolist()]
        lengths = np.array([len(sound) for sound in sounds])
        keep = np.arange(max(1, *lengths)) < lengths[:, None]
        values = np.zeros(keep.shape, dtype=np.float32)
        values[keep] = np.concatenate(sounds)
        return torch.from_numpy(values), torch.from_numpy(keep)

    def _one(self, row: int) -> np.ndarray:
        if self.kept is not None:
            return self.kept[row]
        sound = self.examples[row].sound
        return np.empty(0, np.float32) if sound is None else read_sound(sound, self.config)


def prepare_sounds(
    examples: Sequence[Example], config: SoundConfig, *, name: str, limit_bytes: int = LIMIT_BYTES
) -> Sounds:
    """Read every sound once, to know which are broken; UserError where no example has one."""
    kept: list[np.ndarray] = []
    broken: list[Broken] = []
    heard = held_bytes = 0
    with ThreadPoolExecutor() as pool, counting("Reading sounds", len(examples)) as advance:
        for start in range(0, len(examples), BLOCK):
            part = [examples[row] for row in range(start, min(start + BLOCK, len(examples)))]
            for row, read in enumerate(pool.map(lambda example: _read(example, config), part), start):
                heard += part[row - start].sound is not None
                if isinstance(read, BrokenSound):
                    broken.append(Broken(row=row, key=part[row - start].key, reason=read.reason))
                    read = np.empty(0, np.float32)
                held_bytes += read.nbytes
                kept.append(read if held_bytes <= limit_bytes else np.empty(0, np.float32))
            advance(len(part))
    if not heard:
        raise UserError(f"{name} has no sounds", "A table needs a column audio; a folder needs sound files.")
    return Sounds(
        examples=examples, config=config, broken=tuple(broken), kept=kept if held_bytes <= limit_bytes else None
    )


def _read(example: Example, config: SoundConfig) -> Any:
    try:
        return np.empty(0, np.float32) if example.sound is None else read_sound(example.sound, config)
    except BrokenSound as error:
        return error


__all__ = ["BrokenSound", "SoundConfig", "Sounds", "prepare_sounds", "read_sound"]
