"""Noise, and perhaps a seed image's latents, in; where a denoising walk starts and what it must keep out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.denoise import Repaint
from riffusion_rt.samplers import image_start, sampler_table

if TYPE_CHECKING:
    from riffusion_rt.noise_schedule import NoiseSchedule
    from riffusion_rt.sampler_table import SamplerTable


MIXED_SHARE, MIXED_UNTIL = 1.25, 0.6
"""From the strength to how much of the original is mixed in after a step, as a power, and to the training timestep
until which that is done, as a factor. Chosen on recordings of three kinds at 8, 12 and 20 steps."""


@dataclass(frozen=True, eq=False)
class WalkStart:
    """What ``denoise`` needs besides the network and its guidance."""

    table: SamplerTable
    """The steps to take."""
    latents: NDArray[np.float32]
    """(n, channels, height, width) at the noise level of the first step."""
    repaint: Repaint | None = None
    """What a mask keeps, or what is mixed in."""


def start_from_noise(
    schedule: NoiseSchedule, sampler: str, steps: int, noise: NDArray[np.float32]
) -> WalkStart:
    """Text to image: unit ``noise`` (n, channels, height, width) at the loudest level, all steps to go.

    Raises:
        RequestError: an unknown sampler, or more steps than the schedule has room for.
    """
    table = sampler_table(sampler, schedule, steps)
    return WalkStart(table, noise * np.float32(table.init_noise_sigma))


def start_from_latents(
    schedule: NoiseSchedule,
    sampler: str,
    steps: int,
    strength: float,
    original: NDArray[np.float32],
    noise: NDArray[np.float32],
    keep: NDArray[np.float32] | None = None,
) -> WalkStart:
    """Image to image: ``original`` latents, noised to where the last ``strength`` share of the steps begins.

    Args:
        original, noise: (n, channels, height, width); either may be (1, …) for all.
        keep: (1 or n, 1, height, width), 1 where the original is kept, 0 where it is drawn anew.

    Raises:
        RequestError: a strength that leaves no step, and all that ``start_from_noise`` refuses.
    """
    table = sampler_table(sampler, schedule, steps, start=image_start(steps, strength))
    original, noise = np.broadcast_arrays(original, noise)
    repaint = None if keep is None else Repaint(original, noise, keep)
    return WalkStart(table, table.noised(original, noise), repaint)


def start_mixed(
    schedule: NoiseSchedule,
    sampler: str,
    steps: int,
    strength: float,
    original: NDArray[np.float32],
    noise: NDArray[np.float32],
) -> WalkStart:
    """Image to image that mixes: what is drawn takes its outline from the ``original``, its substance from the prompt.

    The walk takes all steps, and after each of them, until the picture's outline stands, the original at that step's
    noise level is mixed in (MagicMix, arXiv 2210.16056). So a prompt can do away with an instrument and yet be played
    on its beat: at one strength riffusion-mini keeps as much of a recording's onsets as ``start_from_latents`` has it
    keep, and is heard as the prompt more often (``benchmarks/remix_beats.py``).

    Args:
        strength: above 0, where next to nothing is changed, to 1, where nothing is mixed in.
        original, noise: (n, channels, height, width); either may be (1, …) for all.

    Raises:
        RequestError: a strength out of range, and all that ``start_from_noise`` refuses.
    """
    if not 0.0 < strength <= 1.0:
        raise RequestError(f"Strength {strength} is not between 0 and 1", hint="Try --strength 0.75")
    table = sampler_table(sampler, schedule, steps)
    original, noise = np.broadcast_arrays(original, noise)
    outlining = table.timesteps >= MIXED_UNTIL * strength * schedule.train_timesteps
    keep = np.full((1, 1, 1, 1), 1 - strength**MIXED_SHARE, np.float32)
    return WalkStart(
        table,
        table.noised(original, noise),
        Repaint(original, noise, keep, outlining.astype(np.float32)),
    )
