"""A mono sound and a recording of several channels in, the sound placed between channels as the recording is out.

A mono model hears and draws a mixture. What it drew stands at the times and frequencies of the recording, so that the
recording's own channels say how loud each of them is in each channel: a mask on the sound's short-time spectrum, the
same phases in all channels. Places are kept, not width: what the recording has in all channels alike comes out alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.inverse_mel import MEL_CORNER_HZ

FRAME_S = 0.09
"""About the length of a frame: long enough to tell neighbouring instruments apart."""

BANDS = 40
"""Frequency is divided evenly in mel: about two bands to a critical band."""

SMOOTHED_S = 0.2
"""Places are means over so long a time: what changes faster is heard as a flutter, not as a place."""

FAINTEST = 1e-12
"""Power, of full scale, of what has no place: 120 dB down."""

FRAMES_AT_ONCE = 256


def placed_as(sound: NDArray[np.float32], recording: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A mono sound in the channels of a recording, at the recording's places; its power is kept.

    Args:
        sound: (1, n).
        recording: (channels, m): what is heard at the same time. A sound that goes on after it
            keeps to its mean places.
        rate: samples a second of both.

    Returns:
        float32 (channels, n).
    """
    channels = len(recording)
    if channels == 1 or sound.shape[1] == 0:
        return np.repeat(sound, channels, axis=0)
    length = 2 ** max(4, round(np.log2(FRAME_S * rate)))
    hop, count = length // 2, -(-sound.shape[1] // (length // 2)) + 1
    spread = _band_spread(length, rate)
    gains = _gains(recording, count, length, spread, rate)
    # Half a frame of silence before the first sample, so that every sample lies under two frames.
    placed = np.zeros((channels, (count + 1) * hop), np.float32)
    for first, spectra in _spectra(sound, count, length):
        for channel, gain in enumerate(gains[:, first : first + len(spectra[0])]):
            frames = np.fft.irfft(spectra[0] * (gain @ spread), length, axis=-1) * _window(length)
            for half in (0, 1):
                begin = (first + half) * hop
                part = frames[:, half * hop : (half + 1) * hop].reshape(-1)
                placed[channel, begin : begin + len(part)] += part.astype(np.float32)
    return placed[:, hop : hop + sound.shape[1]]


def _gains(
    recording: NDArray[np.float32], count: int, length: int, spread: NDArray[np.float32], rate: int
) -> NDArray[np.float32]:
    """(channels, ``count`` frames, bands) amplitude of each channel beside the root mean square of all."""
    from scipy.ndimage import uniform_filter1d

    hop = length // 2
    frames = min(count, -(-recording.shape[1] // hop) + 1)
    power = np.empty((len(recording), frames, len(spread)), np.float32)
    for first, spectra in _spectra(recording, frames, length):
        power[:, first : first + spectra.shape[1]] = (np.abs(spectra) ** 2) @ spread.T
    # Beyond the recording's end everything stays where it was on the whole.
    mean = power.mean(axis=1, keepdims=True)
    power = uniform_filter1d(power, max(1, round(SMOOTHED_S * rate / hop)), axis=1, mode="nearest")
    power = np.concatenate([power, np.repeat(mean, count - frames, axis=1)], axis=1)
    power += np.float32(FAINTEST * length**2)
    gains: NDArray[np.float32] = np.sqrt(power / power.mean(axis=0))
    return gains


def _spectra(
    samples: NDArray[np.float32], count: int, length: int
) -> Iterator[tuple[int, NDArray[np.complexfloating]]]:
    """(number of the first, transforms (channels, some, bins)) of ``count`` frames, half a frame from one to the next.

    The first begins half a frame before the samples; beyond them lies silence.
    """
    hop, (channels, end) = length // 2, samples.shape
    for first in range(0, count, FRAMES_AT_ONCE):
        some = min(FRAMES_AT_ONCE, count - first)
        block = np.zeros((channels, (some + 1) * hop), np.float32)
        begin = (first - 1) * hop
        inside = slice(max(begin, 0), min(begin + block.shape[1], end))
        if inside.start < inside.stop:
            block[:, inside.start - begin : inside.stop - begin] = samples[:, inside]
        frames = np.lib.stride_tricks.sliding_window_view(block, length, axis=1)[:, ::hop]
        yield first, np.fft.rfft(frames * _window(length), axis=-1)


def _window(length: int) -> NDArray[np.float32]:
    """A sine: its square under frames half a frame apart sums to one."""
    angles = (np.arange(length, dtype=np.float64) + 0.5) * (np.pi / length)
    return np.asarray(np.sin(angles), np.float32)


def _band_spread(length: int, rate: int) -> NDArray[np.float32]:
    """(bands, bins) share of each bin in each band: triangles even in mel, whose heights sum to one at every bin."""
    hertz = np.fft.rfftfreq(length, 1 / rate)
    mels, highest = np.log1p(hertz / MEL_CORNER_HZ), np.log1p(rate / 2 / MEL_CORNER_HZ)
    places = mels / highest * (BANDS - 1)
    return np.asarray(np.maximum(1 - np.abs(places - np.arange(BANDS)[:, None]), 0), np.float32)
