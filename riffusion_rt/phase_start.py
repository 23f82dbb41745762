"""Magnitudes enter; phases that nearly fit them leave, in one pass: where the phase loop starts.

The logarithm of a spectrogram knows its phases. Under a Gaussian window the phase's slope along time is the slope of
the log-magnitude along frequency, and the other way round (Portnoff 1980; Průša, Balazs and Søndergaard,
arXiv 1609.00291, integrate both with a heap over all bins). Here each frame's peaks carry the phase from frame to
frame at the frequency that the slope gives, and the bins around a peak follow it along frequency: one pass over
the frames, all bins of a frame at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.phase_stft import FrameGrid, Signal, Spectra, frame_blocks, laid_out

# The Gaussian nearest to a Hann window of length L is exp(-π t² / (0.25645 L²)) (Průša et al.): its variance in time,
# as a share of L², and that of its transform, in squares of 1 / L.
_GAUSSIAN = 0.25645
TIME_VARIANCE = _GAUSSIAN / (2 * np.pi)
FREQUENCY_VARIANCE = 1 / (2 * np.pi * _GAUSSIAN)

# A Hann window's main lobe reaches two reciprocals of its length to either side, a frame half its length.
FARTHEST_PEAK = 2.0
FARTHEST_EVENT = 0.5

# What is this much quieter than the loudest bin has no slope worth following.
SLOPE_FLOOR = np.float32(1e-7)
# Guards the logarithm of silence.
_TINY = np.float32(1e-30)

# The bins of a lobe find their peak by doubling their uphill steps: 2⁵ bins are wider than any lobe.
UPHILL_DOUBLINGS = 5

# The first frame's phases, in cycles: a quadratic in the bin, by an arbitrary irrational, so that the partials do not
# add up to a click.
_SCATTER = 0.37


@dataclass(frozen=True)
class FrameSlopes:
    """How the phases of some frames hang together, in cycles."""

    advance: NDArray[np.float32]
    """Phase that a bin gains to the next column: ``(frames, bins)``."""
    along: NDArray[np.float32]
    """Phase along frequency, from bin 0: ``(frames, bins)``."""
    peak: NDArray[np.intp]
    """The peak a bin belongs to: ``(frames, bins)``."""


def scattered_signs(bins: int) -> NDArray[np.float32]:
    """Phases of a first frame that is its own mirror image: 0 or half a cycle."""
    return np.where(scattered(bins) > 0.5, np.float32(0.5), np.float32(0))


def scattered(bins: int) -> NDArray[np.float32]:
    """Phases of a first frame before which nothing is known, in cycles."""
    return (np.arange(bins, dtype=np.float64) ** 2 * _SCATTER % 1).astype(np.float32)


def frame_slopes(magnitudes: NDArray[np.float32], grid: FrameGrid, loudest: float) -> FrameSlopes:
    """The slopes of all frames but the first and the last, which are looked at only as neighbours.

    Args:
        magnitudes: shape ``(frames + 2, bins)`` on ``grid``, which must not be oversampled.
        grid: the frames.
        loudest: greatest magnitude of the whole spectrogram.
    """
    logs = np.log(magnitudes + (SLOPE_FLOOR * np.float32(loudest) + _TINY))
    middle = logs[1:-1]
    bins = middle.shape[1]
    spread = grid.window_length / grid.length

    slope = np.zeros_like(middle)
    slope[:, 1:-1] = (middle[:, 2:] - middle[:, :-2]) / 2
    # In reciprocals of the window's length: how far away the peak is that this slope belongs to.
    offset = np.clip(slope * np.float32(FREQUENCY_VARIANCE / spread), -FARTHEST_PEAK, FARTHEST_PEAK)
    # Whole cycles are left out at once, while they are exact.
    own = (np.arange(bins) % grid.overlap / grid.overlap).astype(np.float32)
    advance = own + offset / np.float32(spread * grid.overlap)

    rise = (logs[2:] - logs[:-2]) / 2
    # In frames: how much later than the frame's middle the event is that this rise belongs to.
    delay = np.clip(
        rise * np.float32(TIME_VARIANCE * spread**2 * grid.overlap), -FARTHEST_EVENT, FARTHEST_EVENT
    )
    steps = np.zeros_like(middle)
    steps[:, 1:] = (delay[:, 1:] + delay[:, :-1]) / -2
    return FrameSlopes(advance, np.cumsum(steps, axis=1), _peaks(middle))


def starting_cycles(
    magnitudes: NDArray[np.float32],
    grid: FrameGrid,
    first: NDArray[np.float32],
    *,
    fixed: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """Phases at the frames' middles, in cycles, a block of :func:`frame_blocks` at a time, ``(frames, bins)`` each.

    Args:
        magnitudes: ``(columns, bins)`` on ``grid``, which must not be oversampled.
        grid: the frames.
        first: the first frame's phases, in cycles.
        fixed: 1 if ``first`` is to be kept as it is, 0 if its lobes may be set in order.
    """
    columns = len(magnitudes)
    loudest = float(magnitudes.max())
    now, before = first, np.zeros_like(first)
    for start, stop in frame_blocks(columns):
        around = np.clip(np.arange(start - 1, stop + 1), 0, columns - 1)
        slopes = frame_slopes(magnitudes[around], grid, loudest)
        cycles = np.empty_like(slopes.advance)
        for row, (advance, along, peak) in enumerate(
            zip(slopes.advance, slopes.along, slopes.peak, strict=True)
        ):
            if start + row > 0:
                now = now + (before + advance) / 2
            if start + row >= fixed:
                now = np.take(now - along, peak) + along
            now = now - np.floor(now)
            cycles[row] = now
            before = advance
        yield cycles


def spectra_from_cycles(magnitudes: NDArray[np.float32], cycles: NDArray[np.float32]) -> Spectra:
    """Transforms of frames, as :meth:`FrameGrid.spectra` gives them, from phases at the frames' middles."""
    # The transform counts phases from the frame's start, half its length before: half a cycle a bin.
    turned = cycles + np.arange(cycles.shape[1], dtype=np.float32) % 2 / 2
    angle = np.float32(2 * np.pi) * turned
    spectra = np.empty(angle.shape, np.complex64)
    np.multiply(magnitudes, np.cos(angle), out=spectra.real)
    np.multiply(magnitudes, np.sin(angle), out=spectra.imag)
    return spectra


