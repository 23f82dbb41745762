"""Noise and embeddings in, clean latents out: the loop over a sampler's table, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.session import require_finite
from riffusion_rt.sampler_table import SamplerState, SamplerTable

if TYPE_CHECKING:
    from riffusion_engine.session import Session
    from riffusion_rt.noise import TorchNoise


@dataclass(frozen=True, eq=False)
class Guidance:
    """What the UNet is told: embeddings of the prompts, and how far to push away from the negative ones.

    ``prompt`` and ``negative`` are float32 (n, tokens, width). At ``scale`` 1 or less the negative side is not computed
    (classifier-free guidance, arXiv 2207.12598).
    """

    prompt: NDArray[np.float32]
    negative: NDArray[np.float32]
    scale: float

    @property
    def active(self) -> bool:
        """Whether two predictions are made at every step."""
        return self.scale > 1

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """What one UNet run is fed: negative first when guidance is active."""
        return np.concatenate([self.negative, self.prompt]) if self.active else self.prompt


@dataclass(frozen=True, eq=False)
class Repaint:
    """A seed image to keep in part: its ``latents``, the ``noise`` added to it, and ``keep`` (1 keeps, 0 repaints)."""

    latents: NDArray[np.float32]
    noise: NDArray[np.float32]
    keep: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DenoisedStep:
    """One step done. ``latents`` are float32 (n, channels, height, width), clean after the last step."""

    step: int
    """1 … ``steps``."""
    steps: int
    latents: NDArray[np.float32]
    _before: SamplerState
    _output: NDArray[np.float32]

    def preview(self) -> NDArray[np.float32]:
        """The clean latents that the network predicted at this step."""
        return self._before.denoised(self.step - 1, self._output)


def denoise(
    unet: Session,
    table: SamplerTable,
    latents: NDArray[np.float32],
    guidance: Guidance,
    noises: Sequence[TorchNoise],
    repaint: Repaint | None = None,
) -> Iterator[DenoisedStep]:
    """Walk ``latents`` (n, channels, height, width) down the table's steps, yielding after each.

    ``noises`` has one stream per sample, which ancestral samplers go on drawing from.

    Raises:
        NumericsError: the UNet returned NaN or infinity.
    """
    state, embeddings = table.begin(latents), guidance.embeddings
    for step in range(len(table)):
        output = _predict(unet, state.model_input(step), float(table.timesteps[step]), embeddings, guidance)
        noise = None
        if table.takes_noise(step):
            noise = np.concatenate([stream.normal((1, *latents.shape[1:])) for stream in noises])
        before, state = state, state.advance(step, output, noise)
        if repaint is not None:
            kept = table.noised(repaint.latents, repaint.noise, step + 1)
            state = state.with_latents(repaint.keep * kept + (1 - repaint.keep) * state.latents)
        yield DenoisedStep(step + 1, len(table), state.latents, before, output)


def _predict(
    unet: Session,
    sample: NDArray[np.float32],
    timestep: float,
    embeddings: NDArray[np.float32],
    guidance: Guidance,
) -> NDArray[np.float32]:
    batch = np.concatenate([sample, sample]) if guidance.active else sample
    feeds = {
        "sample": batch,
        "timestep": np.full(len(batch), timestep, np.float32),
        "encoder_hidden_states": embeddings,
    }
    output: NDArray[np.float32] = require_finite(unet.run(feeds)["out_sample"], "The UNet's noise prediction")
    if not guidance.active:
        return output
    negative, positive = np.split(output, 2)
    return np.asarray(negative + np.float32(guidance.scale) * (positive - negative), np.float32)
