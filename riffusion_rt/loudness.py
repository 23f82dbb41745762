"""Samples in, the same sound at a clip's loudness out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TARGET_RMS_DBFS = -12.0
"""Loudness of a finished clip before its peaks are set, relative to a full-scale square wave (Riffusion's
value)."""

PEAK_HEADROOM_DB = 0.1
"""Room left above the highest peak (Riffusion's value)."""

SAMPLES_A_BLOCK = 2**18
"""Squared in double precision at a time: a long sound has no room for another of twice its size."""


def rms_dbfs(samples: NDArray[np.floating]) -> float:
    """Root mean square of all channels in decibels below full scale; minus infinity for silence."""
    starts = range(0, samples.shape[-1], SAMPLES_A_BLOCK)
    blocks = (samples[..., first : first + SAMPLES_A_BLOCK] for first in starts)
    power = sum(float(np.sum(np.square(block, dtype=np.float64))) for block in blocks) / max(1, samples.size)
    return 10 * math.log10(power) if power > 0 else -math.inf


def gain_to_rms(samples: NDArray[np.floating], target_dbfs: float = TARGET_RMS_DBFS) -> NDArray[np.float32]:
    """Scale to a root mean square of ``target_dbfs``. Peaks may leave ±1; silence stays silence."""
    level = rms_dbfs(samples)
    gain = 10 ** ((target_dbfs - level) / 20) if math.isfinite(level) else 0.0
    return (np.asarray(samples, dtype=np.float64) * gain).astype(np.float32)


def set_rms(samples: NDArray[np.float32], target_dbfs: float) -> None:
    """What ``gain_to_rms`` does, in place, for long sounds; a target of minus infinity silences."""
    level = rms_dbfs(samples)
    samples *= np.float32(10 ** ((target_dbfs - level) / 20) if math.isfinite(level) else 0)


def normalize_peak(
    samples: NDArray[np.floating], headroom_db: float = PEAK_HEADROOM_DB
) -> NDArray[np.float32]:
    """Scale so that the highest peak of all channels is ``headroom_db`` below full scale. Silence stays
    silence."""
    peak = float(np.max(np.abs(samples), initial=0.0))
    gain = 10 ** (-headroom_db / 20) / peak if peak > 0 else 0.0
    return (np.asarray(samples, dtype=np.float64) * gain).astype(np.float32)


def finish_clip(samples: NDArray[np.floating], *, clip_peaks: bool = True) -> NDArray[np.float32]:
    """Riffusion's last stage: −12 dBFS RMS, then peaks to 0.1 dB below full scale.

    Args:
        samples: ``(channels, n)``, at any level.
        clip_peaks: cut off what the gain lifts above full scale, as 16-bit samples are in Riffusion; that
            is what makes clips of sharp attacks equally loud. Without it the second gain undoes the first,
            and nothing is distorted.

    Returns:
        ``(channels, n)`` in ±0.989. Silence stays silence.
    """
    loud = gain_to_rms(samples)
    return normalize_peak(np.clip(loud, -1, 1) if clip_peaks else loud)
