"""A recording in, short clips from random places in it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.resampling import with_channels

CLIP_SECONDS = 5.12
"""Two bars at 93.75 beats a minute: the length of a 512-column picture."""


@dataclass(frozen=True)
class SampledClip:
    """A piece of a recording: where it began, in samples, and what was there, ``(channels, n)``."""

    index: int
    start: int
    samples: NDArray[np.float32]


def sample_clips(
    samples: NDArray[np.floating],
    sample_rate: int,
    *,
    count: int,
    duration_s: float = CLIP_SECONDS,
    mono: bool = False,
    seed: int | None = None,
) -> Iterator[SampledClip]:
    """Cut clips out of a recording at random places, each place as likely as any other; they may overlap.

    Args:
        samples: ``(channels, n)``.
        sample_rate: samples a second.
        count: how many clips; the first of them are the same whatever the count.
        duration_s: length of each, in seconds.
        mono: mix the channels.
        seed: the same seed gives the same places; None takes new ones every time.

    Raises:
        RequestError: before the first clip, if the recording is shorter than a clip or a number makes no
        sense.
    """
    length = round(duration_s * sample_rate) if np.isfinite(duration_s) else 0
    total = samples.shape[-1]
    if count < 1 or length < 1:
        raise RequestError(
            f"Cannot cut {count} clips of {duration_s} s", hint="Ask for at least one clip of more than 0 s"
        )
    if total < length:
        raise RequestError(
            f"The recording lasts {total / sample_rate:.2f} s, less than a clip of {duration_s:g} s",
            hint=f"Ask for at most {total / sample_rate:.2f} s",
        )
    if seed is not None and seed < 0:
        raise RequestError(f"A seed of {seed} is below zero", hint="Use 0 or more")
    return _cut(with_channels(samples, 1) if mono else samples, length, count, np.random.default_rng(seed))


def _cut(
    samples: NDArray[np.floating], length: int, count: int, random: np.random.Generator
) -> Iterator[SampledClip]:
    for index in range(count):
        start = int(random.integers(samples.shape[-1] - length + 1))
        yield SampledClip(index, start, samples[..., start : start + length].astype(np.float32))
