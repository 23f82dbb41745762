"""Mel magnitudes without phases enter; a waveform that has them leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import Bass, magnitudes_from_mel
from riffusion_rt.phase_start import loosest_column, scattered, scattered_signs, starting_line
from riffusion_rt.phase_stft import Ends, FrameGrid, Signal, loop_grid, projected, result_grid


@dataclass(frozen=True)
class PhasePreset:
    """How much work the phase loop does."""

    iterations: int
    """Steps of the accelerated algorithm."""
    oversampling: int
    """Transform points a frame sample: more constrain the magnitudes between bins."""


PRESETS: Mapping[str, PhasePreset] = MappingProxyType(
    {
        "fast": PhasePreset(iterations=10, oversampling=2),
        "balanced": PhasePreset(iterations=24, oversampling=2),
        "best": PhasePreset(iterations=80, oversampling=2),
    }
)

# Accelerated Griffin-Lim (Nenov, Nguyen, Balazs, arXiv 2306.12504): the momenta found best on music. From a
# relaxation of 1.4 or a momentum of 1.1 on it diverges.
ALPHA = 0.95
BETA = 0.95
GAMMA = 1.25

# Threads of one reconstruction: transforms let go of the interpreter.
WORKERS = 2


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
    with ThreadPoolExecutor(WORKERS) as executor:
        channels = [
            reconstruct(
                frames,
                grid,
                result_grid(params),
                chosen.iterations,
                executor,
                ends="circle" if loop else "mirror",
            )
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
    ends: Ends = "mirror",
) -> Signal:
    """One channel's samples at the rate of ``result`` from its magnitudes ``(columns, bins)`` on ``grid``."""
    columns = len(magnitudes)
    # A circle must break somewhere for a start; the samples are turned back at the end.
    turn = loosest_column(magnitudes) if ends == "circle" else 0
    magnitudes = np.roll(magnitudes, -turn, axis=0) if turn else magnitudes
    signal = start(magnitudes, grid, ends)
    cover = grid.coverage(columns, ends)

    def nearest(signal: Signal) -> Signal:
        line = projected(grid.unfolded(signal, columns, ends), magnitudes, grid, grid, executor)
        return grid.folded(line, columns, ends) / cover

    signal = accelerated(nearest, signal, iterations)
    line = projected(grid.unfolded(signal, columns, ends), magnitudes, grid, result, executor)
    samples = result.folded(line, columns, ends) / result.coverage(columns, ends)
    return np.roll(result.inner(samples, columns, ends), turn * result.hop)


def start(magnitudes: NDArray[np.float32], grid: FrameGrid, ends: Ends) -> Signal:
    """The signal that the loop starts from."""
    base = grid.base
    columns, bins = len(magnitudes), base.n_fft // 2 + 1
    first = scattered_signs(bins) if ends == "mirror" else scattered(bins)
    line = starting_line(np.ascontiguousarray(magnitudes[:, :: grid.oversampling]), base, first)
    return base.folded(line, columns, ends) / base.coverage(columns, ends)


def accelerated(nearest: Callable[[Signal], Signal], signal: Signal, iterations: int) -> Signal:
    """Accelerated Griffin-Lim (Nenov, Nguyen, Balazs, arXiv 2306.12504).

    Its spectrograms are all those of a signal, so that it can be written on signals, a tenth of their size.
    ``nearest`` takes a signal to the one whose spectrogram is nearest to its own with the magnitudes put right.
    """
    anchor = previous = signal
    for _ in range(iterations):
        relaxed = (1 - GAMMA) * anchor + GAMMA * nearest(signal)
        moved = relaxed - previous
        signal, anchor, previous = relaxed + ALPHA * moved, relaxed + BETA * moved, relaxed
    return signal
