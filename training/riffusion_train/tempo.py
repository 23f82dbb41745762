"""A recording in, its beats out: where they fall, how fast they are, and which of them begin bars.

Onsets are rises of a coarse mel spectrogram's log magnitude. The tempo is the best peak of their autocorrelation,
weighted towards the tempi people tap; beats follow by dynamic programming (Ellis 2007, "Beat Tracking by Dynamic
Programming"), which lets them breathe with the player.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.spectrogram_params import SpectrogramParams

ONSET_PARAMS = SpectrogramParams(step_ms=10, window_ms=40, padded_ms=50, bands=40)
"""A shorter window than a picture's: an onset is to be found in time, not in pitch."""
FRAMES_A_SECOND = 100
LOW_BANDS = 8
"""Of 40: up to some 600 Hz, where kick drums and basses mark the bar."""
_RISE_FRAMES = 2
_LEAD_FRAMES = 10

SLOWEST_BPM, FASTEST_BPM = 40.0, 240.0
TAPPED_BPM, TAPPED_OCTAVES = 110.0, 0.9
"""Centre and width of the preference among tempi (after Ellis 2007: 120 BPM, 0.9 octaves)."""
STEADINESS = 100.0
"""How much a beat out of step costs beside an onset of one standard deviation (Ellis 2007)."""
CLEAR_BEAT = 0.1
"""Autocorrelation at the beat's period, below which there is no beat to speak of."""


@dataclass(frozen=True, eq=False)
class Beats:
    """``times`` of successive beats in seconds, the tempo, and which of the first ``beats_a_bar`` begins a bar."""

    times: NDArray[np.float64]
    bpm: float
    first_downbeat: int


def onset_strength(samples: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much begins at each hundredth of a second of samples (channels, n) at 44.1 kHz: in all bands, in the low."""
    from riffusion_rt.spectrogram import mel_spectrogram

    mel = mel_spectrogram(samples.mean(axis=0), ONSET_PARAMS)[0].astype(np.float64)
    level = np.log1p(100 * mel / max(float(mel.max()), 1e-9))
    rise = np.zeros_like(level)
    rise[:, _RISE_FRAMES:] = np.maximum(level[:, _RISE_FRAMES:] - level[:, :-_RISE_FRAMES], 0)
    return rise.sum(axis=0), rise[:LOW_BANDS].sum(axis=0)


def find_beats(
    samples: NDArray[np.float32], *, bpm: float | None, beats_a_bar: int, near_bpm: float | None = None
) -> Beats | None:
    """Find the beats of samples (channels, n) at 44.1 kHz.

    Args:
        samples: at least a few bars.
        bpm: a tempo that is known holds from end to end, and only its phase is looked for.
        beats_a_bar: beats from a downbeat to the next.
        near_bpm: an estimated tempo is known only up to a factor of two; the octave nearest to this one is taken.

    Returns:
        None if no beat is clear, or there is none at all.
    """
    # What sounds from the first sample on begins there, and is an onset too.
    lead = np.zeros((len(samples), _LEAD_FRAMES * ONSET_PARAMS.hop_length), np.float32)
    strength, low = onset_strength(np.concatenate([lead, samples], axis=1))
    if strength.size < FRAMES_A_SECOND or strength.std() < 1e-9:
        return None
    envelope = (strength - strength.mean()) / strength.std()
    if bpm is None:
        estimated = estimate_bpm(envelope)
        if estimated is None:
            return None
        if near_bpm is not None:
            octaves = [estimated * factor for factor in (0.5, 1.0, 2.0)]
            estimated = min(octaves, key=lambda tempo: abs(np.log(tempo / near_bpm)))
        frames = _tracked(envelope, 60 * FRAMES_A_SECOND / estimated).astype(np.float64)
        if len(frames) <= beats_a_bar:
            return None
        bpm = 60 * FRAMES_A_SECOND / float(np.polyfit(np.arange(len(frames)), frames, 1)[0])
    else:
        period = 60 * FRAMES_A_SECOND / bpm
        start = best_phase(envelope, period)
        frames = np.arange(start, len(envelope), period)
        frames = frames[frames >= _LEAD_FRAMES - 1]
    nearest = np.clip(np.rint(frames).astype(int), 0, len(low) - 1)
    accents = [float(low[nearest[k::beats_a_bar]].mean()) for k in range(min(beats_a_bar, len(nearest)))]
    # Half a window of foresight and the span that a rise is measured over cancel out: frames need no correction.
    times = (frames - _LEAD_FRAMES) / FRAMES_A_SECOND
    return Beats(times, bpm, int(np.argmax(accents)))


def estimate_bpm(envelope: NDArray[np.float64]) -> float | None:
    """The tempo that a normalized onset envelope repeats at; None if it does not."""
    size = len(envelope)
    spectrum = np.fft.rfft(envelope, 2 * size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:size] / size
    shortest, longest = (int(60 * FRAMES_A_SECOND / tempo) for tempo in (FASTEST_BPM, SLOWEST_BPM))
    lags = np.arange(shortest, min(longest + 1, size - 1))
    if lags.size == 0:
        return None
    # A short recording holds fewer repetitions at a long lag, which is no evidence against it.
    unbiased = correlation[lags] * size / (size - lags)
    liking = np.exp(-0.5 * (np.log2(60 * FRAMES_A_SECOND / lags / TAPPED_BPM) / TAPPED_OCTAVES) ** 2)
    best = int(lags[np.argmax(unbiased * liking)])
    if correlation[best] * size / (size - best) < CLEAR_BEAT:
        return None
    # A spectrum at the beat's frequency and its first harmonics is far finer than whole frames of lag.
    tempi = 60 * FRAMES_A_SECOND / best * np.linspace(0.97, 1.03, 241)
    time = np.arange(size) / FRAMES_A_SECOND
    power = sum(np.abs(np.exp(-2j * np.pi * k * tempi[:, None] / 60 * time) @ envelope) for k in (1, 2, 4))
    return float(tempi[np.argmax(power)])


def best_phase(envelope: NDArray[np.float64], period: float) -> float:
    """The frame, 0 ≤ frame < period, that most onsets fall on when beats are ``period`` frames apart."""
    starts = np.arange(0, period, 0.25)
    places = starts[:, None] + np.arange(0, len(envelope) - period, period)
    heard = np.interp(places, np.arange(len(envelope)), envelope)
    return float(starts[np.argmax(heard.sum(axis=1))])


def _tracked(envelope: NDArray[np.float64], period: float) -> NDArray[np.int64]:
    """Frames of the beats that collect most onsets while staying nearly ``period`` apart."""
    spread = np.exp(-0.5 * (np.arange(-period, period + 1) * 32 / period) ** 2)
    local = np.convolve(envelope, spread, mode="same")
    local = local / max(float(local.std()), 1e-9)
    steps = np.arange(-round(2 * period), -round(period / 2) + 1)
    cost = -STEADINESS * np.log(-steps / period) ** 2
    score, came_from = local.copy(), np.full(len(local), -1)
    for frame in range(len(local)):
        before = frame + steps
        possible = before >= 0
        if possible.any():
            reached = score[before[possible]] + cost[possible]
            best = int(np.argmax(reached))
            if reached[best] > 0:
                score[frame] += reached[best]
                came_from[frame] = before[possible][best]
    tail = max(0, len(score) - round(period))
    frames = [tail + int(np.argmax(score[tail:]))]
    while came_from[frames[-1]] >= 0:
        frames.append(int(came_from[frames[-1]]))
    return np.array(frames[::-1])
