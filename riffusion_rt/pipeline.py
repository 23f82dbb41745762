"""Prompt in, clip out: text encoder, denoising loop, VAE decoder and phase, one stage after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.canvas import Canvas, unet_for
from riffusion_rt.clip import Clip
from riffusion_rt.models import DEFAULT_MODEL
from riffusion_rt.open_model import OpenModel
from riffusion_rt.request import ClipRequest, Picture, SoundRequest

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.manifest import Manifest
    from riffusion_rt.denoise import DenoisedStep
    from riffusion_rt.extend import ExtendRequest
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.remix import RemixRequest
    from riffusion_rt.song import SongBlock, SongProgress
    from riffusion_rt.song_plan import SongPlan
    from riffusion_rt.stream import Stream
    from riffusion_rt.stream_request import StreamRequest
    from riffusion_rt.walk import WalkRequest
    from riffusion_rt.walk_start import WalkStart

T = TypeVar("T")

COLUMNS_AT_ONCE = 512
"""Columns copied into a picture at a time."""


@dataclass(frozen=True, eq=False)
class StepProgress:
    """One denoising step of a running request is done."""

    step: int
    steps: int
    latents: NDArray[np.float32]
    """(n, channels, height, width) after the step."""
    _done: DenoisedStep | None = field(default=None, repr=False)
    _model: OpenModel | None = field(default=None, repr=False)
    _canvas: Canvas | None = field(default=None, repr=False)

    def preview(self, sample: int = 0) -> Image.Image:
        """The picture that the model expects at this step: one more run of the VAE decoder, so only on request."""
        from PIL import Image

        assert self._done is not None and self._model is not None
        latents = self._done.preview()[sample : sample + 1]
        return Image.fromarray(decode_picture(self._model, latents, self._canvas))


class Riffusion:
    """A model that is ready to play.

    Args:
        model: a short name (``riffusion-mini`` is inside the package), the folder of a bundle, or a hub id.
        device: ``auto``, ``cpu``, ``openvino``, ``cuda``, … A named device is used or refused, never replaced.
        threads: CPU threads; None leaves the choice to the backend.
        fused: rewrite graphs to quicker operators as they open, for more memory.
        reuse: the UNet's deep features are computed at every ``reuse``-th step, which is quicker and less exact.
        low_memory: graphs are open one at a time, and on a CPU their weights stay in their files.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: at construction, each with the next command.
        RequestError: ``reuse`` is out of range, or ``low_memory`` is to go with what needs more memory.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str = "auto",
        threads: int | None = None,
        fused: bool = False,
        reuse: int = 1,
        low_memory: bool = False,
    ) -> None:
        self.model = OpenModel(
            model, device=device, threads=threads, fused=fused, reuse=reuse, low_memory=low_memory
        )

    @property
    def device(self) -> str:
        """The device in use."""
        return self.model.device

    @property
    def bundle(self) -> Path:
        """The folder of the bundle."""
        return self.model.bundle

    @property
    def manifest(self) -> Manifest:
        """The bundle's facts."""
        return self.model.manifest

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        seed_image: Picture | None = None,
        strength: float | None = None,
        mask: Picture | None = None,
        seed_audio: Path | str | None = None,
        duration_s: float | None = None,
        loop: bool = False,
    ) -> Clip:
        """Make one clip. The arguments are ``ClipRequest``'s fields; see there for ranges and meanings.

        Raises:
            RequestError: a setting is out of range or does not fit the others.
            ImageFileError, AudioFileError: a picture or recording cannot be read.
            NumericsError: a graph returned NaN.
        """
        request = ClipRequest(
            prompt,
            negative_prompt,
            seed,
            steps,
            guidance,
            sampler,
            strength,
            seed_image,
            mask,
            seed_audio,
            duration_s,
            loop,
        )
        *_, clip = self.iterate(request)
        assert isinstance(clip, Clip)
        return clip

    def iterate(self, request: ClipRequest) -> Iterator[StepProgress | Clip]:
        """Make one clip step by step: a ``StepProgress`` after every denoising step, then the ``Clip``."""
        return iterate_clip(self.model, request)

    def interpolate(self, request: WalkRequest, *, batch: int | None = None) -> Iterator[StepProgress | Clip]:
        """Make the clips of a walk between waypoints, several in one denoising pass; see ``iterate_walk``."""
        from riffusion_rt.walk import BATCH, iterate_walk

        return iterate_walk(self.model, request, batch=batch or BATCH)

    def remix(self, request: RemixRequest) -> Iterator[StepProgress | Clip]:
        """Draw a recording anew; see ``iterate_remix``."""
        from riffusion_rt.remix import iterate_remix

        return iterate_remix(self.model, request)

    def extend(self, request: ExtendRequest) -> Iterator[StepProgress | Clip]:
        """Let music follow a recording; see ``iterate_extend``."""
        from riffusion_rt.extend import iterate_extend

        return iterate_extend(self.model, request)

    def stream(self, request: StreamRequest, *, live: bool = True) -> Stream:
        """Play on and on, bar by bar, steered at any time; see ``Stream``."""
        from riffusion_rt.stream import Stream

        return Stream(self.model, request, live=live)

    def song(self, plan: SongPlan) -> Iterator[SongProgress | SongBlock]:
        """Play a plan that ``song_plan.read_plan`` has completed; see ``iterate_song``."""
        from riffusion_rt.song import iterate_song

        return iterate_song(self.model, plan)

    def close(self) -> None:
        """Release the graphs. The object cannot be used afterwards."""
        self.model.close()

    def __enter__(self) -> Riffusion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Riffusion({self.manifest.name!r}, device={self.device!r})"


