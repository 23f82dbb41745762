"""Mel magnitudes without phases enter; a waveform that has them leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import Bass, applied, inverse_mel_matrix
from riffusion_rt.phase_refine import Refinement, refinement
from riffusion_rt.phase_start import loosest_column, scattered, scattered_signs, starting_line
from riffusion_rt.phase_stft import Ends, FrameGrid, Signal, frame_blocks, loop_grid, projected, result_grid
from riffusion_rt.single_blas import single_blas_threads
from riffusion_rt.worker_threads import worker_threads


@dataclass(frozen=True)
class PhasePreset:
    """How much work the phase loop does."""

    stages: tuple[int, ...]
    """Steps of the accelerated algorithm; from a stage to the next the wanted magnitudes are refined."""
    oversampling: int = 2
    """Transform points a frame sample: more constrain the magnitudes between bins."""


@dataclass(frozen=True)
class PhaseTarget:
    """What one channel's loop aims at, in the units of the loop's transform."""

    magnitudes: NDArray[np.float32]
    """From the inverse mel: ``(columns, bins)``."""
    mel: NDArray[np.float32]
    """``(columns, bands)``."""

    def turned(self, columns: int) -> PhaseTarget:
        """The target that begins so many columns later, as on a circle."""
        if columns == 0:
            return self
        return PhaseTarget(np.roll(self.magnitudes, -columns, axis=0), np.roll(self.mel, -columns, axis=0))


@dataclass(frozen=True)
class LoopConstants:
    """What every reconstruction of pictures of one kind needs, whatever is drawn on them."""

    grid: FrameGrid
    """The loop's frames."""
    result: FrameGrid
    """The result's frames."""
    inverse_mel: NDArray[np.float32]
    """:func:`riffusion_rt.inverse_mel.inverse_mel_matrix` at the loop's frequencies; not to be written to."""
    refiner: Refinement | None
    """None where the grid resolves no band."""


@dataclass(frozen=True)
class Beginning:
    """Where the loop begins."""

    turn: int
    """The column that comes first; other than 0 only on a circle, which must break somewhere for a start."""
    signal: Signal
    """The first guess, at the loop's rate, from that column on."""


LoopState = tuple[Signal, Signal, Signal]
"""Where the next step starts, where the last relaxation did, and what it came to."""

PRESETS: Mapping[str, PhasePreset] = MappingProxyType(
    {
        "fast": PhasePreset(stages=(6, 6)),
        "balanced": PhasePreset(stages=(4, 4, 12)),
        "best": PhasePreset(stages=(4, 8, 8, 16, 16, 24)),
    }
)
"""Presets by name, measured beside torchaudio's InverseMelScale and GriffinLim of 32 iterations in the same run
(``benchmarks/phase_compare.py``): 48 clips of 12 kinds, 512 columns each, two cores of an AMD EPYC, medians and means.

========== ====== ====== ======== ========== =========
preset     time   faster spectrum log-spec. Zimtohrli
========== ====== ====== ======== ========== =========
torchaudio 6.44 s      1 -19.9 dB   3.041 dB    0.0040
fast       0.40 s     16 -23.7 dB   3.046 dB    0.0032
balanced   0.61 s     11 -24.2 dB   2.998 dB    0.0028
best       1.74 s    3.8 -25.5 dB   2.892 dB    0.0020
========== ====== ====== ======== ========== =========

Spectral convergence, log-spectral distance and just noticeable differences, all against the recording up to 10 kHz;
lower is better. Worst clips: white noise gains 0.02 dB of the first with ``fast`` and loses 0.04 and 0.09 with the
others; of the second, steady sines lose most with ``fast`` and ``balanced``, 1.0 and 0.3 dB, a sweep with ``best``,
0.1 dB. Without the sines ``fast`` is ahead in all three.
"""

# Accelerated Griffin-Lim (Nenov, Nguyen, Balazs, arXiv 2306.12504): the momenta found best on music. From a
# relaxation of 1.4 or a momentum of 1.1 on it diverges.
ALPHA = 0.95
BETA = 0.95
GAMMA = 1.25

# Threads of one reconstruction: transforms let go of the interpreter.
WORKERS = 2

# Kinds of pictures whose constants are kept: 6 MB each with Riffusion's parameters.
KINDS_REMEMBERED = 4


