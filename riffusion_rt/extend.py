"""A recording in, the same recording with music after it that goes on from it out: outpainting in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.request import ClipRequest, source_text

if TYPE_CHECKING:
    from riffusion_engine.manifest import SamplingDefaults
    from riffusion_rt.clip import Clip
    from riffusion_rt.open_model import OpenModel
    from riffusion_rt.pipeline import StepProgress

CONTEXT_SHARE = 2
"""Half a window of the recording's end is what the first new window sees of it: a bar before, a bar to come."""

JOINT_S = 0.08
"""Length of the crossfade from recording to continuation, inside the recording's last moments."""

LARGEST_SHIFT_S = 0.01
"""How far the continuation may be shifted so that its waves meet the recording's: a column."""


@dataclass(frozen=True)
class ExtendRequest:
    """Music to follow a recording. ``None`` means the model's own default, as its manifest states it."""

    audio: Path | str
    """The recording; all of it is kept, up to the crossfade at its end."""
    prompt: str = ""
    """What to play on; nothing leaves it to what was heard."""
    duration_s: Annotated[float, Ge(0.1), Le(1200)] = 5.12
    """Seconds to add."""
    negative_prompt: str = ""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no model.

        Raises:
            RequestError: a value is outside its range.
        """
        self._as_clip()

    def resolved(self, defaults: SamplingDefaults) -> ExtendRequest:
        """The same request with the model's ``defaults`` in place of ``None``."""
        clip = self._as_clip().resolved(defaults)
        return dataclasses.replace(self, steps=clip.steps, guidance=clip.guidance, sampler=clip.sampler)

    def settings(self) -> dict[str, Any]:
        """The request as plain JSON values that make the same request."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["audio"] = source_text(self.audio)
        return {"verb": "extend", **{name: value for name, value in values.items() if value is not None}}

    def _as_clip(self) -> ClipRequest:
        return ClipRequest(
            self.prompt,
            self.negative_prompt,
            self.seed,
            self.steps,
            self.guidance,
            self.sampler,
            seed_audio=self.audio,
            duration_s=self.duration_s,
        )


def iterate_extend(model: OpenModel, request: ExtendRequest) -> Iterator[StepProgress | Clip]:
    """Continue a recording: a ``StepProgress`` after every denoising step, then the clip.

    The clip holds the whole recording and the new music, at the recording's rate and channels; its picture shows the
    last moments of the recording and what follows them.

    Raises:
        AudioFileError: the recording cannot be read.
        RequestError: it is shorter than one cell of latents, or a setting is out of range.
        NumericsError: a graph returned NaN.
    """
    from riffusion_rt.canvas import Canvas, unet_for
    from riffusion_rt.canvas_sound import as_recorded, picture_and_sound
    from riffusion_rt.denoise import denoise
    from riffusion_rt.latents import encode_pixels
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.pipeline import StageClock, StepProgress, finished_clip, given
    from riffusion_rt.remix import told_along
    from riffusion_rt.seed_picture import draw_recording, read_recording
    from riffusion_rt.walk_start import start_from_latents

    request = request.resolved(model.manifest.defaults)
    spec, params = model.manifest.latent, model.manifest.spectrogram
    clock = StageClock()
    recording, samples, rate = read_recording(Path(request.audio), params)
    hop, cell = params.hop_length, spec.vae_factor * params.hop_length
    known = min(spec.width // CONTEXT_SHARE, samples.shape[1] // cell)
    if known < 1:
        raise RequestError(
            f"{request.audio} is too short to be continued",
            hint=f"Give a recording of {cell / params.sample_rate:.2f} s or more",
        )
    before = known * spec.vae_factor
    columns = before + round(request.duration_s * params.sample_rate / hop)
    # One column more than is asked for: the joint may take the continuation a little later.
    canvas = Canvas.for_columns(columns + 1, spec)
    noise = TorchNoise(request.seed)
    # Beyond the recording's end its last moments are repeated: through all the noise a trace of them keeps the beat.
    drawing = draw_recording(samples[:, -before * hop :], params, canvas.width * spec.vae_factor)
    original = encode_pixels(model.session("vae_encoder"), drawing.pixels, spec, noise)
    keep = np.zeros((1, 1, 1, canvas.width), np.float32)
    keep[..., :known] = 1
    start = start_from_latents(
        model.schedule,
        given(request.sampler),
        given(request.steps),
        1.0,
        original,
        noise.normal(original.shape),
        keep,
    )
    clock.lap("start")
    guidance = told_along(model, request.negative_prompt, (request.prompt, None), given(request.guidance))
    clock.lap("text")
    unet = unet_for(canvas, model.session("unet"), model.device)
    latents = start.latents
    for done in denoise(unet, start.table, latents, guidance, [noise], start.repaint):
        latents = done.latents
        clock.lap("denoise")
        yield StepProgress(done.step, done.steps, latents, done, model, canvas)
        clock.skip()
    pixels, sound = picture_and_sound(model, latents, canvas, drawing.loudness)
    clock.lap("phase")
    added = round((columns - before) * hop * rate / params.sample_rate)
    shared = round(before * hop * rate / params.sample_rate)
    reach = round(LARGEST_SHIFT_S * rate)
    follows = as_recorded(sound, params.sample_rate, recording[:, -shared:], rate, shared + added + reach)
    whole = continued(recording, follows, shared, added, rate)
    clip = finished_clip(model, request, pixels[:, :columns], whole, clock)
    yield dataclasses.replace(clip, rate=rate)


def continued(
    recording: NDArray[np.float32], follows: NDArray[np.float32], shared: int, added: int, rate: int
) -> NDArray[np.float32]:
    """A recording, then what follows it, at one level and with a joint where their waves agree best.

    Args:
        recording: (channels, n).
        follows: (channels, shared + added + 10 ms): its first ``shared`` samples play what the recording's last ones
            play.
        shared: at most n.
        added: samples of new music.
        rate: samples a second.

    Returns:
        (channels, n + added) in ±1. All but the crossfade's samples before n are the recording's own.
    """
    fade = max(1, min(round(JOINT_S * rate), shared // 2))
    reach = min(round(LARGEST_SHIFT_S * rate), (shared - fade) // 2)
    length, end = recording.shape[1], recording[:, -fade:]
    level = _rms(recording[:, -shared:]) / max(_rms(follows[:, :shared]), 1e-9)
    follows = np.clip(follows * np.float32(level), -1, 1)
    shift = _best_shift(end, follows[:, shared - fade - reach : shared + reach]) - reach
    begin = shared - fade + shift
    rest = follows[:, begin : begin + fade + added]
    fading = rest[:, :fade]
    alike = float(np.sum(end * fading)) / max(float(np.linalg.norm(end) * np.linalg.norm(fading)), 1e-9)
    up = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32)) ** 2
    # Unlike waves add in power, like ones in amplitude: the joint is as loud as its sides either way.
    power = up**2 + (1 - up) ** 2 + 2 * np.clip(alike, 0, 1) * up * (1 - up)
    joint = ((1 - up) * end + up * fading) / np.sqrt(power)
    whole = [recording[:, : length - fade], np.clip(joint, -1, 1), rest[:, fade:]]
    return np.concatenate(whole, axis=1).astype(np.float32)


def _best_shift(end: NDArray[np.float32], around: NDArray[np.float32]) -> int:
    """Where in ``around`` the waves of ``end`` are met best."""
    from scipy.signal import correlate

    likeness = correlate(around.mean(axis=0), end.mean(axis=0), mode="valid", method="fft")
    return int(np.argmax(likeness))


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
