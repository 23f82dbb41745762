"""A bundle's folder in, its graphs open on a device out: what every form of making music works with."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError, RequestError
from riffusion_rt.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from riffusion_engine.manifest import GraphSpec
    from riffusion_engine.session import Session
    from riffusion_rt.noise_schedule import NoiseSchedule
    from riffusion_rt.tokenizer import PromptTokenizer
    from riffusion_rt.vocoder import Vocoder

CACHED_PROMPTS = 64

OPENED_AT_ONCE = ("unet", "text_encoder", "vae_decoder")
"""Graphs that every clip needs; the encoder opens when a seed image asks for it."""


CLIP_PRESET = "fast"
"""Of phases that the CPU reconstructs: a third quicker than "balanced" for 0.05 dB of log-spectral distance."""


class OpenModel:
    """The graphs of one bundle on one device, and the facts that belong to them.

    Args:
        model: a short name (``riffusion-mini`` is inside the package), the folder of a bundle, or a hub id.
        device: ``auto``, ``cpu``, ``openvino``, ``cuda``, … A named device is used or refused, never replaced.
        threads: CPU threads; None leaves the choice to the backend.
        fused: rewrite graphs to quicker operators as they open, for more memory.
        reuse: the UNet's deep features are computed at every ``reuse``-th step; 1 computes them at each.
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
        from riffusion_engine.devices import choose_device
        from riffusion_engine.manifest import Manifest
        from riffusion_engine.reusing_session import check_reuse
        from riffusion_engine.session_turns import SessionTurns
        from riffusion_rt.models import locate_model

        started = time.perf_counter()
        self.device = choose_device(device).name
        self.bundle = locate_model(model)
        self.manifest = Manifest.read(self.bundle)
        self.manifest.verify(self.bundle)
        self._threads, self._fused, self._reuse = threads, fused, reuse
        if reuse != 1:
            check_reuse(self.device, reuse)
        if low_memory and (fused or reuse != 1):
            raise RequestError(
                "Low memory goes with neither fused graphs nor deep features that are kept: both need more",
                hint="Leave --low-memory out, or --fused and --reuse",
            )
        self._turns = SessionTurns(self._open_frugally) if low_memory else None
        # Graphs open side by side; the one needed last has the whole denoising loop to do it.
        self._opener = ThreadPoolExecutor(max_workers=len(OPENED_AT_ONCE), thread_name_prefix="open")
        self._opening: dict[str, Future[Session]] = {}
        self._instead: dict[str, Session] = {}
        for name in () if low_memory else OPENED_AT_ONCE:
            self._open(name)
        self.load_s = time.perf_counter() - started
        self._embed = lru_cache(maxsize=CACHED_PROMPTS)(self._embed_uncached)

    @classmethod
    def of_sessions(cls, bundle: Path, device: str, sessions: Mapping[str, Session]) -> OpenModel:
        """A model whose graphs somebody else runs: ``bundle`` need not hold them, but the facts beside them.

        Args:
            bundle: a folder with the manifest, the tokenizer and the noise schedule.
            device: what the sessions run on, as far as it matters to the rest; no session is opened.
            sessions: by name; they are not closed with the model.

        Raises:
            BundleError: the manifest cannot be read.
        """
        from riffusion_engine.manifest import Manifest

        model = cls.__new__(cls)
        model.device, model.bundle, model.manifest = device, bundle, Manifest.read(bundle)
        model._turns, model._opening, model._instead = None, {}, dict(sessions)
        model._opener = ThreadPoolExecutor(max_workers=1, thread_name_prefix="open")
        model._threads, model._fused, model._reuse, model.load_s = None, False, 1, 0.0
        model._embed = lru_cache(maxsize=CACHED_PROMPTS)(model._embed_uncached)
        return model

    def session(self, name: str) -> Session:
        """The graph of that name, opened now if it is not yet.

        Raises:
            BundleError: the bundle has none.
        """
        if name in self._instead:
            return self._instead[name]
        if self._turns is not None:
            return self._turns.session(name, self._graph(name))
        return self._open(name).result()

    def with_session(self, name: str, session: Session) -> OpenModel:
        """The same open graphs, but for one of them another session: so a server has a UNet shared by many requests.

        The graphs belong to this object; only it must be closed.
        """
        twin = copy.copy(self)
        twin._instead = {**self._instead, name: session}
        if name == "text_encoder":
            twin._embed = lru_cache(maxsize=CACHED_PROMPTS)(twin._embed_uncached)
        return twin

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

        return choose_vocoder(self.manifest, self.device, self.session, preset=CLIP_PRESET)

    def close(self) -> None:
        """Release the graphs. The object cannot be used afterwards."""
        if self._turns is not None:
            self._turns.close()
        self._opener.shutdown(wait=True)
        for opening in self._opening.values():
            opening.result().close()
        self._opening.clear()

    def _open(self, name: str) -> Future[Session]:
        from riffusion_engine.session import open_session

        graph = self._graph(name)
        if name not in self._opening:
            self._opening[name] = self._opener.submit(
                open_session,
                self.bundle,
                graph,
                device=self.device,
                threads=self._threads,
                fused=self._fused,
                reuse=self._reuse if name == "unet" else 1,
            )
        return self._opening[name]

    def _open_frugally(self, name: str) -> Session:
        from riffusion_engine.session import open_session

        graph = self._graph(name)
        return open_session(self.bundle, graph, device=self.device, threads=self._threads, low_memory=True)

    def _graph(self, name: str) -> GraphSpec:
        graph = self.manifest.graphs.get(name)
        if graph is None:
            raise BundleError(
                f"{self.bundle} has no {name} graph",
                hint="Export the checkpoint again with riffusion-rt export",
            )
        return graph

    @cached_property
    def _tokenizer(self) -> PromptTokenizer:
        from riffusion_rt.tokenizer import PromptTokenizer

        return PromptTokenizer.from_bundle(self.bundle)

    def _embed_uncached(self, prompts: tuple[str, ...]) -> NDArray[np.float32]:
        from riffusion_rt.text_encoding import encode_prompts

        return encode_prompts(self.session("text_encoder"), self._tokenizer, prompts)
