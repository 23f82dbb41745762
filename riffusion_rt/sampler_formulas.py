"""A noise schedule, a number of steps and a start go in; one sampler's table of coefficients comes out.

Each function here runs its paper's formulas once, in float64, on unit vectors instead of on latents: one for
each register, one for the network's output, one for fresh noise. What the formulas return *is* the table.
Defaults are those of the diffusers scheduler that each docstring names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_rt.sampler_table import LATENTS, SamplerTable
from riffusion_rt.timestep_grid import SigmaWalk, karras_walk, sigma_walk, spaced_timesteps

Vector = NDArray[np.float64]

_ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest and of earlier slopes (arXiv 2202.09778, equation 12, and its warm-up orders)."""
_FIRST_ORDER_END_BELOW = 15
"""Walks with fewer steps end at first order, where second order is not stable (arXiv 2211.01095)."""
_CONSISTENCY_SIGMA_DATA = 0.5
"""Standard deviation of the data in consistency models' boundary condition (arXiv 2303.01469, appendix C)."""


class Row(NamedTuple):
    """One step on unit vectors: what each register becomes, and the clean latents predicted."""

    registers: tuple[Vector, ...]
    denoised: Vector


def ddim(schedule: NoiseSchedule, steps: int, start: int) -> SamplerTable:
    """Denoising diffusion implicit models without noise (arXiv 2010.02502, equation 12 with sigma 0).

    As ``DDIMScheduler``.
    """
    timesteps = _rest(spaced_timesteps(schedule, steps, "leading"), start)
    stride = schedule.train_timesteps // steps
    ends_clean = schedule.set_alpha_to_one is not False
    latents, output, _ = _unit_vectors(1)
    rows = []
    for timestep in timesteps:
        clean, noise = schedule.split(*_level(schedule, timestep), latents, output)
        alpha, sigma = _level(schedule, timestep - stride, ends_clean=ends_clean)
        rows.append(Row((alpha * clean + sigma * noise,), clean))
    return _table("ddim", ("latents",), timesteps, rows, _trained_levels(schedule, timesteps))


def pseudo_linear_multistep(schedule: NoiseSchedule, steps: int, start: int) -> SamplerTable:
    """Pseudo numerical methods, started without Runge-Kutta steps (arXiv 2202.09778, equations 9 and 12).

    The first step is taken twice: a trial, then again from the same latents with the mean of both slopes.
    As ``PNDMScheduler(skip_prk_steps=True)``, which also starts so in the middle of a walk.
    """
    if schedule.zero_terminal_snr:
        raise RequestError("pndm cannot start from pure noise, as this model does", hint="Try --sampler ddim")
    once = spaced_timesteps(schedule, steps, "leading")
    timesteps = _rest(np.concatenate([once[:1], once[1:2], once[1:]]), start)
    stride = schedule.train_timesteps // steps
    ends_clean = schedule.set_alpha_to_one is True
    latents, base, *earlier, output, _ = _unit_vectors(5)
    rows = []
    for step, timestep in enumerate(timesteps):
        here = _level(schedule, timestep)
        denoised, _ = schedule.split(*here, latents, output)
        there = _level(schedule, timestep - stride, ends_clean=ends_clean)
        origin, kept, slope = latents, (output, *earlier[:-1]), output
        if step == 1:
            here, there = _level(schedule, timestep + stride), here
            origin, kept, slope = base, tuple(earlier), (output + earlier[0]) / 2
        elif step > 1:
            weights = _ADAMS_BASHFORTH[min(step, 4) - 1]
            slope = _mix(weights, (output, *earlier))
        clean, noise = schedule.split(*here, origin, slope)
        rows.append(Row((there[0] * clean + there[1] * noise, origin, *kept), denoised))
    names = ("latents", "latents before", "output 1 ago", "output 2 ago", "output 3 ago")
    return _table("pndm", names, timesteps, rows, _trained_levels(schedule, timesteps))


def euler(schedule: NoiseSchedule, steps: int, start: int, *, ancestral: bool) -> SamplerTable:
    """Euler's method over sigmas, on latents that are ``x_0 + sigma noise``.

    This is algorithm 1 of arXiv 2206.00364 without its correction. ``ancestral`` steps too far down and adds
    fresh noise back, as much as the posterior of arXiv 2006.11239 has. As ``EulerDiscreteScheduler`` and
    ``EulerAncestralDiscreteScheduler``.
    """
    end = "zero" if ancestral else schedule.final_sigmas_type
    full = sigma_walk(schedule, spaced_timesteps(schedule, steps, "linspace", whole=False), end)
    walk = full.from_step(_checked_start(start, steps))
    latents, output, fresh = _unit_vectors(1)
    rows = []
    for step, (sigma, below) in enumerate(zip(walk.sigmas[:-1], walk.sigmas[1:], strict=True)):
        clean, _ = schedule.split(walk.alpha[step], walk.sigma[step], walk.alpha[step] * latents, output)
        added = below * np.sqrt(1 - (below / sigma) ** 2) if ancestral else 0.0
        target = np.sqrt(below**2 - added**2)
        rows.append(Row((latents + (target - sigma) * (latents - clean) / sigma + added * fresh,), clean))
    loudest = full.sigmas[0]
    return _table(
        "euler-a" if ancestral else "euler",
        ("latents",),
        walk.timesteps,
        rows,
        (np.ones(len(rows)), walk.sigmas[:-1]),
        input_scale=walk.alpha[:-1],
        init_noise_sigma=float(np.hypot(loudest, 1) if schedule.timestep_spacing == "leading" else loudest),
    )


