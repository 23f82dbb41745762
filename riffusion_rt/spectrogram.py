"""Waveform in, mel spectrogram out: how loud every pitch band is at every column of a picture.

The transform is Riffusion's: a centred STFT with reflected edges, whose Hann window is zero-padded to four
times its length, then triangular mel bands on the HTK scale, without normalization, as magnitude (neither
power nor decibels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams

INT16_SCALE = 32_768.0
"""A picture's magnitudes are those of 16-bit sample values, because Riffusion analyses integers."""

HTK_MEL_FACTOR = 2595.0
HTK_BREAK_HZ = 700.0
"""The HTK Book's mel scale: ``2595 log10(1 + f / 700)``, linear well below 700 Hz and logarithmic above."""

FRAMES_PER_BLOCK = 32
"""Frames transformed at a time: a block's spectra stay in a core's cache, and a long recording's in
memory."""


def hz_to_mel(frequency: ArrayLike) -> NDArray[np.float64]:
    """HTK mel of a frequency in hertz."""
    return HTK_MEL_FACTOR * np.log10(1.0 + np.asarray(frequency, dtype=np.float64) / HTK_BREAK_HZ)


def mel_to_hz(mel: ArrayLike) -> NDArray[np.float64]:
    """Frequency in hertz of an HTK mel."""
    return HTK_BREAK_HZ * (10.0 ** (np.asarray(mel, dtype=np.float64) / HTK_MEL_FACTOR) - 1.0)


def hann_window(length: int) -> NDArray[np.float32]:
    """Periodic Hann window: one whole period of ``sin²``, whose last sample is not zero again."""
    return np.square(np.sin(np.pi * np.arange(length) / length)).astype(np.float32)