def starting_line(magnitudes: NDArray[np.float32], grid: FrameGrid, first: NDArray[np.float32]) -> Signal:
    """The line of frames with these magnitudes and :func:`starting_cycles`."""
    blocks = zip(frame_blocks(len(magnitudes)), starting_cycles(magnitudes, grid, first), strict=True)
    parts = (
        grid.overlapped(spectra_from_cycles(magnitudes[start:stop], cycles))
        for (start, stop), cycles in blocks
    )
    return laid_out(parts, len(magnitudes), grid)


def loosest_column(magnitudes: NDArray[np.float32]) -> int:
    """The column of a circular spectrogram that shares least with the one before it: where a start may break."""
    shared = np.minimum(magnitudes, np.roll(magnitudes, 1, axis=0)).sum(axis=1)
    return int(np.argmin(shared))


def _peaks(logs: NDArray[np.float32]) -> NDArray[np.intp]:
    """For every bin the index of the local maximum uphill of it."""
    bins = logs.shape[1]
    edge = np.full((len(logs), 1), -np.inf, np.float32)
    below = np.concatenate([edge, logs[:, :-1]], axis=1)
    above = np.concatenate([logs[:, 1:], edge], axis=1)
    up = (above > logs) & ((below < logs) | (above >= below))
    down = ~up & (below >= logs)
    peak = np.arange(bins) + up - down
    for _ in range(UPHILL_DOUBLINGS):
        peak = np.take_along_axis(peak, peak, axis=1)
    return peak
