"""Noise and embeddings in, clean latents out: the loop over a sampler's table, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.denoising_session import DenoisingSession, KeptPicture, WalkPlan
from riffusion_engine.errors import DeviceError, RequestError
from riffusion_engine.reusing_session import ReusingSession
from riffusion_engine.session import require_finite
from riffusion_rt.sampler_table import SamplerTable

if TYPE_CHECKING:
    from riffusion_engine.session import Session
    from riffusion_rt.noise import TorchNoise


WHOLE_WALK = (0.0, 1.0)
"""Guidance at every step."""


@dataclass(frozen=True, eq=False)
class Guidance:
    """What the UNet is told: embeddings of the prompts, and how far to push away from the negative ones.

    ``prompt`` and ``negative`` are float32 (n, tokens, width). ``scale`` is one number, or one for each sample, (n,).
    A sample whose scale is 1 or less is left as predicted, and where that goes for all of them the negative side is
    not computed (classifier-free guidance, arXiv 2207.12598).

    ``interval`` is the part of the walk that is guided, as shares of its steps: (0.2, 0.8) leaves the first and last
    fifth unguided, which saves half of their work (guidance interval, arXiv 2404.07724).

    Raises:
        RequestError: the scale is not finite or not one for each sample, or the interval does not lie in 0 … 1.
    """

    prompt: NDArray[np.float32]
    negative: NDArray[np.float32]
    scale: float | NDArray[np.float32]
    interval: tuple[float, float] = WHOLE_WALK

    def __post_init__(self) -> None:
        scale, (first, last) = np.asarray(self.scale), self.interval
        if scale.shape not in ((), (len(self.prompt),)) or not np.isfinite(scale).all():
            raise RequestError(
                f"The guidance scale must be one finite number or {len(self.prompt)}, not {self.scale!r}",
                hint="Give one number, or one for each sample of the batch",
            )
        if not 0 <= first < last <= 1:
            raise RequestError(
                f"The guidance interval must lie in 0 to 1 and rise, not {self.interval}",
                hint="Guide the whole walk with (0, 1), its middle with (0.2, 0.8)",
            )

    @property
    def active(self) -> bool:
        """Whether two predictions are made at any step."""
        return bool(np.max(self.scale) > 1)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """What a guided UNet run is fed, negative first; the prompts alone where guidance is not active."""
        return np.concatenate([self.negative, self.prompt]) if self.active else self.prompt

    @property
    def weights(self) -> NDArray[np.float32]:
        """(n, 1, 1, 1) weight of the prompt's prediction against the negative one's, 1 where there is no guidance."""
        scale = np.maximum(np.asarray(self.scale, np.float32), 1)
        return np.broadcast_to(scale, (len(self.prompt),)).reshape(-1, 1, 1, 1)

    def active_at(self, step: int, steps: int) -> bool:
        """Whether two predictions are made at step 0 … ``steps`` - 1: the middle of the step lies in ``interval``."""
        first, last = self.interval
        return self.active and first <= (step + 0.5) / steps <= last


@dataclass(frozen=True, eq=False)
class Repaint:
    """A seed image to keep in part: its ``latents``, the ``noise`` added to it, and ``keep`` (1 keeps, 0 repaints)."""

    latents: NDArray[np.float32]
    noise: NDArray[np.float32]
    keep: NDArray[np.float32]
    counted: NDArray[np.float32] | None = None
    """(steps,) how much of ``keep`` counts after each step, 0 to 1; all of it if None."""

    def counted_after(self, step: int) -> float:
        """How much of ``keep`` counts after a step, from 0."""
        return 1.0 if self.counted is None else float(self.counted[step])


@dataclass(frozen=True, eq=False)
class DenoisedStep:
    """One step done. What lies on a device is fetched when asked for, which must be before the next step is taken."""

    step: int
    """1 … ``steps``."""
    steps: int
    _latents: Callable[[], NDArray[np.float32]]
    _preview: Callable[[], NDArray[np.float32]]

    @cached_property
    def latents(self) -> NDArray[np.float32]:
        """(n, channels, height, width), clean after the last step.

        Raises:
            NumericsError: they hold NaN or infinity.
        """
        return self._latents()

    def preview(self) -> NDArray[np.float32]:
        """The clean latents that the network predicted at this step."""
        return self._preview()


def denoise(
    unet: Session,
    table: SamplerTable,
    latents: NDArray[np.float32],
    guidance: Guidance,
    noises: Sequence[TorchNoise],
    repaint: Repaint | None = None,
    *,
    on_device: bool | None = None,
) -> Iterator[DenoisedStep]:
    """Walk ``latents`` (n, channels, height, width) down the table's steps, yielding after each.

    ``noises`` has one stream per sample, which ancestral samplers go on drawing from. ``on_device`` keeps everything on
    the UNet's device between steps; by default that is done where it is faster, and the results agree to rounding.

    Raises:
        NumericsError: the UNet returned NaN or infinity.
        DeviceError: ``on_device`` is asked for and the UNet's session cannot.
    """
    walks = isinstance(unet, DenoisingSession)
    if on_device and not walks:
        raise DeviceError(f"{unet.provider} cannot keep a walk on the device", hint="Leave on_device out")
    if isinstance(unet, DenoisingSession) and (unet.walks_on_device if on_device is None else on_device):
        yield from _denoise_on_device(unet, table, latents, guidance, noises, repaint)
    else:
        yield from _denoise_from_host(unet, table, latents, guidance, noises, repaint)


def _denoise_from_host(
    unet: Session,
    table: SamplerTable,
    latents: NDArray[np.float32],
    guidance: Guidance,
    noises: Sequence[TorchNoise],
    repaint: Repaint | None,
) -> Iterator[DenoisedStep]:
    state, steps, guided = table.begin(latents), len(table), guidance.embeddings
    unet = unet.begin() if isinstance(unet, ReusingSession) else unet
    for step in range(steps):
        sample, timestep = state.model_input(step), float(table.timesteps[step])
        if guidance.active_at(step, steps):
            negative, positive = np.split(
                _predict(unet, np.concatenate([sample, sample]), timestep, guided), 2
            )
            output = np.asarray(negative + guidance.weights * (positive - negative), np.float32)
        else:
            output = _predict(unet, sample, timestep, guidance.prompt)
        noise = _drawn(noises, latents.shape) if table.takes_noise(step) else None
        preview = partial(state.denoised, step, output)
        state = state.advance(step, output, noise)
        if repaint is not None:
            kept = table.noised(repaint.latents, repaint.noise, step + 1)
            keep = repaint.keep * np.float32(repaint.counted_after(step))
            state = state.with_latents(keep * kept + (1 - keep) * state.latents)
        yield DenoisedStep(step + 1, steps, partial(_identity, state.latents), preview)


def _denoise_on_device(
    unet: DenoisingSession,
    table: SamplerTable,
    latents: NDArray[np.float32],
    guidance: Guidance,
    noises: Sequence[TorchNoise],
    repaint: Repaint | None,
) -> Iterator[DenoisedStep]:
    plan, steps = _walk_plan(table, latents, guidance, repaint), len(table)
    walk, taken = unet.begin_walk(plan), 0

    def fetched(read: Callable[[], NDArray[np.float32]], step: int) -> NDArray[np.float32]:
        if step != taken:
            raise RequestError(
                f"Step {step} was overwritten by step {taken} on the device",
                hint="Read a step's latents or preview before taking the next step",
            )
        array: NDArray[np.float32] = require_finite(read(), "The UNet's noise prediction")
        return array

    for step in range(steps):
        walk.step(_drawn(noises, latents.shape) if plan.takes_noise(step) else None)
        taken = step + 1
        done = DenoisedStep(
            taken, steps, partial(fetched, walk.latents, taken), partial(fetched, walk.denoised, taken)
        )
        if taken == steps:
            done.latents  # noqa: B018 - nobody is handed NaN as a result, though nobody may have looked yet.
        yield done


def _walk_plan(
    table: SamplerTable, latents: NDArray[np.float32], guidance: Guidance, repaint: Repaint | None
) -> WalkPlan:
    steps, registers = len(table), len(table.registers)
    coefficients = np.zeros((steps, registers + 1, registers + 2), np.float32)
    coefficients[:, :-1] = table.transition
    coefficients[:, -1, :-1] = table.denoised
    counted = [0.0 if repaint is None else repaint.counted_after(step) for step in range(steps)]
    shares = np.stack([table.original_scale[1:], table.noise_scale[1:], counted], axis=1).astype(np.float32)
    return WalkPlan(
        latents=np.asarray(latents, np.float32),
        prompt=guidance.prompt,
        negative=guidance.negative,
        weights=guidance.weights,
        timesteps=table.timesteps.astype(np.float32),
        input_scale=table.input_scale.astype(np.float32),
        coefficients=coefficients,
        guided=tuple(guidance.active_at(step, steps) for step in range(steps)),
        kept=None if repaint is None else KeptPicture(repaint.latents, repaint.noise, repaint.keep, shares),
    )


def _drawn(noises: Sequence[TorchNoise], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.concatenate([stream.normal((1, *shape[1:])) for stream in noises])


def _identity(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array


def _predict(
    unet: Session, sample: NDArray[np.float32], timestep: float, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    feeds = {
        "sample": sample,
        "timestep": np.full(len(sample), timestep, np.float32),
        "encoder_hidden_states": embeddings,
    }
    output: NDArray[np.float32] = require_finite(unet.run(feeds)["out_sample"], "The UNet's noise prediction")
    return output
