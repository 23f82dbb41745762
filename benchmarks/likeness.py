"""Two results in, how far they are apart out: latents, pictures and waveforms, each in its field's measure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LSD_RANGE_DB = 80.0
"""Magnitudes further below the loudest one are inaudible beside it."""


def relative_l2(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Norm of the difference over the norm of what was wanted."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(np.asarray(got, np.float64) - wanted) / np.linalg.norm(wanted))


def picture_psnr_db(got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures in dB; infinite for equal ones."""
    error = np.mean((got.astype(np.float64) - wanted.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def picture_ssim(got: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004) of pictures (rows, columns, 3), 1 for equal ones."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(got, wanted, channel_axis=2))


def log_spectral_distance_db(
    got: NDArray[np.float32], wanted: NDArray[np.float32], n_fft: int = 2048
) -> float:
    """Root mean square difference of log magnitudes in dB, a mean over frames; samples (channels, n)."""
    first, second = (_magnitudes(samples, n_fft) for samples in (got, wanted))
    floor = second.max() * 10 ** (-LSD_RANGE_DB / 20)
    ratio = 20 * np.log10((first + floor) / (second + floor))
    return float(np.sqrt((ratio**2).mean(axis=-1)).mean())


def _magnitudes(samples: NDArray[np.float32], n_fft: int) -> NDArray[np.float32]:
    frames = np.lib.stride_tricks.sliding_window_view(samples, n_fft, axis=-1)[..., :: n_fft // 4, :]
    return np.abs(np.fft.rfft(frames * np.hanning(n_fft))).astype(np.float32)
