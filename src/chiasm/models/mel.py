"""The log-mel spectrogram, computed in torch: how loud each band of pitch is, over time."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from chiasm.models.inputs import MelInput

LINEAR_HERTZ, LINEAR_MELS = 1000.0, 15.0
"""Up to here a mel is 200/3 hertz; from here on 27 mels are a factor of 6.4 (Slaney's Auditory Toolbox)."""
FACTOR_PER_MEL = math.log(6.4) / 27


class LogMel(nn.Module):
    """Power in mel bands, as (log10 + 4) / 4 from 1e-10 on (2212.04356, section 2.2): most values within [-1.5, 1.5].

    Differs from the paper: no clamp at the loudest of the sound, so that a frame does not depend on what follows; a
    frame is of what begins at it, not of what surrounds it.
    """

    def __init__(self, sizes: MelInput):
        super().__init__()
        self.window_samples, self.hop = (round(s * sizes.rate_hertz) for s in (sizes.window_seconds, sizes.hop_seconds))
        if not 1 <= self.hop <= self.window_samples:
            raise ValueError(f"a hop of {self.hop} samples does not fit a window of {self.window_samples}")
        self.mels, self.rate_hertz = sizes.mels, sizes.rate_hertz

    def forward(self, sounds: Float[Tensor, "b samples"]) -> Float[Tensor, "b frames mels"]:
        """One frame per `hop` samples; the last ones look beyond the end, at silence."""
        frames = F.pad(sounds.float(), (0, self.window_samples - self.hop)).unfold(1, self.window_samples, self.hop)
        window = torch.hann_window(self.window_samples, device=sounds.device)
        power = torch.fft.rfft(frames * window).abs().square()
        filters = torch.tensor(mel_filters(self.mels, self.window_samples, self.rate_hertz), device=sounds.device)
        with torch.autocast("cpu" if sounds.is_meta else sounds.device.type, enabled=False):  # bf16 has no such range
            return (torch.log10((power @ filters).clamp(min=1e-10)) + 4.0) / 4.0


@lru_cache(maxsize=4)
def mel_filters(mels: int, window_samples: int, rate_hertz: int) -> Float[np.ndarray, "frequencies mels"]:
    """Triangles of equal area, their corners even in mels from 0 to half the rate, as librosa makes them."""
    highest = _to_mels(rate_hertz / 2)
    corners = np.array([_to_hertz(highest * i / (mels + 1)) for i in range(mels + 2)])
    slopes = np.linspace(0, rate_hertz / 2, window_samples // 2 + 1)[:, None] - corners
    rising, falling = slopes[:, :-2] / np.diff(corners)[:-1], -slopes[:, 2:] / np.diff(corners)[1:]
    triangles = np.minimum(rising, falling).clip(min=0)
    return (triangles * 2 / (corners[2:] - corners[:-2])).astype(np.float32)


def _to_mels(hertz: float) -> float:
    if hertz < LINEAR_HERTZ:
        return hertz * LINEAR_MELS / LINEAR_HERTZ
    return LINEAR_MELS + math.log(hertz / LINEAR_HERTZ) / FACTOR_PER_MEL


def _to_hertz(mels: float) -> float:
    if mels < LINEAR_MELS:
        return mels * LINEAR_HERTZ / LINEAR_MELS
    return LINEAR_HERTZ * math.exp((mels - LINEAR_MELS) * FACTOR_PER_MEL)


__all__ = ["LogMel", "mel_filters"]
