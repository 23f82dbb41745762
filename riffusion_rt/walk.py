"""A walk between waypoints in, its clips out: several alphas share one denoising pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.interpolation import MAX_WAYPOINTS, Conditions, Waypoint, mixed_conditions, path_weights
from riffusion_rt.request import ClipRequest, Picture, source_text

if TYPE_CHECKING:
    from riffusion_engine.manifest import SamplingDefaults
    from riffusion_rt.clip import Clip
    from riffusion_rt.open_model import OpenModel
    from riffusion_rt.pipeline import StepProgress
    from riffusion_rt.walk_start import WalkStart

BATCH = 4
"""Clips denoised together: from here on a CPU gains nothing more, and memory grows."""

MAX_CLIPS = 1000


@dataclass(frozen=True)
class WalkRequest:
    """Clips along a path through ``waypoints``, one for each of ``alphas``: 0 is the first waypoint, 1 the last."""

    waypoints: tuple[Waypoint, ...]
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    steps: int | None = None
    sampler: str | None = None
    seed_image: Picture | None = None
    mask: Picture | None = None
    seed_audio: Path | str | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no model; waypoints may be given as dictionaries.

        Raises:
            RequestError: a value is of the wrong type, outside its range, or contradicts another one.
        """
        points = tuple(Waypoint(**point) if isinstance(point, dict) else point for point in self.waypoints)
        object.__setattr__(self, "waypoints", points)
        object.__setattr__(self, "alphas", tuple(self.alphas))
        if not 1 <= len(points) <= MAX_WAYPOINTS:
            raise RequestError(
                f"A walk has 1 to {MAX_WAYPOINTS} waypoints, not {len(points)}", hint="Give two prompts"
            )
        if not 1 <= len(self.alphas) <= MAX_CLIPS or not all(
            isinstance(alpha, int | float) and 0 <= alpha <= 1 for alpha in self.alphas
        ):
            raise RequestError(
                f"A walk has 1 to {MAX_CLIPS} alphas from 0 to 1", hint="Leave --alpha out for an even walk"
            )
        self._as_clip()

    @property
    def prompt(self) -> str:
        """What a player shows as the title."""
        return " → ".join(dict.fromkeys(point.prompt for point in self.waypoints))

    @property
    def seed(self) -> int:
        """The first waypoint's seed, from which a seed image's latents are sampled too."""
        return self.waypoints[0].seed

    @property
    def has_seed(self) -> bool:
        """Whether the clips are drawn from a picture or a recording."""
        return self.seed_image is not None or self.seed_audio is not None

    def resolved(self, defaults: SamplingDefaults) -> WalkRequest:
        """The same request with the model's ``defaults`` in place of ``None``."""
        clip = self._as_clip().resolved(defaults)
        seeded = clip.has_seed
        points = tuple(
            dataclasses.replace(
                point,
                guidance=defaults.guidance_of(seeded=seeded) if point.guidance is None else point.guidance,
                strength=(defaults.strength if point.strength is None else point.strength)
                if seeded
                else None,
            )
            for point in self.waypoints
        )
        return dataclasses.replace(self, waypoints=points, steps=clip.steps, sampler=clip.sampler)

    def settings(self) -> dict[str, Any]:
        """The request as plain JSON values that make the same request."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("seed_image", "mask", "seed_audio"):
            values[name] = source_text(values[name])
        values["waypoints"] = [
            {name: value for name, value in dataclasses.asdict(point).items() if value not in (None, "")}
            for point in self.waypoints
        ]
        values["alphas"] = list(self.alphas)
        return {"verb": "interpolate", **{name: value for name, value in values.items() if value is not None}}

    def _as_clip(self) -> ClipRequest:
        """What all clips of the walk share, as a clip's request."""
        return ClipRequest(
            self.waypoints[0].prompt,
            seed=self.seed,
            steps=self.steps,
            sampler=self.sampler,
            seed_image=self.seed_image,
            mask=self.mask,
            seed_audio=self.seed_audio,
        )


@dataclass(frozen=True, eq=False)
class _Pass:
    """Clips that are denoised together: they have as many steps to go."""

    alphas: tuple[float, ...]
    conditions: Conditions
    start: WalkStart