def column_count(samples: int, params: SpectrogramParams) -> int:
    """Columns of a recording: one for each frame centred inside it (225,792 samples make 512)."""
    return max(1, -(-samples // params.hop_length))


def mel_filter_bank(params: SpectrogramParams) -> NDArray[np.float32]:
    """The weight of every STFT bin in every mel band, shape ``(n_fft // 2 + 1, bands)``.

    Triangles that overlap by half, spaced evenly in mel from ``f_min`` to ``f_max`` and straight in hertz;
    each peaks at one. With the defaults 3,999 of the 8,821 rows are not zero.
    """
    slopes = _BandSlopes.of(params)
    bank = np.zeros((params.n_fft // 2 + 1, params.bands + 2), dtype=np.float32)
    rows = np.arange(slopes.first_bin, slopes.first_bin + slopes.rising.size)
    bank[rows, slopes.gap] = 1.0 - slopes.rising
    bank[rows, slopes.gap + 1] = slopes.rising
    return bank[:, 1:-1]


def mel_spectrogram(
    samples: NDArray[np.floating],
    params: SpectrogramParams,
    *,
    columns: int | None = None,
    loop: bool = False,
) -> NDArray[np.float32]:
    """Analyse a recording into the magnitudes of its mel bands.

    Args:
        samples: ``(channels, n)`` or ``(n,)`` at ``params.sample_rate``, in ±1; scaled here by 32,768.
        params: geometry of the picture. ``params.stereo`` is not looked at: every channel given is analysed.
        columns: how many columns to return. None gives one for each frame centred inside the recording, so
            that a clip of ``columns * hop_length`` samples gives ``columns``; ``1 + n // hop_length`` is
            what a centred STFT gives. Past that, columns are silent.
        loop: the recording's end is followed by its start, rather than mirrored.

    Returns:
        ``(channels, bands, columns)``, lowest band first, never negative.

    Raises:
        RequestError: nothing to analyse, or parameters without a usable window or band.
        NumericsError: a sample is NaN or infinite.
    """
    signal = _checked(samples)
    _check_geometry(params)
    count = column_count(signal.shape[1], params) if columns is None else columns
    if count < 1:
        raise RequestError(f"A spectrogram of {count} columns is empty", hint="Ask for at least one column")
    framed = _frames(signal * np.float32(INT16_SCALE), params, count, loop)
    slopes = _BandSlopes.of(params)
    mel = np.empty((signal.shape[0], params.bands, count), dtype=np.float32)
    for channel in range(signal.shape[0]):
        for start in range(0, count, FRAMES_PER_BLOCK):
            block = slice(start, min(count, start + FRAMES_PER_BLOCK))
            mel[channel, :, block] = slopes.apply(_magnitudes(framed[channel, block], params, slopes)).T
    return mel


@dataclass(frozen=True)
class _BandSlopes:
    """The filter bank without its zeros: a bin lies between two band centres and is shared by their bands.

    Because neighbouring triangles meet at each other's feet, a bin gives ``rising`` of itself to the band
    above it and the rest to the band below, and every bin in the same gap between two centres goes to the
    same two bands.
    """

    first_bin: int
    rising: NDArray[np.float32]
    gap: NDArray[np.intp]
    bands: int

    @classmethod
    def of(cls, params: SpectrogramParams) -> _BandSlopes:
        edges = mel_to_hz(np.linspace(hz_to_mel(params.f_min), hz_to_mel(params.f_max), params.bands + 2))
        bins = np.linspace(0.0, params.sample_rate // 2, params.n_fft // 2 + 1)
        inside = np.flatnonzero((bins > edges[0]) & (bins < edges[-1]))
        if inside.size == 0:
            raise RequestError(
                f"No STFT bin lies between {params.f_min} and {params.f_max} Hz",
                hint="Widen f_min..f_max or lengthen padded_ms",
            )
        frequency = bins[inside]
        gap = np.clip(np.searchsorted(edges, frequency, side="right") - 1, 0, params.bands)
        rising = (frequency - edges[gap]) / (edges[gap + 1] - edges[gap])
        return cls(int(inside[0]), rising.astype(np.float32), gap, params.bands)

    def apply(self, magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(frames, bins inside)`` magnitudes to ``(frames, bands)``."""
        occupied, starts = np.unique(self.gap, return_index=True)
        # One more row at either end takes what the outermost half-triangles give away.
        rows = np.zeros((magnitudes.shape[0], self.bands + 2), dtype=np.float32)
        rows[:, occupied + 1] += np.add.reduceat(magnitudes * self.rising, starts, axis=1)
        rows[:, occupied] += np.add.reduceat(magnitudes * (1 - self.rising), starts, axis=1)
        return rows[:, 1:-1]


def _magnitudes(
    frames: NDArray[np.float32], params: SpectrogramParams, slopes: _BandSlopes
) -> NDArray[np.float32]:
    """``(frames, window)`` samples to ``(frames, bins inside)`` magnitudes."""
    from scipy.fft import rfft

    # The zeros that centre the window in the transform turn phases, not magnitudes: let them all follow it.
    spectrum = rfft(frames * hann_window(params.win_length), n=params.n_fft, axis=1)
    wanted = slice(slopes.first_bin, slopes.first_bin + slopes.rising.size)
    magnitudes: NDArray[np.float32] = np.abs(spectrum[:, wanted])
    return magnitudes


def _frames(
    signal: NDArray[np.float32], params: SpectrogramParams, columns: int, loop: bool
) -> NDArray[np.float32]:
    """A view of ``(channels, columns, window)``: the samples under the window, its middle on every hop."""
    window, hop = params.win_length, params.hop_length
    before = params.n_fft // 2 - (params.n_fft - window) // 2
    centred = 1 + signal.shape[1] // hop
    if columns > centred and not loop:
        signal = np.pad(signal, ((0, 0), (0, columns * hop - signal.shape[1])))
    after = max(0, (columns - 1) * hop - before + window - signal.shape[1])
    padded = np.pad(signal, ((0, 0), (before, after)), mode="wrap" if loop else "reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)
    return views[:, : (columns - 1) * hop + 1 : hop]


def _checked(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    signal = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    if signal.ndim != 2 or signal.size == 0:
        raise RequestError(
            f"There is no sound in an array of shape {np.shape(samples)}",
            hint="Give samples as (channels, n)",
        )
    if not np.isfinite(signal).all():
        raise NumericsError("The recording holds NaN or infinite samples", hint="Repair it, or cut them out")
    return signal


def _check_geometry(params: SpectrogramParams) -> None:
    fits = params.hop_length > 0 and 1 < params.win_length <= params.n_fft and params.bands > 0
    if not fits or not 0 <= params.f_min < params.f_max:
        raise RequestError(
            f"These are no spectrogram parameters: {params}",
            hint="Keep 0 < step_ms, 0 < window_ms <= padded_ms, bands > 0 and 0 <= f_min < f_max",
        )
