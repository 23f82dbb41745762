"""A table of coefficients and a network's outputs go in; denoised latents come out, by weighted sums alone.

A sampler is a small linear system whose only nonlinearity is the network outside it. Its memory is a row of
registers, each as large as the latents, and register 0 holds the latents themselves. Step ``i`` reads::

    network input  =  input_scale[i] * register 0
    registers'     =  transition[i] @ (registers, network output, noise)

So one ``advance`` serves every sampler, and a backend can run the same table on its own device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riffusion_engine.errors import RequestError

LATENTS = 0
"""The register that holds the latents."""


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """Every number that a sampler needs for T network evaluations with K registers, in float64."""

    sampler: str
    """Name of the sampler."""
    registers: tuple[str, ...]
    """What each of the K registers holds; the first is the latents."""
    timesteps: NDArray[np.float64]
    """(T,) training timestep of each evaluation, falling; whole but for the euler samplers."""
    input_scale: NDArray[np.float64]
    """(T,) factor from the latents to the network's input."""
    transition: NDArray[np.float64]
    """(T, K, K + 2) new registers from the old ones, the network's output and fresh noise, in this order."""
    denoised: NDArray[np.float64]
    """(T, K + 1) predicted clean latents, from the registers and the network's output: for previews."""
    original_scale: NDArray[np.float64]
    """(T + 1,) share of a clean original in latents that enter step i; the last entry is after all steps."""
    noise_scale: NDArray[np.float64]
    """(T + 1,) share of unit noise in latents that enter step i; 0 after all steps."""
    init_noise_sigma: float
    """Factor from unit noise to the latents that a full walk starts from."""

    def __len__(self) -> int:
        """Number of network evaluations."""
        return len(self.timesteps)

    def takes_noise(self, step: int) -> bool:
        """Whether ``advance`` needs fresh noise at this step."""
        return bool(self.transition[step, :, -1].any())

    def noised(
        self, original: NDArray[np.float32], noise: NDArray[np.float32], step: int = 0
    ) -> NDArray[np.float32]:
        """Clean latents brought to the noise level at which latents enter ``step`` (0..T).

        Step 0 starts an image-to-image walk; ``i + 1`` is what a mask mixes in after step i.
        """
        return _weighted_sum((self.original_scale[step], self.noise_scale[step]), (original, noise))

    def begin(self, latents: NDArray[np.float32]) -> SamplerState:
        """Start a walk from ``init_noise_sigma * noise`` (text) or ``noised(original, noise)`` (image)."""
        first = np.asarray(latents, np.float32)
        empty = np.zeros_like(first)
        return SamplerState(self, (first, *(empty for _ in self.registers[1:])))


@dataclass(frozen=True, eq=False)
class SamplerState:
    """The registers between two steps. Arrays in it are never written to again."""

    table: SamplerTable
    registers: tuple[NDArray[np.float32], ...]

    @property
    def latents(self) -> NDArray[np.float32]:
        """The latents, in the sampler's own scale (clean after the last step)."""
        return self.registers[LATENTS]

    def with_latents(self, latents: NDArray[np.float32]) -> SamplerState:
        """The same walk with other latents, as a mask needs it: the sampler's memory stays."""
        _check_shape("The latents", latents, self.latents)
        return SamplerState(self.table, (np.asarray(latents, np.float32), *self.registers[1:]))

    def model_input(self, step: int) -> NDArray[np.float32]:
        """What the network is to look at in this step."""
        scale = self.table.input_scale[step]
        return self.latents if scale == 1 else np.float32(scale) * self.latents

    def advance(
        self, step: int, model_output: NDArray[np.float32], noise: NDArray[np.float32] | None = None
    ) -> SamplerState:
        """Take one step with the network's output (after guidance), and noise where ``takes_noise(step)``.

        Raises:
            RequestError: noise is missing, or a shape differs from that of the latents.
        """
        _check_shape("The network's output", model_output, self.latents)
        columns = [*self.registers, np.asarray(model_output, np.float32)]
        if self.table.takes_noise(step):
            if noise is None:
                raise RequestError(
                    f"Step {step} of {self.table.sampler} needs noise",
                    hint="Pass noise where takes_noise(step)",
                )
            _check_shape("The noise", noise, self.latents)
            columns.append(np.asarray(noise, np.float32))
        return SamplerState(
            self.table, tuple(_weighted_sum(row, columns) for row in self.table.transition[step])
        )

    def denoised(self, step: int, model_output: NDArray[np.float32]) -> NDArray[np.float32]:
        """The clean latents that the network predicts at this step, before ``advance``: a preview."""
        _check_shape("The network's output", model_output, self.latents)
        return _weighted_sum(
            self.table.denoised[step], (*self.registers, np.asarray(model_output, np.float32))
        )


def _weighted_sum(weights: ArrayLike, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Sum of weight times array in float32; zero weights are skipped, a lone one copies nothing."""
    terms = [
        (weight, array) for weight, array in zip(np.asarray(weights), arrays, strict=False) if weight != 0
    ]
    if not terms:
        return np.zeros_like(arrays[0])
    (weight, array), *others = terms
    if weight == 1 and not others:
        return array
    total = np.float32(weight) * array
    for weight, array in others:
        total += np.float32(weight) * array
    return total


def _check_shape(what: str, array: NDArray[np.float32], latents: NDArray[np.float32]) -> None:
    if np.shape(array) != latents.shape:
        raise RequestError(
            f"{what} has the shape {np.shape(array)}, not that of the latents, {latents.shape}",
            hint="Feed the network model_input(step) and hand its output on in that shape",
        )
