"""Mel magnitudes enter; linear magnitudes on any grid of frequencies leave."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.spectrogram_params import SpectrogramParams

Bass = Literal["exact", "reference"]

# HTK's mel scale: 2595 log10(1 + f / 700).
_MEL_SLOPE = 2595.0
MEL_CORNER_HZ = 700.0

# What the reference's unconverged 200-step descent loses in the bass (measured): decibels at frequencies.
_REFERENCE_BASS_HZ = (0.0, 130.0, 200.0, 2000.0)
_REFERENCE_BASS_DB = (-2.7, -2.7, -2.3, 0.0)

# Half the width of a Hann window's main lobe, in reciprocals of the window's duration.
_LOBE_HALF_WIDTH = 2.0
_LOBE_POINTS = 513

# Share of unrelated energy in the prior: keeps the equations well conditioned in float32.
_UNRELATED = 1e-3
# Bands narrower than a bin hold no energy; this share of the largest diagonal keeps their equations solvable.
_RIDGE = 1e-9


def magnitudes_from_mel(
    mel: NDArray[np.float32],
    params: SpectrogramParams,
    frequencies: NDArray[np.float64],
    *,
    bass: Bass = "exact",
) -> NDArray[np.float32]:
    """Linear magnitudes, frame by frame, that have the given mel magnitudes: the likeliest, clamped at zero.

    Args:
        mel: amplitudes, shape ``(channels, bands, columns)``.
        params: the filter bank.
        frequencies: where the magnitudes are wanted, in hertz, shape ``(bins,)``.
        bass: see :func:`inverse_mel_matrix`.

    Returns:
        float32, shape ``(channels, columns, bins)``, nowhere negative, in the units of ``mel``.
    """
    return applied(inverse_mel_matrix(params, frequencies, bass=bass), mel)


def applied(matrix: NDArray[np.float32], mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """:func:`magnitudes_from_mel` with an :func:`inverse_mel_matrix` at hand."""
    frames = np.ascontiguousarray(mel.transpose(0, 2, 1), dtype=np.float32)
    magnitudes: NDArray[np.float32] = np.matmul(frames, matrix)
    np.maximum(magnitudes, 0, out=magnitudes)
    return magnitudes


def inverse_mel_matrix(
    params: SpectrogramParams, frequencies: NDArray[np.float64], *, bass: Bass = "exact"
) -> NDArray[np.float32]:
    """The constant matrix that turns a column of mel magnitudes into a frame of linear ones.

    Many spectra have the same mel magnitudes ``Fᵀ s`` under a filter bank ``F``. Least squares takes the one of least
    norm, which falls to nothing between the band peaks. But no windowed sound looks so: each of its partials appears
    as the window's main lobe, 40 Hz wide here, so that magnitudes closer than a lobe are alike. With ``C`` the
    autocorrelation of the lobe as their covariance the likeliest spectrum is ``s = C F (Fᵀ C F)⁻¹ mel``
    (``C = 1`` would be least squares). Its mel magnitudes are the given ones just as exactly.

    Args:
        params: the filter bank, taken on the bins of ``params.n_fft``.
        frequencies: where the magnitudes are wanted, in hertz, shape ``(bins,)``.
        bass: ``"exact"``, or ``"reference"`` for the reference's quieter bass.

    Returns:
        float32, shape ``(bands, bins)``; columns beyond a lobe of ``f_min .. f_max`` are zero.
    """
    spacing = params.sample_rate / params.n_fft
    grid: NDArray[np.float64] = np.arange(int(params.f_max // spacing) + 1, dtype=np.float64) * spacing
    gram = _band_products(grid, grid, params)
    gram += _RIDGE * gram.diagonal().max() * np.eye(params.bands)
    matrix = _solve_banded(gram, _smeared_bank(frequencies, grid, params))
    matrix[:, (frequencies < params.f_min) | (frequencies > params.f_max)] = 0
    if bass == "reference":
        decibels = np.interp(frequencies, _REFERENCE_BASS_HZ, _REFERENCE_BASS_DB)
        matrix *= 10 ** (decibels / 20)
    return matrix.astype(np.float32)


def mel_edges(params: SpectrogramParams) -> NDArray[np.float64]:
    """Corner frequencies of the triangular bands, in hertz: ``bands + 2`` of them, equally spaced in mel.

    Band ``b`` rises from edge ``b`` to its peak at edge ``b + 1`` and falls to edge ``b + 2``.
    """
    low, high = (_MEL_SLOPE * np.log10(1 + f / MEL_CORNER_HZ) for f in (params.f_min, params.f_max))
    mels = np.linspace(low, high, params.bands + 2)
    edges: NDArray[np.float64] = MEL_CORNER_HZ * (10 ** (mels / _MEL_SLOPE) - 1)
    return edges


def mel_bank(params: SpectrogramParams, frequencies: NDArray[np.float64]) -> NDArray[np.float32]:
    """Heights of the triangles at the frequencies: ``(bins, bands)``."""
    bank = np.zeros((len(frequencies), params.bands + 2), np.float32)
    for edge, height in zip(*_triangles(frequencies, mel_edges(params)), strict=True):
        bank[np.arange(len(frequencies)), edge] = height
    return bank[:, 1:-1]


def _smeared_bank(
    frequencies: NDArray[np.float64], grid: NDArray[np.float64], params: SpectrogramParams
) -> NDArray[np.float64]:
    """``(C F)ᵀ`` at the frequencies, ``(bands, bins)``: the bank's triangles seen through the lobe."""
    near, likeness = _neighbours(frequencies, grid, params)
    edges = mel_edges(params)
    place = np.arange(len(frequencies))[:, None]
    smeared = np.zeros((params.bands + 2) * len(frequencies))
    for edge, height in zip(*_triangles(grid, edges), strict=True):
        cell = edge[near] * len(frequencies) + place
        smeared += np.bincount(cell.ravel(), (likeness * height[near]).ravel(), len(smeared))
    return smeared.reshape(params.bands + 2, -1)[1:-1]


