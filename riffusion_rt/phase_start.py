"""Magnitudes enter; a first guess of the signal leaves, from which the phase loop starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.phase_stft import FrameGrid, Signal, frame_blocks


def starting_line(magnitudes: NDArray[np.float32], grid: FrameGrid) -> Signal:
    """Windowed sum of frames whose phases advance at their bins' own frequencies."""
    columns, bins = magnitudes.shape
    line = np.zeros((columns + grid.overlap - 1, grid.hop), np.float32)
    turn = np.arange(bins) * grid.hop / grid.n_fft
    for first, last in frame_blocks(columns):
        cycles = np.arange(first, last)[:, None] * turn + np.arange(bins) ** 2 * 0.37
        spectra = (magnitudes[first:last] * np.exp(2j * np.pi * (cycles % 1))).astype(np.complex64)
        line[first : last + grid.overlap - 1] += grid.overlapped(spectra)
    return line
