"""Spectrograms enter one after another; one unbroken waveform leaves, with no crossfade to hide a seam."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.loudness import PEAK_HEADROOM_DB, TARGET_RMS_DBFS
from riffusion_rt.phase import (
    WORKERS,
    PhaseTarget,
    accelerated,
    check_mel,
    loop_constants,
    loop_targets,
    phase_preset,
    refined,
    resting,
)
from riffusion_rt.phase_refine import Refinement
from riffusion_rt.phase_start import scattered, spectra_from_cycles, starting_cycles
from riffusion_rt.phase_stft import (
    FrameGrid,
    Signal,
    Spectra,
    frame_blocks,
    laid_out,
    nowhere_zero,
    resampled,
    with_magnitudes,
)
from riffusion_rt.single_blas import single_blas_threads
from riffusion_rt.worker_threads import worker_threads

# Columns held back for the next picture, in overlaps: the last frames before a joint should know what follows.
_HELD_OVERLAPS = 1


@dataclass
class _Channel:
    """What the next picture must know of the sound so far, all of it at most a frame long."""

    settled: Spectra
    """Transforms of the last frames whose phases are final, on the loop's grid: ``(overlap - 1 or fewer, bins)``."""
    waiting: PhaseTarget
    """The columns whose phases are not."""
    partial: Signal
    """Blocks of the result that the final frames have begun and others are to finish: ``(overlap - 1, hop)``."""
    partial_cover: Signal
    """Summed squared windows under ``partial``."""