def waveform_from_mel(
    mel: NDArray[np.float32],
    params: SpectrogramParams,
    *,
    preset: str = "balanced",
    loop: bool = False,
    bass: Bass = "exact",
    workers: int = WORKERS,
) -> NDArray[np.float32]:
    """The sound of a mel spectrogram. The same picture always gives the same samples.

    Args:
        mel: amplitudes, shape ``(channels, bands, columns)``, any number of columns from one.
        params: how the spectrogram was made.
        preset: one of :data:`PRESETS`.
        loop: treat the picture as a circle, so that the last sample flows into the first.
        bass: ``"reference"`` for the reference's quieter bass.
        workers: threads, at least 1.

    Returns:
        float32, shape ``(channels, columns * params.hop_length)``, in the units of ``mel``: its mel spectrogram is
        ``mel`` as nearly as any signal's can be. A picture's absolute level means little; set the loudness after.

    Raises:
        RequestError: no such preset, or the array is no spectrogram of these parameters.
        NumericsError: the spectrogram holds NaN or infinity.
    """
    chosen = phase_preset(preset)
    check_mel(mel, params)
    constants = loop_constants(params, chosen.oversampling, bass)
    with single_blas_threads(), worker_threads(workers) as executor:
        channels = [
            reconstruct(
                target,
                constants.grid,
                constants.result,
                chosen.stages,
                executor,
                ends="circle" if loop else "mirror",
                refiner=constants.refiner,
            )
            for target in loop_targets(mel, params, constants)
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


@lru_cache(maxsize=KINDS_REMEMBERED)
def loop_constants(params: SpectrogramParams, oversampling: int, bass: Bass = "exact") -> LoopConstants:
    """The constants for pictures made with ``params``; computed once, for it takes a tenth of a reconstruction."""
    grid = loop_grid(params, oversampling)
    inverse_mel = inverse_mel_matrix(params, grid.frequencies, bass=bass)
    inverse_mel.setflags(write=False)
    return LoopConstants(grid, result_grid(params), inverse_mel, refinement(params, grid, inverse_mel))


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


def loop_targets(
    mel: NDArray[np.float32], params: SpectrogramParams, constants: LoopConstants
) -> list[PhaseTarget]:
    """What the loop aims at, for every channel. A transform at fewer samples a second sums fewer of them."""
    scaled = mel.astype(np.float32, copy=False) * np.float32(constants.grid.rate / params.sample_rate)
    magnitudes = applied(constants.inverse_mel, scaled)
    return [PhaseTarget(frames, column.T) for frames, column in zip(magnitudes, scaled, strict=True)]


def reconstruct(
    target: PhaseTarget,
    grid: FrameGrid,
    result: FrameGrid,
    stages: tuple[int, ...],
    executor: Executor,
    *,
    ends: Ends = "mirror",
    refiner: Refinement | None = None,
    begun: Beginning | None = None,
) -> Signal:
    """One channel's samples at the rate of ``result``; from :func:`beginning`, if no other is given."""
    columns = len(target.mel)
    if begun is None:
        begun = beginning(target, grid, ends)
    target = target.turned(begun.turn)
    cover = grid.coverage(columns, ends)
    magnitudes = target.magnitudes
    state = resting(begun.signal)

    def nearest(signal: Signal) -> Signal:
        line = projected(grid.unfolded(signal, columns, ends), magnitudes, grid, grid, executor)
        return grid.folded(line, columns, ends) / cover

    for stage, iterations in enumerate(stages):
        if stage > 0 and refiner is not None:
            line = grid.unfolded(state[0], columns, ends)
            magnitudes = refined(line, target, grid, refiner, executor)
        state = accelerated(nearest, state, iterations)
    line = projected(grid.unfolded(state[0], columns, ends), magnitudes, grid, result, executor)
    samples = result.folded(line, columns, ends) / result.coverage(columns, ends)
    return np.roll(result.inner(samples, columns, ends), begun.turn * result.hop)


def refined(
    line: Signal, target: PhaseTarget, grid: FrameGrid, refiner: Refinement, executor: Executor
) -> NDArray[np.float32]:
    """The magnitudes to aim at from now on, ``(columns, bins)``, after those of the line that was found."""

    def work(block: tuple[int, int]) -> NDArray[np.float32]:
        part = slice(*block)
        return refiner.target(np.abs(grid.spectra(line, *block)), target.magnitudes[part], target.mel[part])

    return np.concatenate(list(executor.map(work, frame_blocks(len(target.mel)))))


def beginning(target: PhaseTarget, grid: FrameGrid, ends: Ends) -> Beginning:
    """Where the loop begins on a target."""
    turn = loosest_column(target.magnitudes) if ends == "circle" else 0
    return Beginning(turn, start(target.turned(turn).magnitudes, grid, ends))


def start(magnitudes: NDArray[np.float32], grid: FrameGrid, ends: Ends) -> Signal:
    """The signal that the loop starts from."""
    base = grid.base
    columns, bins = len(magnitudes), base.n_fft // 2 + 1
    first = scattered_signs(bins) if ends == "mirror" else scattered(bins)
    line = starting_line(np.ascontiguousarray(magnitudes[:, :: grid.oversampling]), base, first)
    return base.folded(line, columns, ends) / base.coverage(columns, ends)


def resting(signal: Signal) -> LoopState:
    """A state without momentum."""
    return signal, signal, signal


def accelerated(nearest: Callable[[Signal], Signal], state: LoopState, iterations: int) -> LoopState:
    """Accelerated Griffin-Lim (Nenov, Nguyen, Balazs, arXiv 2306.12504).

    Its spectrograms are all those of a signal, so that it can be written on signals, a tenth of their size.
    ``nearest`` takes a signal to the one whose spectrogram is nearest to its own with the magnitudes put right.
    """
    signal, anchor, previous = state
    for _ in range(iterations):
        relaxed = (1 - GAMMA) * anchor + GAMMA * nearest(signal)
        moved = relaxed - previous
        signal, anchor, previous = relaxed + ALPHA * moved, relaxed + BETA * moved, relaxed
    return signal, anchor, previous
