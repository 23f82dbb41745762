"""Mel magnitudes enter; linear magnitudes on any grid of frequencies leave."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from riffusion_engine.spectrogram_params import SpectrogramParams

Bass = Literal["exact", "reference"]

# HTK's mel scale: 2595 log10(1 + f / 700).
_MEL_SLOPE = 2595.0
_MEL_CORNER_HZ = 700.0

# What the reference's unconverged 200-step descent loses in the bass (measured): decibels at frequencies.
_REFERENCE_BASS_HZ = (0.0, 130.0, 200.0, 2000.0)
_REFERENCE_BASS_DB = (-2.7, -2.7, -2.3, 0.0)

# Bands narrower than a bin hold no energy; this share of the largest diagonal keeps their equations solvable.
_RIDGE = 1e-9


def mel_edges(params: SpectrogramParams) -> NDArray[np.float64]:
    """Corner frequencies of the triangular bands, in hertz: ``bands + 2`` of them, equally spaced in mel.

    Band ``b`` rises from edge ``b`` to its peak at edge ``b + 1`` and falls to edge ``b + 2``.
    """
    low, high = (_MEL_SLOPE * np.log10(1 + f / _MEL_CORNER_HZ) for f in (params.f_min, params.f_max))
    mels = np.linspace(low, high, params.bands + 2)
    edges: NDArray[np.float64] = _MEL_CORNER_HZ * (10 ** (mels / _MEL_SLOPE) - 1)
    return edges


def magnitudes_from_mel(
    mel: NDArray[np.float32],
    params: SpectrogramParams,
    frequencies: NDArray[np.float64],
    *,
    bass: Bass = "exact",
) -> NDArray[np.float32]:
    """Linear magnitudes, frame by frame, that have the given mel magnitudes: least squares, clamped at zero.

    A frequency lies under two triangles at most, so the filter bank ``F`` (bins x bands) interpolates linearly
    between band peaks and its Gram matrix ``FᵀF`` is tridiagonal. The least-norm solution of ``Fᵀ s = mel`` is
    ``s = F (FᵀF)⁻¹ mel``: one sweep down and up the bands, then interpolation to wherever magnitudes are wanted.

    Args:
        mel: amplitudes, shape ``(channels, bands, columns)``.
        params: the filter bank; its Gram matrix is taken on the bins of ``params.n_fft``.
        frequencies: where the magnitudes are wanted, in hertz, shape ``(bins,)``.
        bass: ``"exact"``, or ``"reference"`` for the reference's quieter bass.

    Returns:
        float32, shape ``(channels, columns, bins)``, nowhere negative, in the units of ``mel``.
    """
    magnitudes = _interpolate(_solve_gram(mel, params), params, frequencies, bass)
    return np.maximum(magnitudes, 0, out=magnitudes)


def inverse_mel_matrix(
    params: SpectrogramParams, frequencies: NDArray[np.float64], *, bass: Bass = "exact"
) -> NDArray[np.float32]:
    """:func:`magnitudes_from_mel` before the clamp, as one constant matrix for a graph.

    Returns:
        float32, shape ``(bands, bins)``: a column of mel magnitudes times it gives a frame of linear magnitudes.
    """
    identity = np.eye(params.bands)[None]
    return _interpolate(_solve_gram(identity, params), params, frequencies, bass)[0].astype(np.float32)


def _solve_gram(mel: NDArray[np.floating], params: SpectrogramParams) -> NDArray[np.floating]:
    """``(FᵀF)⁻¹ mel`` by Thomas' algorithm for tridiagonal systems, all columns at once."""
    grid = np.arange(params.n_fft // 2 + 1) * (params.sample_rate / params.n_fft)
    diagonal, shared = _gram(*_triangles(grid, mel_edges(params)), params.bands)
    pivots, ratios = diagonal.copy(), np.empty_like(shared)
    for band in range(1, params.bands):
        ratios[band - 1] = shared[band - 1] / pivots[band - 1]
        pivots[band] -= ratios[band - 1] * shared[band - 1]
    solution = mel.copy()
    for band in range(1, params.bands):
        solution[:, band] -= solution.dtype.type(ratios[band - 1]) * solution[:, band - 1]
    solution /= pivots[:, None].astype(solution.dtype)
    for band in range(params.bands - 2, -1, -1):
        solution[:, band] -= solution.dtype.type(ratios[band]) * solution[:, band + 1]
    return solution


def _interpolate(
    peaks: NDArray[np.floating], params: SpectrogramParams, frequencies: NDArray[np.float64], bass: Bass
) -> NDArray[np.floating]:
    """``(channels, bands, columns)`` at the band peaks to ``(channels, columns, bins)`` at the frequencies."""
    below, falling, rising = _triangles(frequencies, mel_edges(params))
    if bass == "reference":
        gain = 10 ** (np.interp(frequencies, _REFERENCE_BASS_HZ, _REFERENCE_BASS_DB) / 20)
        falling, rising = falling * gain, rising * gain
    # The first and last edge are the peak of no band: there the interpolated curve is zero.
    frames = np.pad(peaks.transpose(0, 2, 1), ((0, 0), (0, 0), (1, 1)))
    lower = np.take(frames, below, axis=2)
    upper = np.take(frames, below + 1, axis=2)
    lower *= falling.astype(frames.dtype)
    upper *= rising.astype(frames.dtype)
    lower += upper
    return lower


def _triangles(
    frequencies: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """The edge below each frequency, and there the heights of the falling and of the rising triangle."""
    below = np.clip(np.searchsorted(edges, frequencies, side="right") - 1, 0, len(edges) - 2)
    rising = (frequencies - edges[below]) / (edges[below + 1] - edges[below])
    inside = (frequencies >= edges[0]) & (frequencies <= edges[-1])
    return below, np.where(inside, 1 - rising, 0), np.where(inside, rising, 0)


def _gram(
    below: NDArray[np.intp], falling: NDArray[np.float64], rising: NDArray[np.float64], bands: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Diagonal ``(bands,)`` and first off-diagonal ``(bands - 1,)`` of the filter bank's Gram matrix."""
    size = bands + 2
    diagonal = np.bincount(below, falling**2, size) + np.bincount(below + 1, rising**2, size)
    shared = np.bincount(below, falling * rising, size)
    return diagonal[1:-1] + _RIDGE * diagonal.max(), shared[1:bands]
