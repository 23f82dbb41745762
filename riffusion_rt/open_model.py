"""A bundle's folder in, its graphs open on a device out: what every form of making music works with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError
from riffusion_rt.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from riffusion_engine.session import Session
    from riffusion_rt.noise_schedule import NoiseSchedule
    from riffusion_rt.tokenizer import PromptTokenizer
    from riffusion_rt.vocoder import Vocoder

CACHED_PROMPTS = 64

OPENED_AT_ONCE = ("unet", "text_encoder", "vae_decoder")
"""Graphs that every clip needs; the encoder opens when a seed image asks for it."""


class OpenModel:
    """The graphs of one bundle on one device, and the facts that belong to them.

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
        self._opener = ThreadPoolExecutor(max_workers=len(OPENED_AT_ONCE), thread_name_prefix="open")
        self._opening: dict[str, Future[Session]] = {}
        for name in OPENED_AT_ONCE:
            self._open(name)
        self.load_s = time.perf_counter() - started
        self._embed = lru_cache(maxsize=CACHED_PROMPTS)(self._embed_uncached)

    def session(self, name: str) -> Session:
        """The graph of that name, opened now if it is not yet.

        Raises:
            BundleError: the bundle has none.
        """
        return self._open(name).result()

    def embed(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of prompts that will share a batch, (prompts, tokens, width); remembered, so do not write to it.

        Raises:
            RequestError: a weight in a prompt is out of range, or a prompt too long.
        """
        return self._embed(tuple(prompts))

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule that the checkpoint was trained on."""
        from riffusion_rt.noise_schedule import NoiseSchedule

        path = self.bundle / "scheduler" / "scheduler_config.json"
        return NoiseSchedule.from_config(json.loads(path.read_text()))

    @cached_property
    def vocoder(self) -> Vocoder:
        """From pictures to sound: the bundle's graph where a GPU runs it, else the numpy form."""
        from riffusion_rt.vocoder import choose_vocoder

        return choose_vocoder(self.manifest, self.device, self.session)

    def close(self) -> None:
        """Release the graphs. The object cannot be used afterwards."""
        self._opener.shutdown(wait=True)
        for opening in self._opening.values():
            opening.result().close()
        self._opening.clear()

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

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        from riffusion_rt.tokenizer import PromptTokenizer

        return PromptTokenizer.from_bundle(self.bundle)

    def _embed_uncached(self, prompts: tuple[str, ...]) -> NDArray[np.float32]:
        from riffusion_rt.text_encoding import encode_prompts

        return encode_prompts(self.session("text_encoder"), self._tokenizer, prompts)