def iterate_clip(model: OpenModel, request: ClipRequest) -> Iterator[StepProgress | Clip]:
    """See ``Riffusion.iterate``."""
    from riffusion_rt.denoise import Guidance, denoise
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.picture_sound import sound_of_picture

    manifest = model.manifest
    request = request.resolved(manifest.defaults)
    clock = StageClock()
    canvas = Canvas.for_duration(
        request.duration_s, manifest.latent, manifest.spectrogram, circular=request.loop
    )
    embeddings = model.embed([request.negative_prompt, request.prompt])
    guidance = Guidance(embeddings[1:], embeddings[:1], given(request.guidance))
    clock.lap("text")
    noise = TorchNoise(request.seed)
    start = start_of(model, request, canvas, noise)
    clock.lap("start")
    unet = unet_for(canvas, model.session("unet"), model.device)
    latents = start.latents
    for done in denoise(unet, start.table, latents, guidance, [noise], start.repaint):
        latents = done.latents
        clock.lap("denoise")
        yield StepProgress(done.step, done.steps, latents, done, model, canvas)
        clock.skip()
    pixels = decode_picture(model, latents, canvas)
    clock.lap("decode")
    # A clip of the model's own width has always been played as a circle, whether it was drawn as one or not.
    loops = request.loop or request.duration_s is None
    samples = sound_of_picture(pixels, manifest.spectrogram, loop=loops, vocoder=model.vocoder)
    clock.lap("phase")
    yield finished_clip(model, request, pixels, samples, clock)


def start_of(model: OpenModel, request: ClipRequest, canvas: Canvas, noise: TorchNoise) -> WalkStart:
    """Where the walk of a resolved request starts: in noise, or in its seed image's latents."""
    from riffusion_rt.walk_start import start_from_latents, start_from_noise

    spec, sampler, steps = model.manifest.latent, given(request.sampler), given(request.steps)
    if not request.has_seed:
        drawn = noise.normal((1, spec.channels, spec.height, canvas.width))
        return start_from_noise(model.schedule, sampler, steps, drawn)
    # The mask is read first: what cannot be read is refused before anything runs.
    keep = kept_cells(model, request, canvas)
    original = seed_latents(model, request.seed_image, request.seed_audio, canvas, noise)
    return start_from_latents(
        model.schedule,
        sampler,
        steps,
        given(request.strength),
        original,
        noise.normal(original.shape),
        keep,
    )


def seed_latents(
    model: OpenModel,
    picture: Picture | None,
    audio: Path | str | None,
    canvas: Canvas,
    noise: TorchNoise,
) -> NDArray[np.float32]:
    """Latents (1, channels, height, canvas width) of a seed picture, or else of a recording.

    Raises:
        ImageFileError, AudioFileError: it cannot be read.
    """
    from riffusion_rt.latents import encode_pixels
    from riffusion_rt.seed_picture import draw_recording, open_picture, pixels_of_picture, read_recording

    spec, params = model.manifest.latent, model.manifest.spectrogram
    if picture is not None:
        pixels = pixels_of_picture(open_picture(picture), spec, canvas.width)
    else:
        assert audio is not None
        _, samples, _ = read_recording(Path(audio), params)
        pixels = draw_recording(samples, params, canvas.width * spec.vae_factor).pixels
    return encode_pixels(model.session("vae_encoder"), pixels, spec, noise, circular=canvas.circular)