class ClipJoiner:
    """Reconstruct one picture after another as if they were a single long one.

    Each picture is reconstructed with the last frames of the sound before it standing fixed beside it, and its own
    last frames wait until the picture after it is known. So a joint is a place inside a reconstruction like any
    other; work and memory for each picture depend on its own width alone. A column always lands at the sample
    ``column * hop`` counted from the first picture.
    """

    def __init__(self, params: SpectrogramParams, *, preset: str = "balanced") -> None:
        """Only constants are computed yet.

        Raises:
            RequestError: no such preset.
        """
        self._params = params
        self._stages = phase_preset(preset).stages
        self._constants = loop_constants(params, phase_preset(preset).oversampling)
        self._grid, self._result = self._constants.grid, self._constants.result
        self._channels: list[_Channel] = []
        self._unheard = 0

    def push(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """The samples that this picture completes.

        Args:
            mel: amplitudes, ``(channels, bands, columns)``; every picture has the same number of channels.

        Returns:
            float32 ``(channels, n)``, in the units of ``mel``. The last 150 ms come with the next picture.

        Raises:
            RequestError: the array is no spectrogram of these parameters, or changes the number of channels.
            NumericsError: it holds NaN or infinity.
        """
        check_mel(mel, self._params)
        if not self._channels:
            self._begin(len(mel))
        if len(mel) != len(self._channels):
            raise RequestError(
                f"A picture of {len(mel)} channels cannot follow pictures of {len(self._channels)}",
                hint="Join mono with mono and stereo with stereo",
            )
        targets = loop_targets(mel, self._params, self._constants)
        for channel, target in zip(self._channels, targets, strict=True):
            channel.waiting = PhaseTarget(
                np.concatenate([channel.waiting.magnitudes, target.magnitudes]),
                np.concatenate([channel.waiting.mel, target.mel]),
            )
        return self._advance(_HELD_OVERLAPS * self._grid.overlap)

    def twin(self, *, preset: str | None = None) -> ClipJoiner:
        """Another joiner that goes on from here by itself, so that what follows may be tried and given up.

        Args:
            preset: another amount of work from here on, of the same oversampling; None keeps it.

        Raises:
            RequestError: no such preset.
        """
        other = copy.copy(self)
        if preset is not None:
            other._stages = phase_preset(preset).stages
        # Pushes replace a channel's arrays and never write into them.
        other._channels = [copy.copy(channel) for channel in self._channels]
        return other

    def finish(self) -> NDArray[np.float32]:
        """The samples still held back; after it all pushes together have given ``columns * hop``."""
        if not self._channels:
            return np.zeros((self._params.channels, 0), np.float32)
        samples = self._advance(0)
        middle = self._result.overlap // 2
        tails = [
            (channel.partial / nowhere_zero(channel.partial_cover))[self._unheard : middle].reshape(-1)
            for channel in self._channels
        ]
        self._channels = []
        return np.concatenate([samples, np.stack(tails)], axis=1)

    def _begin(self, channels: int) -> None:
        bins, bands = self._grid.n_fft // 2 + 1, self._params.bands
        blocks = (self._result.overlap - 1, self._result.hop)
        self._unheard = self._result.overlap // 2
        self._channels = [
            _Channel(
                settled=np.zeros((0, bins), np.complex64),
                waiting=PhaseTarget(np.zeros((0, bins), np.float32), np.zeros((0, bands), np.float32)),
                partial=np.zeros(blocks, np.float32),
                partial_cover=np.zeros(blocks, np.float32),
            )
            for _ in range(channels)
        ]

    def _advance(self, held: int) -> NDArray[np.float32]:
        ready = max(len(self._channels[0].waiting.mel) - held, 0)
        if not ready:
            return np.zeros((len(self._channels), 0), np.float32)
        # Blocks before the middle of the very first frame are no part of the sound.
        skipped = min(self._unheard, ready)
        self._unheard -= skipped
        with single_blas_threads(), worker_threads(WORKERS) as executor:
            pieces = [self._settle(channel, ready, executor)[skipped:] for channel in self._channels]
        return np.stack([piece.reshape(-1) for piece in pieces])

    def _settle(self, channel: _Channel, ready: int, executor: Executor) -> Signal:
        """Make the first ``ready`` waiting frames final; the result's blocks that they complete."""
        grid, result = self._grid, self._result
        spectra = _continued(channel, grid, self._stages, self._constants.refiner, executor)[:ready]
        frames = resampled(spectra, grid, result)
        parts = (result.overlapped(frames[first:last]) for first, last in frame_blocks(ready))
        line = laid_out(parts, ready, result)
        line[: result.overlap - 1] += channel.partial
        cover = result.squared_windows(ready)
        cover[: result.overlap - 1] += channel.partial_cover
        channel.partial, channel.partial_cover = line[ready:].copy(), cover[ready:].copy()
        channel.settled = np.concatenate([channel.settled, spectra])[-(grid.overlap - 1) :]
        channel.waiting = PhaseTarget(channel.waiting.magnitudes[ready:], channel.waiting.mel[ready:])
        return line[:ready] / nowhere_zero(cover)[:ready]


def join_clips(
    mels: Iterable[NDArray[np.float32]], params: SpectrogramParams, *, preset: str = "balanced"
) -> Iterator[NDArray[np.float32]]:
    """Samples of pictures that follow each other, a piece for every picture and one at the end.

    Args and errors: see :class:`ClipJoiner`.
    """
    joiner = ClipJoiner(params, preset=preset)
    for mel in mels:
        yield joiner.push(mel)
    yield joiner.finish()


class RunningLoudness:
    """One loudness for a stream of clips: a gain that follows the sound of the last seconds, not each clip's own.

    Clips normalized one by one lose every swell and every break between them.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        target_dbfs: float = TARGET_RMS_DBFS,
        memory_s: float = 20.0,
        ramp_s: float = 0.5,
    ) -> None:
        """Start without a memory: the first clip alone sets the first gain.

        Args:
            sample_rate: samples a second.
            target_dbfs: root mean square aimed at, in decibels below full scale.
            memory_s: after so long a clip counts 1/e of what it did.
            ramp_s: how long a change of gain takes.
        """
        self._sample_rate = sample_rate
        self._target = 10 ** (target_dbfs / 20)
        self._memory = memory_s * sample_rate
        self._ramp = max(1, round(ramp_s * sample_rate))
        self._ceiling = 10 ** (-PEAK_HEADROOM_DB / 20)
        self._power = 0.0
        self._weight = 0.0
        self._gain: float | None = None

    def apply(self, samples: NDArray[np.floating]) -> NDArray[np.float32]:
        """The next clip at the stream's loudness; ``(channels, n)`` in, the same shape out, within full scale."""
        length = samples.shape[-1]
        if length == 0:
            return samples.astype(np.float32)
        fade = math.exp(-length / self._memory)
        self._power = self._power * fade + float(np.mean(np.square(samples, dtype=np.float64))) * (1 - fade)
        self._weight = self._weight * fade + (1 - fade)
        wanted = self._wanted(float(np.max(np.abs(samples))))
        before = wanted if self._gain is None else self._gain
        ramp = np.minimum(np.arange(length) / self._ramp, 1)
        # Decibels, not factors, change evenly with time.
        gain = before * (wanted / before) ** ramp if before > 0 else np.full(length, wanted)
        self._gain = float(gain[-1])
        return np.clip(samples * gain, -self._ceiling, self._ceiling).astype(np.float32)

    def _wanted(self, peak: float) -> float:
        reference = math.sqrt(self._power / self._weight)
        if reference == 0 or peak == 0:
            return self._gain if self._gain is not None else 0.0
        return min(self._target / reference, self._ceiling / peak)


def _continued(
    channel: _Channel,
    grid: FrameGrid,
    stages: tuple[int, ...],
    refiner: Refinement | None,
    executor: Executor,
) -> Spectra:
    """Transforms of the waiting frames, reconstructed beside the settled ones."""
    settled, target = channel.settled, channel.waiting
    beside, columns = len(settled), len(target.mel)
    blocks = list(frame_blocks(columns))
    cover = grid.coverage(beside + columns, "open")
    fixed = np.zeros((beside + columns + grid.overlap - 1, grid.hop), np.float32)
    if beside:
        fixed[: beside + grid.overlap - 1] = grid.overlapped(settled)
    magnitudes = target.magnitudes

    def laid(parts: Iterable[Signal]) -> Signal:
        line = fixed.copy()
        line[beside:] += laid_out(parts, columns, grid)
        return line.reshape(-1) / cover

    def own_line(signal: Signal) -> Signal:
        return signal.reshape(-1, grid.hop)[beside:]

    def frames(signal: Signal, block: tuple[int, int]) -> Spectra:
        return with_magnitudes(grid.spectra(own_line(signal), *block), magnitudes[slice(*block)])

    def nearest(signal: Signal) -> Signal:
        return laid(executor.map(lambda block: grid.overlapped(frames(signal, block)), blocks))

    state = resting(laid(_start(settled, magnitudes, grid)))
    for stage, iterations in enumerate(stages):
        if stage > 0 and refiner is not None:
            magnitudes = refined(own_line(state[0]), target, grid, refiner, executor)
        state = accelerated(nearest, state, iterations)
    return np.concatenate([frames(state[0], block) for block in blocks])


def _start(settled: Spectra, waiting: NDArray[np.float32], grid: FrameGrid) -> Iterator[Signal]:
    """First guess of the waiting frames, going on from the last settled one's phases."""
    base = grid.base
    magnitudes = np.ascontiguousarray(waiting[:, :: grid.oversampling])
    if not len(settled):
        first, fixed = scattered(magnitudes.shape[1]), 0
    else:
        last = settled[-1:, :: grid.oversampling]
        magnitudes = np.concatenate([np.abs(last), magnitudes])
        # Phases counted from the frame's start, as transforms are, to phases at its middle: half a cycle a bin.
        first = (np.angle(last[0]) / np.float32(2 * np.pi) + np.arange(last.shape[1]) % 2 / 2).astype(
            np.float32
        )
        fixed = 1
    cycles = np.concatenate(list(starting_cycles(magnitudes, base, first, fixed=fixed)))
    for start, stop in frame_blocks(len(waiting)):
        rows = slice(start + fixed, stop + fixed)
        yield base.overlapped(spectra_from_cycles(magnitudes[rows], cycles[rows]))
