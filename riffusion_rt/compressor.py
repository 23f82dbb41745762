"""Samples enter; the same samples with a narrower range of loudness leave, not one of them earlier or later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError

_SILENCE_DB = -120.0


def compress(
    samples: NDArray[np.floating],
    sample_rate: int,
    *,
    threshold_db: float = -20.0,
    ratio: float = 2.0,
    knee_db: float = 12.0,
    window_s: float = 0.05,
) -> NDArray[np.float32]:
    """A gentle compressor: loud passages come down, the rest stays.

    The level is the root mean square over a window centred on each sample, so that the gain follows the sound
    without lag and the result needs no shift. All channels share one gain, which keeps the stereo image.

    Args:
        samples: ``(channels, n)`` in ±1.
        sample_rate: samples a second.
        threshold_db: level above which the gain falls, in decibels below full scale.
        ratio: decibels that go in for each that comes out above the threshold; 1 changes nothing.
        knee_db: width of the smooth turn around the threshold.
        window_s: width of the window.

    Returns:
        float32, the shape of ``samples``. Nothing is made louder.

    Raises:
        RequestError: the ratio is below 1, or a width is negative.
    """
    if ratio < 1 or knee_db < 0 or window_s < 0:
        raise RequestError(
            f"A compressor of ratio {ratio}, knee {knee_db} dB and window {window_s} s cannot be",
            hint="Choose a ratio of 1 or more and widths of 0 or more",
        )
    width = max(1, round(window_s * sample_rate))
    power = _centred_mean(np.mean(np.square(samples, dtype=np.float64), axis=0), width)
    level_db = 10 * np.log10(np.maximum(power, 10 ** (_SILENCE_DB / 10)))
    reduction_db = (1 - 1 / ratio) * _knee(level_db - threshold_db, knee_db)
    gain_db = -_centred_mean(reduction_db, width)
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


def _knee(over_db: NDArray[np.float64], knee_db: float) -> NDArray[np.float64]:
    """Decibels above the threshold, rounded quadratically within half a knee of it."""
    # A knee of no width is a corner; a hair's width keeps the quotient finite.
    knee_db = max(knee_db, 1e-6)
    inside = np.clip(over_db + knee_db / 2, 0, knee_db)
    bent: NDArray[np.float64] = inside**2 / (2 * knee_db) + np.maximum(over_db - knee_db / 2, 0)
    return bent


def _centred_mean(signal: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean over the ``width`` samples around each; fewer at the ends."""
    length = len(signal)
    sums = np.concatenate([[0.0], np.cumsum(signal)])
    places = np.arange(length)
    first = np.maximum(places - width // 2, 0)
    last = np.minimum(places + (width + 1) // 2, length)
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return np.maximum(means, 0)