def dpm_solver_2m(schedule: NoiseSchedule, steps: int, start: int, *, karras: bool) -> SamplerTable:
    """DPM-Solver++ of second order with the last two outputs (arXiv 2211.01095, algorithm 2, midpoint form).

    As ``DPMSolverMultistepScheduler``, with ``use_karras_sigmas`` or without.
    """
    full = karras_walk(schedule, steps) if karras else _solver_walk(schedule, steps)
    walk = full.from_step(_checked_start(start, steps))
    ends_first_order = schedule.final_sigmas_type == "zero" or steps < _FIRST_ORDER_END_BELOW
    latents, before, output, _ = _unit_vectors(2)
    rows = []
    for step in range(len(walk.timesteps)):
        clean, _ = schedule.split(walk.alpha[step], walk.sigma[step], latents, output)
        last = step == len(walk.timesteps) - 1
        extrapolated = clean
        if step > 0 and not (last and ends_first_order):
            extrapolated = clean + walk.log_ratio(step) / walk.log_ratio(step - 1) * (clean - before) / 2
        rows.append(Row((_exponential_step(walk, step, latents, extrapolated), clean), clean))
    name = "dpm++2m-karras" if karras else "dpm++2m"
    return _table(name, ("latents", "clean 1 ago"), walk.timesteps, rows, _walk_levels(walk))


def restarted(
    formula: Callable[[NoiseSchedule, int, int], SamplerTable],
    schedule: NoiseSchedule,
    steps: int,
    start: int,
) -> SamplerTable:
    """Another sampler whose full walk begins twice: what is predicted of pure noise is laid under the same noise.

    Stable Diffusion's schedule never ends in noise alone (arXiv 2305.08891): at its last timestep a network has
    always seen a trace of the picture, of its mean above all, and takes pure noise for a picture of middling
    loudness. One evaluation more gives the walk that trace. It is the shortest cycle of restart sampling (arXiv
    2306.14878), with the noise kept, so that equal seeds stay alike. A walk that begins further down has a picture
    in it and is left as it is; one that begins here keeps nothing of a seed image.
    """
    table = formula(schedule, steps, start)
    if start > 0:
        return table
    clean = np.append(table.denoised[0], 0.0)
    first = np.zeros_like(table.transition[0])
    first[LATENTS] = table.original_scale[0] * clean
    first[LATENTS, LATENTS] += 1.0
    return replace(
        table,
        sampler=f"{table.sampler}-restart",
        timesteps=_twice_first(table.timesteps),
        input_scale=_twice_first(table.input_scale),
        transition=np.concatenate([first[None], table.transition]),
        denoised=_twice_first(table.denoised),
        original_scale=np.append(0.0, table.original_scale),
        noise_scale=_twice_first(table.noise_scale),
    )


def _twice_first(values: Vector) -> Vector:
    return np.concatenate([values[:1], values])


def unified_predictor_corrector(schedule: NoiseSchedule, steps: int, start: int) -> SamplerTable:
    """UniPC of second order, variant B2 (arXiv 2302.04867): an output also corrects the step that led to it.

    As ``UniPCMultistepScheduler``.
    """
    walk = _solver_walk(schedule, steps).from_step(_checked_start(start, steps))
    count = len(walk.timesteps)
    latents, base, before, long_before, output, _ = _unit_vectors(4)
    rows = []
    for step in range(count):
        clean, _ = schedule.split(walk.alpha[step], walk.sigma[step], latents, output)
        corrected = latents
        if step > 0:
            corrected = _corrected(walk, step - 1, base, (long_before, before, clean), order=min(step, 2))
        order = min(2, count - step, step + 1)
        direction = clean
        if order == 2:
            direction = clean + walk.log_ratio(step) / walk.log_ratio(step - 1) * (clean - before) / 2
        rows.append(
            Row((_exponential_step(walk, step, corrected, direction), corrected, clean, before), clean)
        )
    names = ("latents", "corrected latents", "clean 1 ago", "clean 2 ago")
    return _table("unipc", names, walk.timesteps, rows, _walk_levels(walk))


