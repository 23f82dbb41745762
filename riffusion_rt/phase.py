"""Mel magnitudes without phases enter; a waveform that has them leaves."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams

from riffusion_rt.inverse_mel import Bass, magnitudes_from_mel
from riffusion_rt.phase_start import starting_line
from riffusion_rt.phase_stft import (
    FrameGrid,
    Signal,
    circle_from_line,
    frame_blocks,
    line_from_circle,
    loop_grid,
    result_grid,
)


@dataclass(frozen=True)
class PhasePreset:
    """How much work the phase loop does."""

    iterations: int
    """Steps of the accelerated algorithm."""
    oversampling: int
    """Transform points a frame sample: more constrain the magnitudes between bins."""


PRESETS: Mapping[str, PhasePreset] = MappingProxyType(
    {
        "fast": PhasePreset(iterations=32, oversampling=1),
        "balanced": PhasePreset(iterations=48, oversampling=1),
        "best": PhasePreset(iterations=64, oversampling=2),
    }
)

# Accelerated Griffin-Lim (Nenov, Nguyen, Balazs, arXiv 2306.12504): the momenta found best on music. From a
# relaxation of 1.4 or a momentum of 1.1 on it diverges.
ALPHA = 0.95
BETA = 0.95
GAMMA = 1.25

# Below the smallest step of a 16-bit sample: guards a division, silences nothing.
_QUIET = np.float32(1e-9)

_WORKERS = 2


def waveform_from_mel(
    mel: NDArray[np.float32],
    params: SpectrogramParams,
    *,
    preset: str = "balanced",
    loop: bool = False,
    bass: Bass = "exact",
) -> NDArray[np.float32]:
    """The sound of a mel spectrogram. The same picture always gives the same samples.

    Args:
        mel: amplitudes, shape ``(channels, bands, columns)``, any number of columns from one.
        params: how the spectrogram was made.
        preset: one of :data:`PRESETS`.
        loop: treat the picture as a circle, so that the last sample flows into the first.
        bass: ``"reference"`` for the reference's quieter bass.

    Returns:
        float32, shape ``(channels, columns * params.hop_length)``, in the units of ``mel``: its mel spectrogram is
        ``mel`` as nearly as any signal's can be. A picture's absolute level means little; set the loudness after.

    Raises:
        RequestError: no such preset, or the array is no spectrogram of these parameters.
        NumericsError: the spectrogram holds NaN or infinity.
    """
    chosen = phase_preset(preset)
    check_mel(mel, params)
    grid = loop_grid(params, chosen.oversampling)
    magnitudes = loop_magnitudes(mel, params, grid, bass=bass)
    with ThreadPoolExecutor(_WORKERS) as executor:
        channels = [
            reconstruct(frames, grid, result_grid(params), chosen.iterations, executor, loop=loop)
            for frames in magnitudes
        ]
    return np.stack(channels)


def phase_preset(name: str) -> PhasePreset:
    """The preset of that name.

    Raises:
        RequestError: there is none.
    """
    if name not in PRESETS:
        raise RequestError(f"No phase preset is called {name!r}", hint=f"Choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def check_mel(mel: NDArray[np.float32], params: SpectrogramParams) -> None:
    """Refuse what is no mel spectrogram: see :func:`waveform_from_mel`'s errors."""
    if mel.ndim != 3 or mel.shape[1] != params.bands or 0 in mel.shape:
        raise RequestError(
            f"A mel spectrogram has the shape (channels, {params.bands} bands, columns), not {mel.shape}",
            hint="Check the spectrogram parameters that the picture was made with",
        )
    if not np.isfinite(mel).all():
        raise NumericsError(
            "The spectrogram holds NaN or infinity",
            hint="Use a float32 model or another seed; a picture saved as PNG cannot hold such values",
        )


def loop_magnitudes(
    mel: NDArray[np.float32], params: SpectrogramParams, grid: FrameGrid, *, bass: Bass = "exact"
) -> NDArray[np.float32]:
    """Magnitudes for the loop, ``(channels, columns, bins)``: a transform at fewer samples a second sums fewer."""
    scale = np.float32(grid.rate / params.sample_rate)
    return magnitudes_from_mel(
        mel.astype(np.float32, copy=False) * scale, params, grid.frequencies, bass=bass
    )


def reconstruct(
    magnitudes: NDArray[np.float32],
    grid: FrameGrid,
    result: FrameGrid,
    iterations: int,
    executor: Executor,
    *,
    loop: bool = False,
) -> Signal:
    """One channel's samples at the rate of ``result`` from its magnitudes ``(columns, bins)`` on ``grid``."""
    columns = len(magnitudes)
    cover = _settled(grid.coverage(columns), columns, grid, loop)
    signal = _settled(starting_line(magnitudes, grid), columns, grid, loop) / cover
    step = partial(_project, magnitudes=magnitudes, grid=grid, into=grid, executor=executor)
    anchor, previous = signal, signal
    for _ in range(iterations):
        nearest = _settled(step(_seen(signal, grid, loop)), columns, grid, loop) / cover
        relaxed = (1 - GAMMA) * anchor + GAMMA * nearest
        moved = relaxed - previous
        signal, anchor, previous = relaxed + ALPHA * moved, relaxed + BETA * moved, relaxed
    line = _project(_seen(signal, grid, loop), magnitudes, grid, result, executor)
    settled = _settled(line, columns, result, loop) / _settled(
        result.coverage(columns), columns, result, loop
    )
    first = 0 if loop else result.overlap // 2
    return settled[first : first + columns].reshape(-1)


def _seen(signal: Signal, grid: FrameGrid, loop: bool) -> Signal:
    return line_from_circle(signal, grid.overlap) if loop else signal


def _settled(line: Signal, columns: int, grid: FrameGrid, loop: bool) -> Signal:
    return circle_from_line(line, columns, grid.overlap) if loop else line


def _project(
    line: Signal, magnitudes: NDArray[np.float32], grid: FrameGrid, into: FrameGrid, executor: Executor
) -> Signal:
    """Frames of ``line`` on ``grid`` with their magnitudes replaced, laid out again on the grid ``into``."""

    def work(block: tuple[int, int]) -> Signal:
        first, last = block
        spectra = grid.spectra(line, first, last)
        spectra *= magnitudes[first:last] / (np.abs(spectra) + _QUIET)
        if into is not grid:
            spectra = _resampled(spectra, grid, into)
        return into.overlapped(spectra)

    total = np.zeros((len(line), into.hop), np.float32)
    blocks = list(frame_blocks(len(magnitudes)))
    for (first, last), part in zip(blocks, executor.map(work, blocks), strict=True):
        total[first : last + into.overlap - 1] += part
    return total


def _resampled(spectra: NDArray[np.complex64], grid: FrameGrid, into: FrameGrid) -> NDArray[np.complex64]:
    """The same frames at the rate of ``into``: bins between its own are dropped, those above the loop's are zero."""
    every = grid.n_fft // grid.length
    wide = np.zeros((len(spectra), into.n_fft // 2 + 1), np.complex64)
    kept = spectra[:, ::every]
    wide[:, : kept.shape[1]] = kept * np.float32(into.rate / grid.rate)
    return wide
