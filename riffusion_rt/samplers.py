"""A sampler's name, a noise schedule and a number of steps go in; its table of coefficients comes out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from riffusion_engine.errors import RequestError
from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_rt.sampler_formulas import (
    consistency,
    ddim,
    dpm_solver_2m,
    euler,
    pseudo_linear_multistep,
    restarted,
    unified_predictor_corrector,
)
from riffusion_rt.sampler_table import SamplerState, SamplerTable
from riffusion_rt.timestep_grid import no_room

__all__ = ["SAMPLERS", "NoiseSchedule", "SamplerState", "SamplerTable", "image_start", "sampler_table"]

_FORMULAS: Mapping[str, Callable[[NoiseSchedule, int, int], SamplerTable]] = MappingProxyType(
    {
        "ddim": ddim,
        "pndm": pseudo_linear_multistep,
        "euler": partial(euler, ancestral=False),
        "euler-a": partial(euler, ancestral=True),
        "dpm++2m": partial(dpm_solver_2m, karras=False),
        "dpm++2m-karras": partial(dpm_solver_2m, karras=True),
        "dpm++2m-karras-restart": partial(restarted, partial(dpm_solver_2m, karras=True)),
        "unipc": unified_predictor_corrector,
        "lcm": consistency,
    }
)

SAMPLERS: tuple[str, ...] = tuple(_FORMULAS)
"""Names of the samplers."""


def sampler_table(name: str, schedule: NoiseSchedule, steps: int, *, start: int = 0) -> SamplerTable:
    """Build the table of a sampler.

    It walks as the diffusers scheduler of that name does when made from the same settings. ``pndm`` evaluates
    the network once more than there are steps, as Stable Diffusion uses it. ``dpm++2m-karras-restart`` is no
    scheduler of diffusers': a full walk of it evaluates the network once more, and begins twice.

    Args:
        name: one of ``SAMPLERS``.
        schedule: the noise schedule that the checkpoint was trained on.
        steps: steps of the full walk, 1 to the schedule's number of training timesteps (``lcm``: to its
            ``original_inference_steps``).
        start: evaluations left out at the noisy end of the full walk, as ``image_start`` gives it.

    Raises:
        RequestError: there is no such sampler, ``steps`` or ``start`` is out of range, or the schedule has no
            room for so many steps.
    """
    formula = _FORMULAS.get(name)
    if formula is None:
        raise RequestError(
            f"There is no sampler {name!r}", hint=f"Choose --sampler from {', '.join(SAMPLERS)}"
        )
    most = schedule.original_inference_steps if name == "lcm" else schedule.train_timesteps
    steps, start = _checked_steps(steps, most), _whole("Start", start)
    # Timesteps that coincide make a solver divide by zero: its table is then not finite, and refused below.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        table = formula(schedule, steps, start)
    if not all(np.isfinite(values).all() for values in (table.transition, table.denoised)):
        raise no_room(steps)
    return table


def image_start(steps: int, strength: float) -> int:
    """Where an image-to-image walk starts: the ``start`` for ``sampler_table``.

    Strength is the share of the walk that is run: 1 repaints wholly, little keeps the image. The rule is that
    of diffusers' image-to-image pipeline, the same for every sampler here: 0.75 of 50 steps runs the last 37
    (``pndm``, with its one evaluation more, 38).

    Raises:
        RequestError: ``strength`` is not above 0 and at most 1, or so small that no step is left.
    """
    steps = _checked_steps(steps)
    if not 0.0 < strength <= 1.0:
        raise RequestError(f"Strength {strength} is not between 0 and 1", hint="Try --strength 0.75")
    run = int(steps * strength)
    if run == 0:
        raise RequestError(
            f"Strength {strength:g} leaves none of {steps} steps to run", hint="Raise --strength or --steps"
        )
    return steps - run


def _checked_steps(steps: int, most: int | None = None) -> int:
    whole = _whole("The number of steps", steps)
    if whole < 1:
        raise RequestError(f"{whole} steps make no clip", hint="Try --steps 20")
    if most is not None and whole > most:
        raise RequestError(
            f"{whole} steps are more than the {most} there are", hint=f"Try --steps {min(most, 20)}"
        )
    return whole


def _whole(what: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise RequestError(f"{what} is a whole number, not {value!r}", hint="Try --steps 20") from error
