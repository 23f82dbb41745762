"""A noise schedule and a number of steps go in; the timesteps and noise levels of a walk come out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.noise_schedule import NoiseSchedule

_KARRAS_RHO = 7.0
"""Curvature of the Karras spacing (arXiv 2206.00364, equation 5)."""


def spaced_timesteps(
    schedule: NoiseSchedule, steps: int, spacing: str, *, count_end: bool = False, whole: bool = True
) -> NDArray[np.float64]:
    """(steps,) training timesteps, falling, laid over the schedule (arXiv 2305.08891, table 2).

    The schedule's own spacing goes before ``spacing``. ``count_end`` spaces them as if the end of the walk
    were one more step; ``whole`` rounds to trained timesteps.

    Raises:
        RequestError: a timestep falls outside the schedule.
    """
    spacing = schedule.timestep_spacing or spacing
    train = schedule.train_timesteps
    points = steps + count_end
    if spacing == "leading":
        timesteps = np.arange(points, dtype=np.float64)[::-1] * (train // points) + schedule.steps_offset
    elif spacing == "trailing":
        timesteps = np.round(train - np.arange(steps) * (train / steps)) - 1.0
    else:
        exact = np.linspace(0, train - 1, points)[::-1]
        # The network is fed single precision, so that is where an unrounded timestep lies.
        timesteps = np.round(exact) if whole else exact.astype(np.float32).astype(np.float64)
    if timesteps[0] >= train:
        raise no_room(steps)
    return timesteps[:steps]


def no_room(steps: int) -> RequestError:
    """The error for a number of steps that a schedule has no room for."""
    return RequestError(f"This model's noise schedule has no room for {steps} steps", hint="Try --steps 50")


@dataclass(frozen=True, eq=False)
class SigmaWalk:
    """The noise levels of a walk, from loud to quiet, for solvers that work over sigmas."""

    timesteps: NDArray[np.float64]
    """(T,) training timestep at each level."""
    sigmas: NDArray[np.float64]
    """(T + 1,) ratio of noise to sample; the last is where the walk ends, usually 0."""

    @cached_property
    def alpha(self) -> NDArray[np.float64]:
        """(T + 1,) share of the clean sample where variance is preserved."""
        return 1.0 / np.sqrt(1.0 + self.sigmas**2)

    @cached_property
    def sigma(self) -> NDArray[np.float64]:
        """(T + 1,) share of the noise where variance is preserved."""
        return self.sigmas * self.alpha

    def log_ratio(self, step: int) -> np.float64:
        """How far a step goes: the growth of the log signal-to-noise amplitude (infinite down to sigma 0)."""
        return np.float64(np.log(self.sigmas[step] / self.sigmas[step + 1]))

    def from_step(self, start: int) -> SigmaWalk:
        """The rest of the walk from a step on."""
        return SigmaWalk(self.timesteps[start:], self.sigmas[start:])


def sigma_walk(schedule: NoiseSchedule, timesteps: NDArray[np.float64], final_sigmas_type: str) -> SigmaWalk:
    """The walk over given timesteps, ending as ``final_sigmas_type`` says."""
    sigmas = np.interp(timesteps, np.arange(schedule.train_timesteps), schedule.sigmas)
    return SigmaWalk(timesteps, np.append(sigmas, _final_sigma(schedule, final_sigmas_type)))


def karras_walk(schedule: NoiseSchedule, steps: int) -> SigmaWalk:
    """A walk over the whole range of sigmas, denser where it is quiet (arXiv 2206.00364, equation 5)."""
    loudest, quietest = schedule.sigmas[-1], schedule.sigmas[0]
    ramp = np.linspace(loudest ** (1 / _KARRAS_RHO), quietest ** (1 / _KARRAS_RHO), steps)
    sigmas = ramp**_KARRAS_RHO
    timesteps = np.interp(np.log(sigmas), np.log(schedule.sigmas), np.arange(schedule.train_timesteps))
    final = _final_sigma(schedule, schedule.final_sigmas_type)
    return SigmaWalk(np.round(timesteps), np.append(sigmas, final))


def _final_sigma(schedule: NoiseSchedule, final_sigmas_type: str) -> float:
    return float(schedule.sigmas[0]) if final_sigmas_type == "sigma_min" else 0.0