def kept_cells(model: OpenModel, request: ClipRequest, canvas: Canvas) -> NDArray[np.float32] | None:
    """(1, 1, height, canvas width): 1 where a mask or ranges keep the seed, 0 where it changes; None without either."""
    from riffusion_rt.latents import keep_mask
    from riffusion_rt.masks_by_range import mask_of_ranges
    from riffusion_rt.seed_picture import open_picture

    spec, params = model.manifest.latent, model.manifest.spectrogram
    if request.repaint_s or request.repaint_hz:
        columns = canvas.width * spec.vae_factor
        return keep_mask(
            mask_of_ranges(request.repaint_s, request.repaint_hz, columns, params), spec, canvas.width
        )
    return None if request.mask is None else keep_mask(open_picture(request.mask), spec, canvas.width)


def decode_picture(
    model: OpenModel, latents: NDArray[np.float32], canvas: Canvas | None = None
) -> NDArray[np.uint8]:
    """Latents (1, channels, height, width) to one picture (rows, columns, 3), cut to the canvas's columns.

    Raises:
        NumericsError: the decoder returned NaN or infinity.
    """
    spec = model.manifest.latent
    columns = canvas.columns if canvas is not None else latents.shape[-1] * spec.vae_factor
    pixels = np.empty((spec.height * spec.vae_factor, columns, 3), np.uint8)
    behind = 0
    for piece in picture_pieces(model, latents, canvas):
        pixels[:, behind : behind + piece.shape[1]] = piece
        behind += piece.shape[1]
    return pixels


def decode_pictures(model: OpenModel, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Latents (n, channels, height, width) of the model's own width to n pictures (n, rows, columns, 3).

    One after another, but for as many at a time as the decoder has lanes: memory is what these take.

    Raises:
        NumericsError: the decoder returned NaN or infinity.
    """
    from riffusion_engine.laned_session import LanedSession
    from riffusion_rt.latents import decode_latents

    session, spec = model.session("vae_decoder"), model.manifest.latent
    at_once = session.at_once if isinstance(session, LanedSession) else 1
    dealt = len(latents) - len(latents) % at_once
    starts = [*range(0, dealt, at_once), *range(dealt, len(latents))]
    ends = [*starts[1:], len(latents)]
    return np.concatenate(
        [decode_latents(session, latents[a:b], spec) for a, b in zip(starts, ends, strict=True)]
    )


def picture_pieces(
    model: OpenModel, latents: NDArray[np.float32], canvas: Canvas | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The picture of ``decode_picture`` piece by piece from the left, for pictures that are not to be held whole."""
    from riffusion_rt.latents import decode_wide

    spec = model.manifest.latent
    left = canvas.columns if canvas is not None else latents.shape[-1] * spec.vae_factor
    cells = max(-(-left // spec.vae_factor), spec.width if canvas is None or not canvas.circular else 0)
    circular = canvas is not None and canvas.circular
    for piece in decode_wide(model.session("vae_decoder"), latents[..., :cells], spec, circular=circular):
        yield piece[:, :left]
        left -= piece.shape[1]
        if left <= 0:
            return


def finished_clip(
    model: OpenModel,
    request: SoundRequest,
    pixels: NDArray[np.uint8],
    samples: NDArray[np.float32],
    clock: StageClock,
) -> Clip:
    """Picture (rows, columns, 3) and sound (channels, n) as a clip that knows what it was made from."""
    from riffusion_rt.spectrogram_image import DECODED_MAX

    return Clip(
        samples,
        _as_picture(pixels),
        model.manifest.spectrogram,
        request,
        model.manifest.name,
        DECODED_MAX,
        dict(clock.laps),
    )


def _as_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """The pixels as a picture, piece by piece: at once, a wide one would be held three times."""
    from PIL import Image

    rows, columns, _ = pixels.shape
    picture = Image.new("RGB", (columns, rows))
    for start in range(0, columns, COLUMNS_AT_ONCE):
        piece = np.ascontiguousarray(pixels[:, start : start + COLUMNS_AT_ONCE])
        picture.paste(Image.fromarray(piece), (start, 0))
    return picture


class StageClock:
    """Seconds between laps, by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.skip()

    def skip(self) -> None:
        """Leave the time since the last lap out: it was the caller's."""
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on ``stage``."""
        now = time.perf_counter()
        self.laps[stage] = self.laps.get(stage, 0.0) + now - self._since
        self._since = now


def given(value: T | None) -> T:
    """A setting of a resolved request, which has no None left."""
    assert value is not None
    return value
