"""Samples at any rate, with any channels in, samples at the spectrogram's rate and with its channels out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError

SPECTROGRAM_RATE = 44_100
"""Samples a second of every Riffusion checkpoint."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000

MAX_RATIO_TERM = 50_000
"""Rates whose exact ratio needs a greater denominator are met by the nearest one that does not, at most one
part in 50,000 away (0.03 cents), so that the filter stays small."""

ZERO_CROSSINGS = 32
"""Half length of the low-pass filter, in periods of the lower rate."""

KAISER_BETA = 10.0
"""About 100 dB of stopband attenuation (Kaiser 1974: β = 0.1102 (A − 8.7)), below 16-bit noise."""

PASSBAND = 0.95
"""Cut-off of the low-pass filter, as a share of the lower rate's Nyquist frequency."""


def resample(
    samples: NDArray[np.floating], sample_rate: int, target_rate: int = SPECTROGRAM_RATE
) -> NDArray[np.float32]:
    """Change the sample rate by a linear-phase polyphase filter.

    Args:
        samples: ``(channels, n)``.
        sample_rate: of ``samples``, 1,000 to 768,000 Hz.
        target_rate: wanted, in the same range.

    Returns:
        ``(channels, ceil(n * target_rate / sample_rate))``, neither delayed nor louder. The same samples if
        the rates are equal.

    Raises:
        RequestError: a rate out of range.
    """
    for rate in (sample_rate, target_rate):
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise RequestError(
                f"A sample rate of {rate} Hz is out of range",
                hint=f"Use {LOWEST_RATE} to {HIGHEST_RATE} Hz",
            )
    signal = np.asarray(samples, dtype=np.float32)
    if sample_rate == target_rate or signal.shape[-1] == 0:
        return signal
    from scipy.signal import firwin, resample_poly

    ratio = Fraction(target_rate, sample_rate).limit_denominator(MAX_RATIO_TERM)
    slower = max(ratio.numerator, ratio.denominator)
    taps = firwin(2 * ZERO_CROSSINGS * slower + 1, PASSBAND / slower, window=("kaiser", KAISER_BETA))
    resampled = resample_poly(
        signal, ratio.numerator, ratio.denominator, axis=-1, window=taps.astype(np.float32)
    )
    wanted = -(-signal.shape[-1] * target_rate // sample_rate)
    missing = max(0, wanted - resampled.shape[-1])
    return np.pad(resampled, ((0, 0), (0, missing)))[:, :wanted].astype(np.float32, copy=False)


def with_channels(samples: NDArray[np.floating], channels: int) -> NDArray[np.float32]:
    """Mix or duplicate channels.

    Mono is the mean of all channels; one channel becomes two equal ones; of more than two, the first two
    stay left and right and each takes in the mean of the rest.

    Args:
        samples: ``(any, n)``.
        channels: 1 or 2.

    Raises:
        RequestError: another number of channels.
    """
    signal = np.asarray(samples, dtype=np.float32)
    if channels not in (1, 2):
        raise RequestError(f"A spectrogram has no {channels} channels", hint="Use 1 (mono) or 2 (stereo)")
    if signal.shape[0] == channels:
        return signal
    if channels == 1:
        mono: NDArray[np.float32] = signal.mean(axis=0, keepdims=True)
        return mono
    if signal.shape[0] == 1:
        return np.repeat(signal, 2, axis=0)
    stereo: NDArray[np.float32] = (signal[:2] + signal[2:].mean(axis=0, keepdims=True)) / 2
    return stereo
