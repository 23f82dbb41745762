"""Two graphs of one UNet in, a session out whose walks compute deep features at every n-th step only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.errors import DeviceError, RequestError
from riffusion_engine.feature_reuse import (
    DEEP_FEATURES,
    from_deep_features,
    reuse_specs,
    with_deep_features,
)
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.session import Session

if TYPE_CHECKING:
    from riffusion_engine.onnxruntime_session import CudaSettings

MOST_REUSED = 10


class ReusingSession(Closing):
    """A UNet in ONNX Runtime that walks with ``begin``. Run by itself it is the UNet as it was.

    What it saves and costs is the model's: see ``benchmarks/step_savings.py``.
    """

    def __init__(
        self,
        bundle: Path,
        graph: GraphSpec,
        *,
        device: str,
        every: int,
        layers: int = 1,
        threads: int | None = None,
        fused: bool = False,
        cuda: CudaSettings | None = None,
    ) -> None:
        """Load both graphs; they share the weights' file.

        Args:
            bundle: the folder that ``graph.path`` is relative to.
            graph: the UNet's entry of ``Manifest.graphs``.
            device: "cpu" or "cuda".
            every: deep features are computed at each ``every``-th step, 2 to 10.
            layers: last layers that every step computes.
            threads: as for ``open_session``.
            fused: as for ``open_session``.
            cuda: as for ``open_session``.

        Raises:
            RequestError: ``every`` is out of range.
            BundleError: the graph is missing or damaged, or has no such layers.
            DeviceError: the device did not take a graph, or runs none that are split as they open.
        """
        from riffusion_engine.graph_bytes import Graph
        from riffusion_engine.onnxruntime_session import OnnxRuntimeSession, read_graph

        check_reuse(device, every)
        whole, shallow = reuse_specs(graph, Graph.read(read_graph(bundle, graph)), layers)
        self._graph, self._every = graph, every
        self._whole = OnnxRuntimeSession(
            bundle,
            whole,
            device=device,
            threads=threads,
            fused=fused,
            cuda=cuda,
            rewrite=lambda given: with_deep_features(given, layers),
        )
        self._shallow = OnnxRuntimeSession(
            bundle,
            shallow,
            device=device,
            threads=threads,
            fused=fused,
            cuda=cuda,
            rewrite=lambda given: from_deep_features(given, layers),
        )

    @property
    def graph(self) -> GraphSpec:
        """What the UNet takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs it."""
        return self._whole.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the whole UNet once; see ``Session.run``."""
        outputs = self._whole.run(feeds)
        del outputs[DEEP_FEATURES]
        return outputs

    def begin(self) -> Session:
        """A session for the steps of one walk, one run each, in their order. Nothing of it needs closing."""
        return _Walk(self, self._whole, self._shallow, self._every)

    def close(self) -> None:
        """Give the device's memory back."""
        self._whole.close()
        self._shallow.close()


def check_reuse(device: str, every: int) -> None:
    """Refuse what cannot be.

    Raises:
        RequestError: ``every`` is out of range.
        DeviceError: the device runs no graphs that are split as they open.
    """
    from riffusion_engine.onnxruntime_session import PROVIDERS

    if not isinstance(every, int) or not 2 <= every <= MOST_REUSED:
        raise RequestError(
            f"Deep features can be computed at every 2nd to {MOST_REUSED}th step, not {every!r}",
            hint="Leave --reuse out to compute them at each",
        )
    if device not in PROVIDERS:
        raise DeviceError(
            f"Device {device} cannot use deep features again",
            hint="Leave --reuse out, or use --device cpu or cuda",
        )


class _Walk(Closing):
    """A UNet that remembers its deep features from step to step."""

    def __init__(self, owner: ReusingSession, whole: Session, shallow: Session, every: int) -> None:
        self._owner, self._whole, self._shallow, self._every = owner, whole, shallow, every
        self._step = 0
        self._deep: NDArray[Any] | None = None

    @property
    def graph(self) -> GraphSpec:
        return self._owner.graph

    @property
    def provider(self) -> str:
        return self._owner.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fresh = self._step % self._every == 0
        self._step += 1
        # Where guidance is switched off or on, the batch changes, and with it whose features they are.
        if fresh or self._deep is None or len(self._deep) != len(np.asarray(feeds["sample"])):
            outputs = self._whole.run(feeds)
            self._deep = outputs.pop(DEEP_FEATURES)
            return outputs
        return self._shallow.run({**feeds, DEEP_FEATURES: self._deep})

    def close(self) -> None:
        self._deep = None