def _band_products(
    frequencies: NDArray[np.float64], grid: NDArray[np.float64], params: SpectrogramParams
) -> NDArray[np.float64]:
    """``Fᵀ C F``, ``(bands, bands)``, summed over the few pairs of bins that lie within a lobe of each other."""
    near, likeness = _neighbours(frequencies, grid, params)
    size = params.bands + 2
    products = np.zeros(size * size)
    sides = tuple(zip(*_triangles(grid, mel_edges(params)), strict=True))
    for edge, height in sides:
        for other_edge, other_height in sides:
            cell = edge[:, None] * size + other_edge[near]
            weight = height[:, None] * likeness * other_height[near]
            products += np.bincount(cell.ravel(), weight.ravel(), len(products))
    return products.reshape(size, size)[1:-1, 1:-1]


def _solve_banded(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve a symmetric positive system that is zero far from its diagonal: Gaussian elimination within the band.

    A dense solver does fifty times the work, and its threads fight with the caller's for the cores.
    """
    rows, columns = np.nonzero(matrix)
    width = int(np.abs(rows - columns).max()) + 1
    upper, solution = matrix.copy(), right.copy()
    size = len(matrix)
    for row in range(size - 1):
        end = min(row + width, size)
        factors = upper[row + 1 : end, row] / upper[row, row]
        upper[row + 1 : end, row:end] -= factors[:, None] * upper[row, row:end]
        solution[row + 1 : end] -= factors[:, None] * solution[row]
    for row in range(size - 1, -1, -1):
        end = min(row + width, size)
        solution[row] -= upper[row, row + 1 : end] @ solution[row + 1 : end]
        solution[row] /= upper[row, row]
    return solution


def _neighbours(
    frequencies: NDArray[np.float64], grid: NDArray[np.float64], params: SpectrogramParams
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The bins of ``grid`` within two lobes of each frequency, and the covariance with them."""
    window_s = params.win_length / params.sample_rate
    spacing = grid[1] - grid[0]
    reach = int(2 * _LOBE_HALF_WIDTH / window_s / spacing) + 1
    near = np.round(frequencies / spacing).astype(np.intp)[:, None] + np.arange(-reach, reach + 1)
    outside = (near < 0) | (near >= len(grid))
    near = np.clip(near, 0, len(grid) - 1)
    distance = np.abs(grid[near] - frequencies[:, None]) * window_s
    likeness = np.interp(distance, *_lobe_autocorrelation(), right=0) + _UNRELATED * (distance < 1e-6)
    return near, np.where(outside, 0, likeness)


def _lobe_autocorrelation() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in reciprocals of the window's duration, and the Hann main lobe's autocorrelation there."""
    offset = np.linspace(-_LOBE_HALF_WIDTH, _LOBE_HALF_WIDTH, _LOBE_POINTS)
    # The transform of a Hann window is sinc(x) / (1 - x²); at x = ±1 both vanish and the limit is one half.
    hole = np.isclose(np.abs(offset), 1)
    lobe = np.where(hole, 0.5, np.sinc(offset) / np.where(hole, 1, 1 - offset**2))
    correlation = np.correlate(lobe, lobe, "full")[_LOBE_POINTS - 1 :]
    return np.arange(_LOBE_POINTS) * (offset[1] - offset[0]), correlation / correlation[0]


def _triangles(
    frequencies: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """A frequency lies under two triangles at most: the edges they peak at, and their heights there."""
    below = np.clip(np.searchsorted(edges, frequencies, side="right") - 1, 0, len(edges) - 2)
    rising = (frequencies - edges[below]) / (edges[below + 1] - edges[below])
    inside = (frequencies >= edges[0]) & (frequencies <= edges[-1])
    return (below, below + 1), (np.where(inside, 1 - rising, 0), np.where(inside, rising, 0))