def consistency(schedule: NoiseSchedule, steps: int, start: int) -> SamplerTable:
    """Multistep sampling of a latent consistency model (arXiv 2310.04378).

    As ``LCMScheduler``: the timesteps are picked from those that the model was distilled on.
    """
    distilled = schedule.original_inference_steps
    stride = schedule.train_timesteps // distilled
    picked = np.floor(np.linspace(0, distilled, steps, endpoint=False))
    timesteps = _rest((distilled - picked) * stride - 1, start)
    latents, output, fresh = _unit_vectors(1)
    rows = []
    for step, timestep in enumerate(timesteps):
        clean, _ = schedule.split(*_level(schedule, timestep), latents, output)
        scaled = timestep * schedule.timestep_scaling
        spread = np.hypot(scaled, _CONSISTENCY_SIGMA_DATA)
        denoised = scaled / spread * clean + (_CONSISTENCY_SIGMA_DATA / spread) ** 2 * latents
        target = denoised
        if step + 1 < len(timesteps):
            alpha, sigma = _level(schedule, timesteps[step + 1])
            target = alpha * denoised + sigma * fresh
        rows.append(Row((target,), denoised))
    return _table("lcm", ("latents",), timesteps, rows, _trained_levels(schedule, timesteps))


def _exponential_step(walk: SigmaWalk, step: int, latents: Vector, clean: Vector) -> Vector:
    """The step that is exact if the clean prediction stays put (arXiv 2211.01095 at first order)."""
    kept = float(walk.sigma[step + 1] / walk.sigma[step])
    gained = float(walk.alpha[step + 1] * (1 - walk.sigmas[step + 1] / walk.sigmas[step]))
    return kept * latents + gained * clean


def _corrected(
    walk: SigmaWalk, step: int, base: Vector, cleans: tuple[Vector, Vector, Vector], *, order: int
) -> Vector:
    """Retake a step now that the prediction at its far end is known (UniC of arXiv 2302.04867).

    ``cleans`` are the predictions at the step before, at this step and at its far end.
    """
    before, here, beyond = cleans
    ahead = beyond - here
    h = walk.log_ratio(step)
    if order == 1:
        change = ahead / 2
    else:
        ratio = -walk.log_ratio(step - 1) / h
        # Moments of e^-h that the weights of both differences must match; B(h) = e^-h - 1 divides them.
        first = np.expm1(-h) / -h - 1
        second = first / -h - 1 / 2
        moments = first / np.expm1(-h), 2 * second / np.expm1(-h)
        weight = (moments[1] - moments[0]) / (ratio - 1)
        change = weight * (before - here) / ratio + (moments[0] - weight) * ahead
    return _exponential_step(walk, step, base, here + change)


def _solver_walk(schedule: NoiseSchedule, steps: int) -> SigmaWalk:
    timesteps = spaced_timesteps(schedule, steps, "linspace", count_end=True)
    return sigma_walk(schedule, timesteps, schedule.final_sigmas_type)


def _level(schedule: NoiseSchedule, timestep: float, *, ends_clean: bool = False) -> tuple[float, float]:
    """Shares of clean sample and noise at a training timestep; below 0 the walk has ended."""
    index = int(timestep)
    left = 1.0 if index < 0 and ends_clean else float(schedule.alphas_cumprod[max(index, 0)])
    return float(np.sqrt(left)), float(np.sqrt(1 - left))


def _trained_levels(schedule: NoiseSchedule, timesteps: Vector) -> tuple[Vector, Vector]:
    left = schedule.alphas_cumprod[timesteps.astype(np.int64)]
    return np.sqrt(left), np.sqrt(1 - left)


def _walk_levels(walk: SigmaWalk) -> tuple[Vector, Vector]:
    return walk.alpha[:-1], walk.sigma[:-1]


def _unit_vectors(registers: int) -> tuple[Vector, ...]:
    """A column for each register, then one for the network's output and one for noise."""
    return tuple(np.eye(registers + 2))


def _mix(weights: Iterable[float], vectors: Iterable[Vector]) -> Vector:
    return sum((weight * vector for weight, vector in zip(weights, vectors, strict=False)), start=np.zeros(1))


def _checked_start(start: int, count: int) -> int:
    if not 0 <= start < count:
        raise RequestError(f"Start {start} is not one of {count} steps", hint="Raise --strength or --steps")
    return start


def _rest(timesteps: Vector, start: int) -> Vector:
    return timesteps[_checked_start(start, len(timesteps)) :]


def _table(
    sampler: str,
    registers: tuple[str, ...],
    timesteps: Vector,
    rows: Sequence[Row],
    levels: tuple[Vector, Vector],
    *,
    input_scale: Vector | None = None,
    init_noise_sigma: float = 1.0,
) -> SamplerTable:
    return SamplerTable(
        sampler=sampler,
        registers=registers,
        timesteps=timesteps,
        input_scale=np.ones(len(timesteps)) if input_scale is None else input_scale,
        transition=np.array([row.registers for row in rows]),
        denoised=np.array([row.denoised[:-1] for row in rows]),
        original_scale=np.append(levels[0], 1.0),
        noise_scale=np.append(levels[1], 0.0),
        init_noise_sigma=init_noise_sigma,
    )
