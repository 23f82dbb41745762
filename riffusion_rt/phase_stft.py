"""A signal enters; the nearest signal with prescribed short-time magnitudes leaves: one step of Griffin and Lim.

The loop does not need the sample rate of the result. Magnitudes end at ``f_max``, a column is a whole number of
milliseconds, and so is the window: at any rate of a whole number of samples a column that holds ``f_max`` the same
problem stands with fewer samples. Riffusion's 44.1 kHz loop of 4,410 points runs at 20 kHz with 2,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from riffusion_engine.spectrogram_params import SpectrogramParams

Signal = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

# Frames a block of work: their spectra stay in a core's second-level cache.
_FRAMES_A_BLOCK = 32

# Below this share of its middle value the summed window is an edge that no frame really determines.
_LEAST_OVERLAP = 1e-3


@dataclass(frozen=True)
class FrameGrid:
    """Frames over a signal: one a column, ``hop`` samples apart, ``length`` samples long, windowed by a Hann window.

    A signal of ``columns`` columns lies in a line of ``columns + overlap - 1`` blocks of ``hop`` samples, frame ``t``
    over blocks ``t .. t + overlap - 1``, so that its middle is the start of block ``t + overlap / 2``; a circular
    one lies in ``columns`` blocks, and the line is what one sees walking round it.
    """

    rate: float
    """Samples a second."""
    hop: int
    """Samples from a frame to the next."""
    overlap: int
    """Hops in a frame; even."""
    window_length: int
    """Samples under the Hann window, centred in the frame."""
    n_fft: int
    """Points of the transform, at least the frame's length."""

    @property
    def length(self) -> int:
        """Samples in a frame."""
        return self.hop * self.overlap

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Of the bins, in hertz."""
        return np.arange(self.n_fft // 2 + 1) * (self.rate / self.n_fft)

    @cached_property
    def window(self) -> Signal:
        """Periodic Hann window, zero-padded evenly to the frame."""
        angle = 2 * np.pi * np.arange(self.window_length) / self.window_length
        before = (self.length - self.window_length) // 2
        after = self.length - self.window_length - before
        return np.pad(0.5 - 0.5 * np.cos(angle), (before, after)).astype(np.float32)

    def spectra(self, line: Signal, first: int, last: int) -> Spectrum:
        """Transforms of frames ``first .. last - 1`` of a line of blocks; shape ``(frames, bins)``."""
        from scipy.fft import rfft

        samples = line[first : last + self.overlap - 1].reshape(-1)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.length)[:: self.hop]
        spectra: Spectrum = rfft(frames * self.window, self.n_fft, axis=-1, overwrite_x=True)
        return spectra

    def overlapped(self, spectra: Spectrum) -> Signal:
        """Windowed sum of the frames that have these transforms; shape ``(frames + overlap - 1, hop)``."""
        from scipy.fft import irfft

        frames = irfft(spectra, self.n_fft, axis=-1, overwrite_x=True)[:, : self.length]
        frames *= self.window
        return self._lay(frames.reshape(len(frames), self.overlap, self.hop))

    def coverage(self, columns: int) -> Signal:
        """Sum of the squared windows over a line, never quite zero; shape as the line's."""
        squared = (self.window**2).reshape(1, self.overlap, self.hop)
        cover = self._lay(np.broadcast_to(squared, (columns, self.overlap, self.hop)))
        return np.maximum(cover, _LEAST_OVERLAP * float(squared.sum(axis=1).max()))

    def _lay(self, frames: Signal) -> Signal:
        line = np.zeros((len(frames) + self.overlap - 1, self.hop), np.float32)
        for place in range(self.overlap):
            line[place : place + len(frames)] += frames[:, place]
        return line


def loop_grid(params: SpectrogramParams, oversampling: int) -> FrameGrid:
    """The cheapest grid on which ``params``' spectrogram up to ``f_max`` stands unchanged.

    ``oversampling`` is the number of transform points a frame sample: 1, 2 or 4.
    """
    full = result_grid(params)
    shared = math.gcd(full.hop, full.window_length)
    least = math.ceil(2 * params.f_max * shared / params.sample_rate)
    for part in range(max(least, 1), shared):
        length = full.length * part // shared
        if length % 2 == 0 and _smooth(length):
            return FrameGrid(
                rate=params.sample_rate * part / shared,
                hop=full.hop * part // shared,
                overlap=full.overlap,
                window_length=full.window_length * part // shared,
                n_fft=length * oversampling,
            )
    return FrameGrid(full.rate, full.hop, full.overlap, full.window_length, full.length * oversampling)


def result_grid(params: SpectrogramParams) -> FrameGrid:
    """The same frames at the sample rate of the result, with one transform point a sample."""
    hop, window = params.hop_length, params.win_length
    overlap = 2 * math.ceil(window / (2 * hop))
    return FrameGrid(float(params.sample_rate), hop, overlap, window, overlap * hop)


def _smooth(length: int) -> bool:
    for prime in (2, 3, 5, 7):
        while length % prime == 0:
            length //= prime
    return length == 1


def line_from_circle(blocks: Signal, overlap: int) -> Signal:
    """What frames see of a circular signal of ``len(blocks)`` blocks; the first frame is centred on block 0."""
    columns = len(blocks)
    return blocks[np.arange(-(overlap // 2), columns + overlap // 2 - 1) % columns]


def circle_from_line(line: Signal, columns: int, overlap: int) -> Signal:
    """Sum of all that a line has laid on each block of the circle."""
    rounds = -(-len(line) // columns)
    wound = np.pad(line, ((0, rounds * columns - len(line)), (0, 0))).reshape(rounds, columns, -1).sum(axis=0)
    circle: Signal = np.roll(wound, -(overlap // 2), axis=0)
    return circle


def frame_blocks(columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of frames to work on one after another."""
    for first in range(0, columns, _FRAMES_A_BLOCK):
        yield first, min(first + _FRAMES_A_BLOCK, columns)
