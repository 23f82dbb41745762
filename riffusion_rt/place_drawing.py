"""Mixtures of waypoints in, the pictures that a model draws there out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.interpolation import Waypoint, mixed_conditions

if TYPE_CHECKING:
    from riffusion_rt.denoise import DenoisedStep
    from riffusion_rt.open_model import OpenModel
    from riffusion_rt.request import ClipRequest

Place = tuple[tuple[Waypoint, float], ...]
"""Where a walk is: waypoints and their shares, which sum to 1."""

FAINTEST_SHARE = 0.02
"""What counts for less is left behind, so that a place that is steered on and on does not grow."""


def mixed_place(start: Place, end: Place, share: float) -> Place:
    """The place a ``share`` of 0 to 1 of the way from one place to another."""
    shares: dict[Waypoint, float] = {}
    for place, weight in ((start, 1 - share), (end, share)):
        for waypoint, part in place:
            shares[waypoint] = shares.get(waypoint, 0.0) + weight * part
    kept = {waypoint: part for waypoint, part in shares.items() if part >= FAINTEST_SHARE}
    total = sum(kept.values())
    return tuple((waypoint, part / total) for waypoint, part in kept.items())


class PlaceDrawer:
    """Draws pictures at places, several in one denoising pass, from noise or from a seed image."""

    def __init__(self, model: OpenModel, settings: ClipRequest) -> None:
        """Nothing is computed yet.

        Args:
            model: the graphs.
            settings: what all pictures share (sampler, seed image, strength); its seed samples the image's latents.
        """
        self._model = model
        self._settings = settings.resolved(model.manifest.defaults)
        self._seed_latents: NDArray[np.float32] | None = None

    @property
    def steps(self) -> int:
        """Denoising steps of a whole walk from noise, where the caller names no other number."""
        from riffusion_rt.pipeline import given

        return given(self._settings.steps)

    def denoised(
        self,
        places: Sequence[Place],
        *,
        steps: int | None = None,
        original: NDArray[np.float32] | None = None,
        strength: float | None = None,
    ) -> Iterator[DenoisedStep]:
        """Denoise a batch, step by step; the last step's latents are the pictures'.

        Args:
            places: n of them.
            steps: of a whole walk from noise.
            original: (1 or n, channels, height, width) latents to start from instead of the seed image's, if any.
            strength: share of the steps that are redone on them.

        Raises:
            RequestError: the steps or the strength are out of range.
            NumericsError: the network returned NaN or infinity.
        """
        from riffusion_rt.denoise import Guidance, denoise
        from riffusion_rt.pipeline import given
        from riffusion_rt.walk_start import start_from_latents, start_from_noise

        model, settings = self._model, self._settings
        waypoints = list(dict.fromkeys(waypoint for place in places for waypoint, _ in place))
        shares = [[dict(place).get(waypoint, 0.0) for waypoint in waypoints] for place in places]
        original = self._seed() if original is None else original
        told = mixed_conditions(model, waypoints, shares, seeded=original is not None)
        spec = model.manifest.latent
        noise = np.concatenate(
            [stream.normal((1, spec.channels, spec.height, spec.width)) for stream in told.noises]
        )
        sampler, wanted = given(settings.sampler), steps or self.steps
        if original is None:
            start = start_from_noise(model.schedule, sampler, wanted, noise)
        else:
            share = given(settings.strength) if strength is None else strength
            # However few the steps and small the share, one step is taken.
            start = start_from_latents(
                model.schedule, sampler, wanted, max(share, 1 / wanted), original, noise
            )
        guidance = Guidance(told.prompt, told.negative, told.guidance)
        yield from denoise(model.session("unet"), start.table, start.latents, guidance, told.noises)

    def pictures(self, latents: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
        """Pixels (rows, columns, 3) of each of the latents (n, channels, height, width).

        Raises:
            NumericsError: the decoder returned NaN or infinity.
        """
        from riffusion_rt.pipeline import decode_pictures

        return list(decode_pictures(self._model, latents))

    def _seed(self) -> NDArray[np.float32] | None:
        from riffusion_rt.canvas import Canvas
        from riffusion_rt.noise import TorchNoise
        from riffusion_rt.pipeline import seed_latents

        settings, manifest = self._settings, self._model.manifest
        if settings.has_seed and self._seed_latents is None:
            canvas = Canvas.for_duration(None, manifest.latent, manifest.spectrogram)
            self._seed_latents = seed_latents(
                self._model, settings.seed_image, settings.seed_audio, canvas, TorchNoise(settings.seed)
            )
        return self._seed_latents
