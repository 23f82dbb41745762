"""A recording and a prompt in, the same recording as the prompt would play it out: audio to audio of any length."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.request import ClipRequest, source_text

if TYPE_CHECKING:
    from riffusion_engine.manifest import SamplingDefaults
    from riffusion_rt.canvas import Canvas
    from riffusion_rt.clip import Clip
    from riffusion_rt.denoise import Guidance
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.open_model import OpenModel
    from riffusion_rt.pipeline import StepProgress


STRENGTH = 0.75
"""Where the recording's beats are still kept and the prompt is heard: Riffusion's own."""

Method = Literal["mix", "redraw"]


@dataclass(frozen=True)
class RemixRequest:
    """A recording drawn anew. ``None`` means the model's own default, as its manifest states it."""

    audio: Path | str
    """The recording: any length, rate and number of channels, all of which the result keeps."""
    prompt: str = ""
    """What it becomes."""
    to_prompt: str | None = None
    """What it has become at its end; from the beginning on it changes evenly."""
    with_audio: Path | str | None = None
    """A second recording into which it crosses over from beginning to end, repeated or cut to fit."""
    negative_prompt: str = ""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    """How much the prompt outweighs the empty prompt; the model's own for what has a seed if None."""
    sampler: str | None = None
    strength: float | None = STRENGTH
    """How far to go from the recording, above 0 to 1; None is the model's own for pictures."""
    method: Method = "mix"
    """``mix``: the recording is mixed in while outlines form, so that its beat stays and the prompt plays it (MagicMix,
    arXiv 2210.16056). ``redraw``: Riffusion's image to image, where the strength is the share of the steps
    that are redone."""

    def __post_init__(self) -> None:
        """Check everything that needs no model.

        Raises:
            RequestError: a value is outside its range, or there is nothing to become.
        """
        self._as_clip()
        if self.method not in get_args(Method):
            raise RequestError(
                f"There is no method {self.method!r}", hint=f"Choose one of: {', '.join(get_args(Method))}"
            )
        if not (self.prompt or self.to_prompt or self.with_audio):
            raise RequestError(
                "A remix needs a prompt or a second recording",
                hint='Say what to play: remix FILE "jazz piano"',
            )

    def resolved(self, defaults: SamplingDefaults) -> RemixRequest:
        """The same request with the model's ``defaults`` in place of ``None``."""
        clip = self._as_clip().resolved(defaults)
        return dataclasses.replace(
            self, steps=clip.steps, guidance=clip.guidance, sampler=clip.sampler, strength=clip.strength
        )

    def settings(self) -> dict[str, Any]:
        """The request as plain JSON values that make the same request."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("audio", "with_audio"):
            values[name] = source_text(values[name])
        return {"verb": "remix", **{name: value for name, value in values.items() if value is not None}}

    def _as_clip(self) -> ClipRequest:
        for prompt in (self.prompt, self.to_prompt or ""):
            clip = ClipRequest(
                prompt,
                self.negative_prompt,
                self.seed,
                self.steps,
                self.guidance,
                self.sampler,
                self.strength,
                seed_audio=self.audio,
            )
        return clip


def iterate_remix(model: OpenModel, request: RemixRequest) -> Iterator[StepProgress | Clip]:
    """Remix a recording: a ``StepProgress`` after every denoising step, then the clip.

    The whole recording is one canvas, denoised in windows that overlap, so that there is no seam; memory is that of
    one clip, a few copies of the recording, its picture and its latents. The clip's samples are at the recording's
    rate, in as many channels and exactly as many; its loudness is the recording's, overall and from passage to
    passage, and so is the place of each frequency between the channels, where the model draws in mono.

    Raises:
        AudioFileError: a recording cannot be read.
        RequestError: a setting is out of range.
        NumericsError: a graph returned NaN.
    """
    from riffusion_rt.canvas import Canvas, unet_for
    from riffusion_rt.canvas_sound import as_recorded, at_loudness_of, picture_and_sound
    from riffusion_rt.denoise import denoise
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.pipeline import StageClock, StepProgress, finished_clip, given
    from riffusion_rt.seed_picture import read_recording
    from riffusion_rt.spectrogram import column_count
    from riffusion_rt.walk_start import start_from_latents, start_mixed

    request = request.resolved(model.manifest.defaults)
    spec, params = model.manifest.latent, model.manifest.spectrogram
    clock = StageClock()
    recording, samples, rate = read_recording(Path(request.audio), params)
    canvas = Canvas.for_columns(column_count(samples.shape[1], params), spec)
    noise = TorchNoise(request.seed)
    original, loudness = _recordings(model, request, samples, canvas, noise)
    begin = start_mixed if request.method == "mix" else start_from_latents
    start = begin(
        model.schedule,
        given(request.sampler),
        given(request.steps),
        given(request.strength),
        original,
        noise.normal(original.shape),
    )
    clock.lap("start")
    guidance = told_along(
        model, request.negative_prompt, (request.prompt, request.to_prompt), given(request.guidance)
    )
    clock.lap("text")
    unet = unet_for(canvas, model.session("unet"), model.device)
    latents = start.latents
    for done in denoise(unet, start.table, latents, guidance, [noise], start.repaint):
        latents = done.latents
        clock.lap("denoise")
        yield StepProgress(done.step, done.steps, latents, done, model, canvas)
        clock.skip()
    pixels, sound = picture_and_sound(model, latents, canvas, loudness)
    clock.lap("phase")
    placed = _crossed_over(request, recording, rate)
    exact = as_recorded(sound, params.sample_rate, placed, rate, recording.shape[1])
    clip = finished_clip(model, request, pixels, at_loudness_of(exact, recording), clock)
    del (
        recording,
        samples,
        placed,
        sound,
        exact,
        pixels,
    )  # Long ones are not to be held while the clip is saved.
    yield dataclasses.replace(clip, rate=rate)


def told_along(model: OpenModel, negative: str, prompts: tuple[str, str | None], scale: float) -> Guidance:
    """Guidance for a canvas that plays the first prompt at its start and, if there is one, the second at its end."""
    from riffusion_rt.denoise import Guidance

    texts = [prompt for prompt in prompts if prompt is not None]
    embeddings = model.embed([negative, *texts])
    if len(texts) == 1:
        return Guidance(embeddings[1:], embeddings[:1], scale)
    return Guidance(embeddings[None, 1:], np.repeat(embeddings[None, :1], len(texts), axis=1), scale)


def _crossed_over(request: RemixRequest, recording: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """The recording itself, or one that crosses over into the second: what stands where, all along."""
    from riffusion_rt.audio_file import read_audio
    from riffusion_rt.resampling import resample

    channels, length = recording.shape
    if request.with_audio is None or channels == 1:
        return recording
    others, other_rate = read_audio(Path(request.with_audio))
    if len(others) != channels:
        others = others.mean(axis=0, keepdims=True)
    others = resample(others, other_rate, rate)
    share = np.linspace(0, 1, length, dtype=np.float32)
    crossed = (1 - share) * recording
    crossed += share * np.take(others, np.arange(length) % others.shape[1], axis=1)
    return crossed


def _recordings(
    model: OpenModel,
    request: RemixRequest,
    samples: NDArray[np.float32],
    canvas: Canvas,
    noise: TorchNoise,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents of the recording, crossing over into the second one if there is one, and their columns' loudness."""
    from riffusion_rt.latents import encode_pixels
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.seed_picture import draw_recording, read_recording

    spec, params, session = model.manifest.latent, model.manifest.spectrogram, model.session("vae_encoder")
    columns = canvas.width * spec.vae_factor
    first = draw_recording(samples, params, columns)
    original = encode_pixels(session, first.pixels, spec, noise)
    if request.with_audio is None:
        return original, first.loudness
    _, others, _ = read_recording(Path(request.with_audio), params)
    second = draw_recording(others, params, columns)
    # Drawn aside: the walk's own noise is then what it is without a second recording.
    other = encode_pixels(session, second.pixels, spec, TorchNoise(request.seed))
    heard = np.float32(canvas.columns)
    share = np.minimum((np.arange(columns, dtype=np.float32) + 0.5) / heard, 1).astype(np.float32)
    by_cell = share.reshape(canvas.width, spec.vae_factor).mean(axis=1)
    crossed = (1 - by_cell) * original + by_cell * other
    loudness = first.loudness ** (1 - share) * second.loudness**share
    return np.asarray(crossed, np.float32), np.asarray(loudness, np.float32)
