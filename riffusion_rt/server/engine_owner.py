"""A bundle in, one open model out, which every request sees as its own while its UNet's runs are shared."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.devices import available_cores
from riffusion_rt.open_model import OpenModel
from riffusion_rt.server.unet_batches import BatchCounts, Ticket, UNetBatches

if TYPE_CHECKING:
    from riffusion_engine.manifest import GraphSpec, Manifest
    from riffusion_engine.session import Session

ROWS_AT_ONCE = {"cpu": 8, "openvino": 8}
"""Rows in one run of the network. On a CPU larger runs gain nothing and hold everyone up."""
ROWS_AT_ONCE_ON_A_GPU = 32

ROWS_BESIDE_LIVE = {"cpu": 4, "openvino": 4}
"""The same while a live session plays: two guided clips."""
ROWS_BESIDE_LIVE_ON_A_GPU = 16

ONE_THREAD = 1
"""Threads of one run on a CPU: as many runs as there are cores go on side by side, which is quicker than one run on
all of them, and a stage that uses one core leaves no other idle."""


class EngineOwner(Closing):
    """Owns the graphs of a model. Nobody else may run its UNet.

    Args:
        model: as ``Riffusion`` takes it.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads for one run of a graph; by default one, with a lane for every core.
        rows_at_once: rows of one run of the UNet at most; by default what suits the device.
        lanes: runs of the UNet that go on side by side; by default the cores on a CPU, and one on a GPU.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: as ``Riffusion``.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        rows_at_once: int | None = None,
        lanes: int | None = None,
    ) -> None:
        self._model = OpenModel(model, device=device, threads=threads or _threads_for(device))
        on_cpu = self._model.device == "cpu"
        if not on_cpu:
            self._model = _serialized(self._model)
        rows = rows_at_once or ROWS_AT_ONCE.get(self._model.device, ROWS_AT_ONCE_ON_A_GPU)
        self.batches = UNetBatches(
            self._model.session("unet"),
            rows_at_once=rows,
            rows_beside_live=ROWS_BESIDE_LIVE.get(self._model.device, ROWS_BESIDE_LIVE_ON_A_GPU),
            lanes=(lanes or available_cores()) if on_cpu else 1,
        )
        # What requests would else open or read at the same time.
        _ = self._model.schedule, self._model.vocoder
        self._model.embed(["", ""])
        for name in ("vae_decoder", "vae_encoder"):
            if name in self._model.manifest.graphs:
                self._model.session(name)

    def warm_up(self) -> None:
        """Make a clip and a bar of one step that nobody hears: what is imported at first use then is."""
        from riffusion_rt.pipeline import iterate_clip
        from riffusion_rt.request import ClipRequest
        from riffusion_rt.stream import Stream
        from riffusion_rt.stream_request import StreamRequest

        model = self.model_for(Ticket("warm-up"))
        for _ in iterate_clip(model, ClipRequest("", steps=1)):
            pass
        next(iter(Stream(model, StreamRequest("", steps=1), live=False)))

    @property
    def manifest(self) -> Manifest:
        """The bundle's facts."""
        return self._model.manifest

    @property
    def device(self) -> str:
        """The device in use."""
        return self._model.device

    @property
    def counts(self) -> BatchCounts:
        """What the UNet did so far."""
        return self.batches.counts

    def model_for(self, ticket: Ticket) -> OpenModel:
        """The model as one job or live session uses it, from any thread."""
        return self._model.with_session("unet", self.batches.session_for(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """Have a ticket's walks end with ``WorkCancelled``, at the next step."""
        self.batches.cancel(ticket)

    def close(self) -> None:
        """Release the graphs."""
        self.batches.close()
        self._model.close()


class OneAtATime(Closing):
    """A session whose runs wait for each other: engines on a GPU have one set of buffers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._session.graph

    @property
    def provider(self) -> str:
        """What really runs it."""
        return self._session.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once, when the others are done."""
        with self._lock:
            return self._session.run(feeds)

    def close(self) -> None:
        """Close the session itself."""
        self._session.close()


def _threads_for(device: str) -> int | None:
    from riffusion_engine.devices import choose_device

    return ONE_THREAD if choose_device(device).name == "cpu" else None


def _serialized(model: OpenModel) -> OpenModel:
    for name in model.manifest.graphs:
        if name != "unet":
            model = model.with_session(name, OneAtATime(model.session(name)))
    return model
