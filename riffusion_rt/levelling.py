"""Clips of any level in, one unbroken sound of one loudness out: no clip is louder than its neighbours.

Every picture of a model is drawn against its own loudest point, so that levels from clip to clip are chance, not music.
Loudness is ITU-R BS.1770-4's: K-weighted power of 400 ms blocks, silence gated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TARGET_LUFS = -18.0
"""Four decibels below what broadcasters of music stream at, so that sharp attacks find room."""

SILENCE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
BLOCK_S = 0.4
BLOCKS_OVERLAP = 4
"""Gates and blocks of BS.1770-4: each block begins a quarter of its length after the one before."""

LARGEST_BOOST_DB = 12.0
"""A clip is raised at most so far above what clips were raised by before it: a break stays a break."""

MEMORY = 0.7
"""Share of the usual gain that a clip leaves as it was."""

MAKING_UP_ROUNDS = 2
MOST_MADE_UP_DB = 4.0
"""What clips of sharp attacks may lose to the bending of their peaks and get back."""

EVEN_LU = 0.7
"""A bar may be louder or quieter than its clip by so much: a steer may leave that bar the only one heard of it."""

MOST_EVENED_DB = 3.0
"""What a bar further off than that is brought back by at most: a break stays a break here, too."""

KNEE = 0.7
CEILING = 10 ** (-0.1 / 20)
"""Peaks between 3 dB below full scale and the ceiling 0.1 dB below it are bent, not cut."""


def loudness_lufs(samples: NDArray[np.floating], rate: int) -> float:
    """Integrated loudness of (channels, n) at ``rate``; minus infinity for silence.

    A sound shorter than one block is measured as a whole.
    """
    length = samples.shape[-1]
    if length == 0:
        return -math.inf
    block = min(round(BLOCK_S * rate), length)
    hop = max(1, block // BLOCKS_OVERLAP)
    power = np.concatenate([[0.0], np.cumsum(np.square(_k_weighted(samples, rate)).sum(axis=0))])
    starts = np.arange(0, length - block + 1, hop)
    blocks = np.maximum((power[starts + block] - power[starts]) / block, 0)
    loud = blocks[blocks > _power(SILENCE_LUFS)]
    if not len(loud):
        return -math.inf
    return _lufs(float(loud[loud > loud.mean() * 10 ** (RELATIVE_GATE_LU / 10)].mean()))


class ClipLeveller:
    """Brings each clip to one loudness, with a gain that changes before a bar begins and never inside it."""

    def __init__(self, rate: int, *, target_lufs: float = TARGET_LUFS) -> None:
        """Start without a memory: the first clip's gain is its own."""
        self._rate = rate
        self._target = target_lufs
        self._usual_db: float | None = None
        self._gain_db: float | None = None

    @property
    def current_db(self) -> float:
        """The gain that the last samples had."""
        return self._gain_db or 0.0

    def gain_db(self, clip: NDArray[np.floating]) -> float:
        """The gain that brings a clip (channels, n), of any unit, to the target. Silence takes the usual one."""
        # A gate at an absolute level means nothing before the level is known: bring the clip near it first.
        peak = float(np.max(np.abs(clip), initial=0.0))
        level = loudness_lufs(clip / peak, self._rate) + 20 * math.log10(peak) if peak > 0 else -math.inf
        if not math.isfinite(level):
            return self._usual_db or 0.0
        wanted = self._target - level
        usual = wanted if self._usual_db is None else self._usual_db
        wanted = min(wanted, usual + LARGEST_BOOST_DB)
        self._usual_db = MEMORY * usual + (1 - MEMORY) * wanted
        # Peaks that are bent are missing from the loudness: make up for them, as far as a few decibels can.
        made_up = wanted
        for _ in range(MAKING_UP_ROUNDS):
            lacking = wanted + level - loudness_lufs(bent(clip * 10 ** (made_up / 20)), self._rate)
            made_up = min(made_up + max(lacking, 0.0), wanted + MOST_MADE_UP_DB)
        return made_up

    def bar_gains_db(self, bars: Sequence[NDArray[np.floating]]) -> tuple[float, ...]:
        """The gains of a clip's bars, each (channels, n) of one unit: bars far from the clip's level come nearer.

        The clip is as loud as with the one gain of ``gain_db``.
        """
        gain = self.gain_db(np.concatenate(bars, axis=1))
        level = self._level(bars, [gain] * len(bars))
        off = [self._level([bar], [gain]) - level for bar in bars]
        if max((abs(each) for each in off if math.isfinite(each)), default=0.0) <= EVEN_LU:
            return (gain,) * len(bars)
        beyond = [math.copysign(max(abs(each) - EVEN_LU, 0.0), each) for each in off]
        gains = [gain - min(max(each, -MOST_EVENED_DB), MOST_EVENED_DB) for each in beyond]
        lacking = level - self._level(bars, gains)
        return tuple(each + lacking for each in gains)

    def _level(self, bars: Sequence[NDArray[np.floating]], gains_db: Sequence[float]) -> float:
        sounds = [bent(bar * 10 ** (gain / 20)) for bar, gain in zip(bars, gains_db, strict=True)]
        return loudness_lufs(np.concatenate(sounds, axis=1), self._rate)

    def apply(self, samples: NDArray[np.floating], gain_db: float, ramp: int) -> NDArray[np.float32]:
        """Samples (channels, n) that begin ``ramp`` samples before a joint, at the gain of the clip behind it.

        Decibels change evenly over the ramp; what exceeds the knee is bent to stay within full scale.
        """
        before = gain_db if self._gain_db is None else self._gain_db
        self._gain_db = gain_db
        share = np.minimum((np.arange(samples.shape[-1]) + 1) / max(ramp, 1), 1)
        factor = 10 ** ((before + (gain_db - before) * share) / 20)
        return bent(samples * factor)


def bent(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """The same samples, those beyond the knee bent towards the ceiling."""
    size, room = np.abs(samples), CEILING - KNEE
    over = KNEE + room * np.tanh((size - KNEE) / room)
    return np.where(size > KNEE, np.sign(samples) * over, samples).astype(np.float32)


def _k_weighted(samples: NDArray[np.floating], rate: int) -> NDArray[np.float64]:
    from scipy.signal import lfilter

    weighted = np.atleast_2d(np.asarray(samples, np.float64))
    for numerator, denominator in (_head_filter(rate), _low_cut(rate)):
        weighted = lfilter(numerator, denominator, weighted, axis=-1)
    return weighted


def _head_filter(rate: int) -> tuple[list[float], list[float]]:
    """The shelf of BS.1770, whose 48 kHz coefficients come of these analogue values (De Man, AES e-brief 2014)."""
    frequency, gain_db, quality = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * frequency / rate)
    high = 10 ** (gain_db / 20)
    band = high**0.4996667741545416
    scale = 1 + k / quality + k * k
    numerator = [high + band * k / quality + k * k, 2 * (k * k - high), high - band * k / quality + k * k]
    return [value / scale for value in numerator], _poles(k, quality, scale)


def _low_cut(rate: int) -> tuple[list[float], list[float]]:
    frequency, quality = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * frequency / rate)
    return [1.0, -2.0, 1.0], _poles(k, quality, 1 + k / quality + k * k)


def _poles(k: float, quality: float, scale: float) -> list[float]:
    return [1.0, 2 * (k * k - 1) / scale, (1 - k / quality + k * k) / scale]


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(power) if power > 0 else -math.inf


def _power(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))
