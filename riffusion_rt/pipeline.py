"""Prompt in, clip out: text encoder, denoising loop, VAE decoder and phase, one stage after another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError
from riffusion_rt.clip import Clip
from riffusion_rt.models import DEFAULT_MODEL
from riffusion_rt.request import ClipRequest, Picture

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.session import Session
    from riffusion_rt.denoise import Repaint
    from riffusion_rt.noise import TorchNoise
    from riffusion_rt.noise_schedule import NoiseSchedule
    from riffusion_rt.sampler_table import SamplerTable
    from riffusion_rt.tokenizer import PromptTokenizer

T = TypeVar("T")

CACHED_PROMPTS = 64


@dataclass(frozen=True, eq=False)
class StepProgress:
    """One denoising step of a running request is done."""

    step: int
    steps: int
    latents: NDArray[np.float32]


class Riffusion:
    """A model that is ready to play.

    Args:
        model: a short name (``riffusion-mini`` is inside the package), the folder of a bundle, or a hub id.
        device: ``auto``, ``cpu`` or ``cuda``. A named device is used or refused, never replaced.
        threads: CPU threads; None leaves the choice to the backend.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: at construction, each with the next command.
    """

    def __init__(
        self, model: str | Path = DEFAULT_MODEL, *, device: str = "auto", threads: int | None = None
    ) -> None:
        from riffusion_engine.devices import choose_device
        from riffusion_engine.manifest import Manifest
        from riffusion_rt.models import locate_model

        started = time.perf_counter()
        self.device = choose_device(device).name
        self.bundle = locate_model(model)
        self.manifest = Manifest.read(self.bundle)
        self.manifest.verify(self.bundle)
        self._threads = threads
        # Graphs open side by side; the one needed last has the whole denoising loop to do it.
        self._opener = ThreadPoolExecutor(max_workers=3, thread_name_prefix="open")
        self._opening: dict[str, Future[Session]] = {}
        for name in ("unet", "text_encoder", "vae_decoder"):
            self._open(name)
        self.load_s = time.perf_counter() - started
        self._embed = lru_cache(maxsize=CACHED_PROMPTS)(self._embed_uncached)

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
    ) -> Clip:
        """Make one clip. The arguments are ``ClipRequest``'s fields; see there for ranges and meanings.

        Raises:
            RequestError: a setting is out of range or does not fit the others.
            ImageFileError: a picture cannot be read.
            NumericsError: a graph returned NaN.
        """
        request = ClipRequest(
            prompt, negative_prompt, seed, steps, guidance, sampler, strength, seed_image, mask
        )
        *_, clip = self.iterate(request)
        assert isinstance(clip, Clip)
        return clip

    def iterate(self, request: ClipRequest) -> Iterator[StepProgress | Clip]:
        """Make one clip step by step: a ``StepProgress`` after every denoising step, then the ``Clip``."""
        from riffusion_rt.denoise import Guidance, denoise
        from riffusion_rt.latents import decode_latents
        from riffusion_rt.noise import TorchNoise

        request = request.resolved(self.manifest.defaults)
        clock = _StageClock()
        embeddings = self._embed(request.negative_prompt, request.prompt)
        guidance = Guidance(embeddings[1:], embeddings[:1], _given(request.guidance))
        clock.lap("text")
        noise = TorchNoise(request.seed)
        table, latents, repaint = self._start(request, noise)
        clock.lap("start")
        for done in denoise(self._session("unet"), table, latents, guidance, [noise], repaint):
            latents = done.latents
            clock.lap("denoise")
            yield StepProgress(done.step, done.steps, latents)
            clock.skip()
        pixels = decode_latents(self._session("vae_decoder"), latents, self.manifest.latent)[0]
        clock.lap("decode")
        yield self._sound(request, pixels, clock)

    def close(self) -> None:
        """Release the graphs. The object cannot be used afterwards."""
        self._opener.shutdown(wait=True)
        for opening in self._opening.values():
            opening.result().close()
        self._opening.clear()

    def __enter__(self) -> Riffusion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Riffusion({self.manifest.name!r}, device={self.device!r})"

    def _open(self, name: str) -> Future[Session]:
        from riffusion_engine.session import open_session

        graph = self.manifest.graphs.get(name)
        if graph is None:
            raise BundleError(
                f"{self.bundle} has no {name} graph",
                hint="Export the checkpoint again with riffusion-rt export",
            )
        if name not in self._opening:
            self._opening[name] = self._opener.submit(
                open_session, self.bundle, graph, device=self.device, threads=self._threads
            )
        return self._opening[name]

    def _session(self, name: str) -> Session:
        return self._open(name).result()

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        from riffusion_rt.tokenizer import PromptTokenizer

        return PromptTokenizer.from_bundle(self.bundle)

    @cached_property
    def _schedule(self) -> NoiseSchedule:
        from riffusion_rt.noise_schedule import NoiseSchedule

        path = self.bundle / "scheduler" / "scheduler_config.json"
        return NoiseSchedule.from_config(json.loads(path.read_text()))

    def _embed_uncached(self, negative: str, prompt: str) -> NDArray[np.float32]:
        """Embeddings (2, tokens, width): the negative prompt's, then the prompt's."""
        from riffusion_rt.text_encoding import encode_prompts

        return encode_prompts(self._session("text_encoder"), self._tokenizer, [negative, prompt])

    def _start(
        self, request: ClipRequest, noise: TorchNoise
    ) -> tuple[SamplerTable, NDArray[np.float32], Repaint | None]:
        """The table to walk, the latents to start from, and what a mask keeps."""
        from riffusion_rt.denoise import Repaint
        from riffusion_rt.latents import encode_image, keep_mask
        from riffusion_rt.samplers import image_start, sampler_table

        spec, steps = self.manifest.latent, _given(request.steps)
        sampler = _given(request.sampler)
        if request.seed_image is None:
            table = sampler_table(sampler, self._schedule, steps)
            drawn = noise.normal((1, spec.channels, spec.height, spec.width))
            return table, drawn * np.float32(table.init_noise_sigma), None
        table = sampler_table(
            sampler, self._schedule, steps, start=image_start(steps, _given(request.strength))
        )
        mask = None if request.mask is None else _open_picture(request.mask)
        original = encode_image(self._session("vae_encoder"), _open_picture(request.seed_image), spec, noise)
        drawn = noise.normal(original.shape)
        repaint = None if mask is None else Repaint(original, drawn, keep_mask(mask, spec))
        return table, table.noised(original, drawn), repaint

    def _sound(self, request: ClipRequest, pixels: NDArray[np.uint8], clock: _StageClock) -> Clip:
        from PIL import Image

        from riffusion_rt.loudness import finish_clip
        from riffusion_rt.phase import waveform_from_mel
        from riffusion_rt.spectrogram_image import DECODED_MAX, mel_from_image

        params = self.manifest.spectrogram
        image = Image.fromarray(pixels)
        samples = finish_clip(waveform_from_mel(mel_from_image(image, params), params, loop=True))
        clock.lap("phase")
        return Clip(samples, image, params, request, self.manifest.name, DECODED_MAX, clock.laps)


class _StageClock:
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


def _given(value: T | None) -> T:
    """A setting of a resolved request, which has no None left."""
    assert value is not None
    return value


def _open_picture(picture: Picture) -> Image.Image:
    from riffusion_rt.spectrogram_image import load_image

    return load_image(Path(picture)) if isinstance(picture, str | Path) else picture