def iterate_walk(
    model: OpenModel, request: WalkRequest, *, batch: int = BATCH
) -> Iterator[StepProgress | Clip]:
    """The clips of a walk in the order of its alphas, each with a request that makes it alone again.

    A ``StepProgress`` comes after every step of every pass, counted over all passes. A clip that is made again alone
    is the same but for the last bits of its arithmetic, which a batch rounds in another order.

    Raises:
        RequestError, ImageFileError, AudioFileError, NumericsError: as ``Riffusion.generate``.
    """
    from riffusion_rt.denoise import Guidance, denoise
    from riffusion_rt.loudness import finish_clip
    from riffusion_rt.pipeline import StageClock, StepProgress, decode_pictures, finished_clip

    request = request.resolved(model.manifest.defaults)
    clock = StageClock()
    passes = list(_passes(model, request, batch))
    steps, behind = sum(len(each.start.table) for each in passes), 0
    clock.lap("start")
    for each in passes:
        told, latents = each.conditions, each.start.latents
        guidance = Guidance(told.prompt, told.negative, told.guidance)
        unet = model.session("unet")
        for done in denoise(unet, each.start.table, latents, guidance, told.noises, each.start.repaint):
            latents, behind = done.latents, behind + 1
            clock.lap("denoise")
            yield StepProgress(behind, steps, latents, done, model)
            clock.skip()
        pictures = decode_pictures(model, latents)
        clock.lap("decode")
        sounds = [finish_clip(sound) for sound in model.vocoder.waveforms(pictures, loop=True)]
        clock.lap("phase")
        for alpha, pixels, samples in zip(each.alphas, pictures, sounds, strict=True):
            alone = dataclasses.replace(request, alphas=(alpha,))
            yield finished_clip(model, alone, pixels, samples, clock)
            clock.skip()
        clock = StageClock()


def joined_walk(clips: Sequence[Clip], request: WalkRequest) -> Clip:
    """The clips of a walk as one: one picture, and one reconstruction of its sound, so that no joint is heard."""
    from PIL import Image

    from riffusion_rt.clip import Clip
    from riffusion_rt.picture_sound import sound_of_picture

    pixels = np.concatenate([np.asarray(clip.image) for clip in clips], axis=1)
    first = clips[0]
    samples = sound_of_picture(pixels, first.params, loop=False)
    timings: dict[str, float] = {}
    for clip in clips:
        for stage, seconds in clip.timings.items():
            timings[stage] = max(timings.get(stage, 0.0), seconds)
    return Clip(
        samples, Image.fromarray(pixels), first.params, request, first.model, first.max_value, timings
    )


def _passes(model: OpenModel, request: WalkRequest, batch: int) -> Iterator[_Pass]:
    from riffusion_rt.samplers import image_start

    shared = request._as_clip().resolved(model.manifest.defaults)
    weights = [path_weights(request.waypoints, alpha) for alpha in request.alphas]
    told = mixed_conditions(model, request.waypoints, weights, seeded=request.has_seed)
    original, keep = _seed(model, shared)
    steps = shared.steps or 1
    begins = [image_start(steps, strength) if original is not None else 0 for strength in told.strength]
    first = 0
    while first < len(begins):
        last = first + 1
        while last < len(begins) and last - first < max(1, batch) and begins[last] == begins[first]:
            last += 1
        part = Conditions(
            told.prompt[first:last],
            told.negative[first:last],
            told.guidance[first:last],
            told.strength[first:last],
            told.noises[first:last],
        )
        yield _Pass(request.alphas[first:last], part, _start(model, shared, part, original, keep))
        first = last


def _seed(
    model: OpenModel, shared: ClipRequest
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """The seed image's latents, sampled with the first waypoint's seed as Riffusion does, and what its mask keeps."""
    from riffusion_rt.canvas import Canvas
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.pipeline import kept_cells, seed_latents

    if not shared.has_seed:
        return None, None
    canvas = Canvas.for_duration(None, model.manifest.latent, model.manifest.spectrogram)
    keep = kept_cells(model, shared, canvas)
    noise = TorchNoise(shared.seed)
    return seed_latents(model, shared.seed_image, shared.seed_audio, canvas, noise), keep


def _start(
    model: OpenModel,
    shared: ClipRequest,
    told: Conditions,
    original: NDArray[np.float32] | None,
    keep: NDArray[np.float32] | None,
) -> WalkStart:
    from riffusion_rt.pipeline import given
    from riffusion_rt.walk_start import start_from_latents, start_from_noise

    spec = model.manifest.latent
    noise = np.concatenate(
        [stream.normal((1, spec.channels, spec.height, spec.width)) for stream in told.noises]
    )
    sampler, steps = given(shared.sampler), given(shared.steps)
    if original is None:
        return start_from_noise(model.schedule, sampler, steps, noise)
    strength = float(told.strength[0])
    return start_from_latents(model.schedule, sampler, steps, strength, original, noise, keep)
