"""Waypoints and weights in, what a batch of clips between them is denoised with out.

Riffusion's rules: text embeddings, guidance and strength are mixed linearly, noise spherically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.noise import TorchNoise
from riffusion_rt.request import ClipRequest

if TYPE_CHECKING:
    from riffusion_engine.manifest import SamplingDefaults
    from riffusion_rt.open_model import OpenModel

Curve = Literal["linear", "power", "smooth"]
CURVES: tuple[str, ...] = get_args(Curve)

NEARLY_PARALLEL = 0.9995
"""Cosine beyond which two noises span no arc worth following, and are mixed linearly (Riffusion's threshold)."""

MAX_WAYPOINTS = 100


@dataclass(frozen=True)
class Waypoint:
    """A place that a walk passes: what is played there. ``None`` means the model's own default."""

    prompt: str
    seed: int = 0
    negative_prompt: str = ""
    guidance: float | None = None
    strength: float | None = None
    """Share of the steps that are redone on a seed image; of no account without one."""
    weight: float = 1.0
    """Length of the leg from here to the next waypoint, relative to the other legs."""

    def __post_init__(self) -> None:
        """Check everything that needs no model.

        Raises:
            RequestError: a value is outside its range.
        """
        seed_image = None if self.strength is None else "a picture, so that a strength may be checked"
        ClipRequest(
            self.prompt,
            self.negative_prompt,
            self.seed,
            guidance=self.guidance,
            strength=self.strength,
            seed_image=seed_image,
        )
        if not (isinstance(self.weight, int | float) and 0 < self.weight < math.inf):
            raise RequestError(
                f"A leg's weight must be a number above 0, not {self.weight!r}", hint="Give 1 for legs alike"
            )


@dataclass(frozen=True, eq=False)
class Conditions:
    """What n clips of one batch are denoised with."""

    prompt: NDArray[np.float32]
    """(n, tokens, width)."""
    negative: NDArray[np.float32]
    """(n, tokens, width)."""
    guidance: NDArray[np.float32]
    """(n,)."""
    strength: NDArray[np.float64]
    """(n,)."""
    noises: tuple[MixedNoise, ...]
    """One stream for each clip; its first draw is what the clip starts from."""


class MixedNoise(TorchNoise):
    """Noise between that of several seeds: every draw is the spherical mixture of what each seed's stream gives."""

    def __init__(self, seeds: Sequence[int], weights: Sequence[float]) -> None:
        present = [(seed, weight) for seed, weight in zip(seeds, weights, strict=True) if weight > 0]
        self._streams = [TorchNoise(seed) for seed, _ in present]
        self._weights = [weight for _, weight in present]

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next draw."""
        first, *others = (stream.normal(shape) for stream in self._streams)
        mixed, behind = first, self._weights[0]
        for draw, weight in zip(others, self._weights[1:], strict=True):
            behind += weight
            mixed = slerp(weight / behind, mixed, draw)
        return mixed


def curve_positions(count: int, curve: str = "linear", power: float = 2.0) -> tuple[float, ...]:
    """``count`` positions from 0 to 1: evenly, to a ``power``, or slow at both ends (3t² − 2t³).

    Raises:
        RequestError: no such curve, no position, or a power that is not above 0.
    """
    if curve not in CURVES:
        raise RequestError(f"There is no curve {curve!r}", hint=f"Choose one of: {', '.join(CURVES)}")
    if count < 1 or not 0 < power < math.inf:
        raise RequestError(
            f"{count} clips along a curve of power {power:g} make no walk",
            hint="Give a count of 1 or more and a power above 0",
        )
    even = [index / (count - 1) for index in range(count)] if count > 1 else [0.0]
    if curve == "power":
        return tuple(place**power for place in even)
    if curve == "smooth":
        return tuple(place**2 * (3 - 2 * place) for place in even)
    return tuple(even)


def path_weights(waypoints: Sequence[Waypoint], alpha: float) -> list[float]:
    """How much of each waypoint there is at ``alpha``, 0 at the first and 1 at the last: at most two are above 0."""
    weights = [0.0] * len(waypoints)
    if len(waypoints) == 1:
        return [1.0]
    lengths = [waypoint.weight for waypoint in waypoints[:-1]]
    left = alpha * sum(lengths)
    for leg, length in enumerate(lengths):
        if left <= length or leg == len(lengths) - 1:
            share = min(left / length, 1.0)
            weights[leg], weights[leg + 1] = 1 - share, share
            break
        left -= length
    return weights


def mixed_conditions(
    model: OpenModel,
    waypoints: Sequence[Waypoint],
    weights: Sequence[Sequence[float]],
    *,
    seeded: bool = False,
) -> Conditions:
    """What to denoise with where waypoints count as much as ``weights`` say.

    Args:
        model: its text encoder embeds the prompts, its manifest fills in what is None.
        waypoints: k of them.
        weights: n rows of k numbers of 0 or more, of which each row is made to sum to 1.
        seeded: whether they are drawn from a picture or a recording.

    Raises:
        RequestError: a row has no weight, a negative one, or another length.
    """
    shares = np.asarray([list(row) for row in weights], np.float64)
    if shares.shape[1:] != (len(waypoints),) or not (shares >= 0).all() or not (shares.sum(axis=1) > 0).all():
        raise RequestError(
            f"{len(waypoints)} waypoints cannot be mixed as {[list(row) for row in weights]}",
            hint="Give each one a weight of 0 or more, not all of them 0",
        )
    shares /= shares.sum(axis=1, keepdims=True)
    filled = [_filled(waypoint, model.manifest.defaults, seeded) for waypoint in waypoints]
    texts = [*(point.negative_prompt for point in waypoints), *(point.prompt for point in waypoints)]
    negatives, prompts = np.split(model.embed(texts), 2)
    seeds = [waypoint.seed for waypoint in waypoints]
    return Conditions(
        prompt=_mixed(shares, prompts),
        negative=_mixed(shares, negatives),
        guidance=(shares @ np.array([guidance for guidance, _ in filled])).astype(np.float32),
        strength=shares @ np.array([strength for _, strength in filled]),
        noises=tuple(MixedNoise(seeds, list(row)) for row in shares),
    )


def slerp(share: float, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """Go the share ``0 … 1`` of the way from one tensor to another along the arc between them, taken as flat vectors.

    Computed in double precision. Tensors that are nearly parallel, and zero ones, are mixed linearly.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(np.sum(a * b)) / norms if norms > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return lerp(share, start, end)
    angle = math.acos(cosine)
    mixed: NDArray[np.float64] = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(
        angle
    )
    return mixed.astype(np.float32)


def lerp(share: float, start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """Go the share ``0 … 1`` of the straight way from one tensor to another."""
    return np.asarray((1 - share) * start.astype(np.float64) + share * end, np.float32)


def _mixed(shares: NDArray[np.float64], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.tensordot(shares, embeddings.astype(np.float64), axes=1), np.float32)


def _filled(waypoint: Waypoint, defaults: SamplingDefaults, seeded: bool) -> tuple[float, float]:
    """(guidance, strength) with the model's defaults in place of None."""
    guidance = defaults.guidance_of(seeded=seeded) if waypoint.guidance is None else waypoint.guidance
    strength = defaults.strength if waypoint.strength is None else waypoint.strength
    return guidance, strength
