"""A sampler's table and noise in, clean latents out, all steps on the UNet's device: what a session promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.session import Session


@dataclass(frozen=True, eq=False)
class KeptPicture:
    """What is put back after every step: clean ``latents`` and the ``noise`` added to them, both (n, c, h, w).

    After step i, the first two of ``shares[i]``, of the latents and of the noise, are what enters the next step; it is
    (T, 3). ``keep`` is 1 where they replace what was denoised, 0 where not, and broadcasts against them; the third of
    ``shares[i]`` is how much of that counts.
    """

    latents: NDArray[np.float32]
    noise: NDArray[np.float32]
    keep: NDArray[np.float32]
    shares: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class WalkPlan:
    """A whole walk of T steps for n samples with K registers, as arrays: what a device must be told, and no more.

    Step i feeds the UNet ``input_scale[i] * registers[0]`` at ``timesteps[i]``. From the K registers, the prediction
    and noise, ``coefficients[i]`` (K + 1, K + 2) makes the next K registers and, in its last row, the clean latents
    that are predicted.
    """

    latents: NDArray[np.float32]
    """(n, c, h, w) where the walk starts: register 0. The others start as zeros."""
    prompt: NDArray[np.float32]
    """(n, tokens, width)"""
    negative: NDArray[np.float32]
    """(n, tokens, width)"""
    weights: NDArray[np.float32]
    """(n, 1, 1, 1): prediction = negative's + weight * (prompt's - negative's)."""
    timesteps: NDArray[np.float32]
    """(T,)"""
    input_scale: NDArray[np.float32]
    """(T,)"""
    coefficients: NDArray[np.float32]
    """(T, K + 1, K + 2)"""
    guided: tuple[bool, ...]
    """Whether step i runs the UNet on both prompts; the prompt alone otherwise."""
    kept: KeptPicture | None = None

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def registers(self) -> int:
        """How many arrays of the latents' size the sampler remembers, the latents among them."""
        return int(self.coefficients.shape[1]) - 1

    def takes_noise(self, step: int) -> bool:
        """Whether this step needs fresh noise."""
        return bool(self.coefficients[step, :, -1].any())


class DeviceWalk(Protocol):
    """A walk under way, its registers on the device."""

    def step(self, noise: NDArray[np.float32] | None = None) -> None:
        """Take the next step, with noise (n, c, h, w) where ``WalkPlan.takes_noise``."""
        ...

    def latents(self) -> NDArray[np.float32]:
        """A copy of the latents after the last step taken."""
        ...

    def denoised(self) -> NDArray[np.float32]:
        """A copy of the clean latents that were predicted in the last step taken."""
        ...


@runtime_checkable
class DenoisingSession(Session, Protocol):
    """A UNet's session that can walk by itself. One that cannot is walked from the host, a copy in and out per step."""

    @property
    def walks_on_device(self) -> bool:
        """Whether a walk here beats one from the host: on a GPU it does, on a CPU there is nothing to save."""
        ...

    def begin_walk(self, plan: WalkPlan) -> DeviceWalk:
        """Put a walk's arrays on the device and reserve what it writes.

        Raises:
            DeviceError: the device has no room, or the session is closed.
        """
        ...


UNET_NAMES: tuple[str, ...] = ("sample", "timestep", "encoder_hidden_states", "out_sample")
"""Names of the UNet's inputs and output in every bundle."""


def element_type(session: Session, name: str) -> np.dtype[Any]:
    """The element type of an input or output of a session's graph."""
    values = (*session.graph.inputs, *session.graph.outputs)
    return np.dtype(next(value.dtype for value in values if value.name == name))
