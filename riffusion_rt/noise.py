"""A seed and a shape go in; out comes the Gaussian noise of torch's CPU generator, without torch."""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError

LOWEST_SEED = -(2**63)
"""Lowest seed that ``torch.Generator.manual_seed`` takes."""
HIGHEST_SEED = 2**64 - 1
"""Highest seed that ``torch.Generator.manual_seed`` takes."""

_BLOCK = 16
"""Values that torch's vectorized Box-Muller transform makes at a time; shorter draws go one by one."""
_HALF = _BLOCK // 2
_UNIFORM_BITS_SINGLE = 24
"""Random bits in a single-precision uniform: the width of its significand."""
_UNIFORM_BITS_DOUBLE = 53
"""Random bits in a double-precision uniform: the width of its significand."""
_TWO_PI = np.float32(2 * math.pi)


class TorchNoise:
    """The stream of ``torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))``, for float32.

    So a clip made from a seed here is made from the same seed by torch pipelines, and the other way round.
    Values agree to 5e-7, but for about one in five million that is a last place or two further off: torch's
    own logarithm and cosine are quick approximations, and not the same ones on every CPU.
    Successive calls continue the stream as they do in torch.

    The generator is the Mersenne Twister (Matsumoto and Nishimura 1998), seeded with the low 32 bits of the
    seed; uniforms become normals by the transform of Box and Muller (1958).

    Raises:
        RequestError: the seed is no whole number, or outside ``LOWEST_SEED`` to ``HIGHEST_SEED``.
    """

    def __init__(self, seed: int) -> None:
        # Deliberately the legacy class: its stream for a seed is frozen for good, and it is torch's.
        self._twister = np.random.RandomState(_checked_seed(seed) & 0xFFFF_FFFF)
        self._spare: float | None = None

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw standard normal noise of the given shape, filled in C order.

        Raises:
            RequestError: a dimension is negative.
        """
        if any(length < 0 for length in shape):
            raise RequestError(f"Noise cannot have the shape {shape}", hint="Give lengths of zero or more")
        size = math.prod(shape)
        values = self._one_by_one(size) if size < _BLOCK else self._in_blocks(size)
        return values.reshape(shape)

    def _in_blocks(self, size: int) -> NDArray[np.float32]:
        whole = size - size % _BLOCK
        uniforms = self._uniforms(size)
        values = np.empty(size, np.float32)
        values[:whole] = _box_muller(uniforms[:whole])
        if whole < size:
            # torch redraws the last sixteen values, over the end of the last whole block.
            values[-_BLOCK:] = _box_muller(self._uniforms(_BLOCK))
        return values

    def _one_by_one(self, size: int) -> NDArray[np.float32]:
        values = np.empty(size, np.float32)
        for position in range(size):
            values[position] = self._next_normal()
        return values

    def _next_normal(self) -> float:
        """One normal by the double-precision transform; its twin waits in the generator for the next call."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        angle, depth = self._uniform_double(), self._uniform_double()
        radius = math.sqrt(-2.0 * math.log1p(-depth))
        theta = 2.0 * math.pi * angle
        self._spare = radius * math.sin(theta)
        return radius * math.cos(theta)

    def _words(self, count: int) -> NDArray[np.uint32]:
        return self._twister.randint(0, 2**32, size=count, dtype=np.uint32)

    def _uniforms(self, count: int) -> NDArray[np.float32]:
        bits = self._words(count) & np.uint32(2**_UNIFORM_BITS_SINGLE - 1)
        return bits.astype(np.float32) * np.float32(2.0**-_UNIFORM_BITS_SINGLE)

    def _uniform_double(self) -> float:
        high, low = (int(word) for word in self._words(2))
        bits = (high << 32 | low) & (2**_UNIFORM_BITS_DOUBLE - 1)
        return float(bits * 2.0**-_UNIFORM_BITS_DOUBLE)


def _box_muller(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normals from uniforms, block by block: the first half gives radii, the second angles.

    Rounded to single precision where torch rounds; the functions between are evaluated in double precision,
    which keeps the result within half a unit of the last place of any good single-precision library.
    """
    blocks = uniforms.reshape(-1, 2, _HALF)
    logarithm = np.log1p(-blocks[:, 0].astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2) * logarithm)
    theta = (_TWO_PI * blocks[:, 1]).astype(np.float64)
    normals = np.empty_like(blocks)
    normals[:, 0] = radius * np.cos(theta).astype(np.float32)
    normals[:, 1] = radius * np.sin(theta).astype(np.float32)
    return normals.reshape(-1)


def _checked_seed(seed: int) -> int:
    try:
        whole = operator.index(seed)
    except TypeError as error:
        raise RequestError(f"A seed is a whole number, not {seed!r}", hint="Try --seed 1") from error
    if not LOWEST_SEED <= whole <= HIGHEST_SEED:
        raise RequestError(
            f"Seed {whole} is out of range", hint=f"Choose one from {LOWEST_SEED} to {HIGHEST_SEED}"
        )
    return whole
