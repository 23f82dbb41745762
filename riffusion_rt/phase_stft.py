"""A signal enters; the nearest signal with prescribed short-time magnitudes leaves: one step of Griffin and Lim.

The loop does not need the sample rate of the result. Magnitudes end at ``f_max``, and a column and the window are
whole numbers of milliseconds: at any rate that holds ``f_max`` and gives a column a whole number of samples the
same problem stands with fewer of them. Riffusion's 44.1 kHz loop of 4,410 points runs at 20 kHz with 2,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.spectrogram_params import SpectrogramParams

Signal = NDArray[np.float32]
Spectra = NDArray[np.complex64]

Ends = Literal["mirror", "circle", "open"]
"""What lies beyond the signal: its mirror image, as in the codec's padding; its other end; nothing said."""

# Frames a block of work: their spectra stay in a core's second-level cache.
_FRAMES_A_BLOCK = 32

# Below this share of its greatest value the summed window is an edge that no frame really determines.
_LEAST_COVERAGE = 1e-3

# Below the smallest step of a 16-bit sample: guards a division, silences nothing.
_QUIET = np.float32(1e-9)


@dataclass(frozen=True)
class FrameGrid:
    """Frames over a signal: one a column, ``hop`` samples apart, ``length`` samples long, under a Hann window.

    Frames ``0 .. columns - 1`` lie on a line of ``columns + overlap - 1`` blocks of ``hop`` samples, frame ``t`` on
    blocks ``t .. t + overlap - 1``. Its middle, the time of its column, is the start of block ``t + overlap / 2``.
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
    """Points of the transform: a multiple of the frame's length."""

    @property
    def length(self) -> int:
        """Samples in a frame."""
        return self.hop * self.overlap

    @property
    def oversampling(self) -> int:
        """Transform points a frame sample."""
        return self.n_fft // self.length

    @cached_property
    def base(self) -> FrameGrid:
        """The same frames without oversampling."""
        return replace(self, n_fft=self.length)

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Of the bins, in hertz."""
        return np.arange(self.n_fft // 2 + 1, dtype=np.float64) * (self.rate / self.n_fft)

    @cached_property
    def window(self) -> Signal:
        """Periodic Hann window, zero-padded evenly to the frame."""
        angle = 2 * np.pi * np.arange(self.window_length) / self.window_length
        before = (self.length - self.window_length) // 2
        after = self.length - self.window_length - before
        return np.pad(0.5 - 0.5 * np.cos(angle), (before, after)).astype(np.float32)

    def spectra(self, line: Signal, first: int, last: int) -> Spectra:
        """Transforms of frames ``first .. last - 1`` of a line; shape ``(frames, bins)``."""
        samples = line[first : last + self.overlap - 1].reshape(-1)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.length)[:: self.hop]
        spectra = np.fft.rfft(frames * self.window, self.n_fft, axis=-1)
        return spectra.astype(np.complex64, copy=False)

    def overlapped(self, spectra: Spectra) -> Signal:
        """Windowed sum of the frames that have these transforms; shape ``(frames + overlap - 1, hop)``."""
        frames = np.fft.irfft(spectra, self.n_fft, axis=-1)[:, : self.length].astype(np.float32, copy=False)
        return self._laid(np.multiply(frames, self.window).reshape(len(frames), self.overlap, self.hop))

    def coverage(self, columns: int, ends: Ends) -> Signal:
        """What :meth:`folded` makes of the squared windows of all frames; never quite zero."""
        return nowhere_zero(self.folded(self.squared_windows(columns), columns, ends))

    def squared_windows(self, columns: int) -> Signal:
        """The line of ``columns`` frames that each hold the square of their window."""
        squared = (self.window**2).reshape(1, self.overlap, self.hop)
        return self._laid(np.broadcast_to(squared, (columns, self.overlap, self.hop)))

    def unfolded(self, signal: Signal, columns: int, ends: Ends) -> Signal:
        """The line of blocks that the frames of a signal see.

        A signal has ``columns * hop`` samples; one with open ends has the whole line's.
        """
        before, after = self._margins
        if ends == "open":
            line = signal
        elif ends == "circle":
            line = np.take(signal, np.arange(-before, len(signal) + after), mode="wrap")
        else:
            line = np.pad(signal, (before, after), "reflect" if len(signal) > 1 else "edge")
        return line.reshape(columns + self.overlap - 1, self.hop)

    def folded(self, line: Signal, columns: int, ends: Ends) -> Signal:
        """The sum of all that a line has laid on each sample of the signal: :meth:`unfolded`'s transpose."""
        flat, length = line.reshape(-1), columns * self.hop
        before, after = self._margins
        if ends == "open":
            return flat
        if ends == "circle":
            rounds = -(-len(flat) // length)
            wound = np.pad(flat, (0, rounds * length - len(flat))).reshape(rounds, length).sum(axis=0)
            return np.roll(wound, -before)
        signal = flat[before : before + length].copy()
        # A signal shorter than its margins is mirrored again and again: its second images are let go.
        left, right = min(before, length - 1), min(after, length - 1)
        signal[1 : 1 + left] += flat[before - left : before][::-1]
        signal[length - 1 - right : length - 1] += flat[before + length :][:right][::-1]
        return signal

    def inner(self, signal: Signal, columns: int, ends: Ends) -> Signal:
        """The ``columns * hop`` samples from the time of the first column on."""
        if ends != "open":
            return signal
        before, _ = self._margins
        return signal[before : before + columns * self.hop]

    @property
    def _margins(self) -> tuple[int, int]:
        return self.length // 2, self.length // 2 - self.hop

    def _laid(self, frames: Signal) -> Signal:
        line = np.zeros((len(frames) + self.overlap - 1, self.hop), np.float32)
        for place in range(self.overlap):
            line[place : place + len(frames)] += frames[:, place]
        return line


def loop_grid(params: SpectrogramParams, oversampling: int = 1) -> FrameGrid:
    """The cheapest grid on which the spectrogram of ``params`` stands unchanged up to ``f_max``.

    Args:
        params: the spectrogram's.
        oversampling: transform points a frame sample.
    """
    full = result_grid(params)
    shared = math.gcd(full.hop, full.window_length)
    least = math.ceil(2 * params.f_max * shared / params.sample_rate)
    smooth = (part for part in range(max(least, 1), shared) if _is_smooth(full.length * part // shared))
    part = next(smooth, shared)
    length = full.length * part // shared
    return FrameGrid(
        rate=params.sample_rate * part / shared,
        hop=length // full.overlap,
        overlap=full.overlap,
        window_length=full.window_length * part // shared,
        n_fft=length * oversampling,
    )


def result_grid(params: SpectrogramParams) -> FrameGrid:
    """The same frames at the sample rate of the result."""
    hop, window = params.hop_length, params.win_length
    overlap = 2 * math.ceil(window / (2 * hop))
    return FrameGrid(float(params.sample_rate), hop, overlap, window, overlap * hop)


def projected(
    line: Signal, magnitudes: NDArray[np.float32], grid: FrameGrid, into: FrameGrid, executor: Executor
) -> Signal:
    """Frames of ``line`` on ``grid``, given their magnitudes ``(columns, bins)``, laid on a line of ``into``."""

    def work(block: tuple[int, int]) -> Signal:
        first, last = block
        spectra = with_magnitudes(grid.spectra(line, first, last), magnitudes[first:last])
        return into.overlapped(spectra if into is grid else resampled(spectra, grid, into))

    return laid_out(executor.map(work, frame_blocks(len(magnitudes))), len(magnitudes), into)


def laid_out(parts: Iterable[Signal], columns: int, grid: FrameGrid) -> Signal:
    """One line of ``columns`` frames from the lines of its :func:`frame_blocks`."""
    line = np.zeros((columns + grid.overlap - 1, grid.hop), np.float32)
    for (first, last), part in zip(frame_blocks(columns), parts, strict=True):
        line[first : last + grid.overlap - 1] += part
    return line


def with_magnitudes(spectra: Spectra, magnitudes: NDArray[np.float32]) -> Spectra:
    """The phases of ``spectra`` under ``magnitudes``; silence has no phase and stays silent. In place."""
    spectra *= magnitudes / (np.abs(spectra) + _QUIET)
    return spectra


def resampled(spectra: Spectra, grid: FrameGrid, into: FrameGrid) -> Spectra:
    """The same frames at the rate of ``into``: bins between its own are dropped, those above the loop's are zero."""
    wide = np.zeros((len(spectra), into.n_fft // 2 + 1), np.complex64)
    kept = spectra[:, :: grid.oversampling // into.oversampling]
    wide[:, : kept.shape[1]] = kept * np.float32(into.rate / grid.rate)
    return wide


def nowhere_zero(cover: Signal) -> Signal:
    """A summed window that may be divided by."""
    least = np.float32(_LEAST_COVERAGE * float(cover.max()))
    return np.maximum(cover, least).astype(np.float32, copy=False)


def frame_blocks(columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of frames to work on one after another."""
    for first in range(0, columns, _FRAMES_A_BLOCK):
        yield first, min(first + _FRAMES_A_BLOCK, columns)


def _is_smooth(length: int) -> bool:
    """Whether a transform of that many points is fast, and its frame has a middle."""
    rest = length
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return rest == 1 and length % 2 == 0
