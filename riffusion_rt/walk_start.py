"""Noise, and perhaps a seed image's latents, in; where a denoising walk starts and what it must keep out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.denoise import Repaint
from riffusion_rt.samplers import image_start, sampler_table

if TYPE_CHECKING:
    from riffusion_rt.noise_schedule import NoiseSchedule
    from riffusion_rt.sampler_table import SamplerTable


@dataclass(frozen=True, eq=False)
class WalkStart:
    """What ``denoise`` needs besides the network and its guidance."""

    table: SamplerTable
    """The steps to take."""
    latents: NDArray[np.float32]
    """(n, channels, height, width) at the noise level of the first step."""
    repaint: Repaint | None = None
    """What a mask keeps."""


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
