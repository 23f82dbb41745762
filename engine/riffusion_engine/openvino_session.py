"""A graph file in, an OpenVINO model on the CPU out: where the processor multiplies bfloat16, twice as fast.

OpenVINO chooses the arithmetic by the processor: bfloat16 products with float32 sums where there are instructions for
them (AVX-512 BF16, AMX), float32 everywhere else. The text encoder stays in float32: it is a small part of the work,
and every step of a clip leans on it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.devices import INSTALL_OPENVINO
from riffusion_engine.errors import BundleError, DeviceError, MissingExtraError
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.session import prepare_feeds

PRECISE_GRAPHS = frozenset({"text_encoder"})
"""Folders of graphs that stay in float32."""

LANED_GRAPHS = frozenset({"unet"})
"""Folders of graphs whose batches are split over lanes."""
MOST_LANES = 4
LEAST_ROWS = 2
"""Of a batch, for each lane: with fewer, a lane reads its weights for too little."""
MOST_WEIGHTS = 256 * 2**20
"""Bytes of a graph that is compiled for lanes, too. Products of a larger one keep all cores busy by themselves."""


class OpenVinoSession(Closing):
    """A graph in OpenVINO's CPU plugin. See ``riffusion_engine.session.Session`` for the promises.

    A batch of a small UNet is split over *lanes*, each with cores of its own: cores that share each product of a small
    network spend a sixth of their time waiting for one another. Runs from several threads wait for one another.
    """

    def __init__(
        self, bundle: Path, graph: GraphSpec, *, threads: int | None = None, precise: bool | None = None
    ) -> None:
        """Load ``graph`` of the folder ``bundle``.

        Args:
            bundle: the folder that ``graph.path`` is relative to.
            graph: an entry of ``Manifest.graphs``.
            threads: CPU threads for one run; by default one for each core.
            precise: float32 even where bfloat16 is quicker; by default for ``PRECISE_GRAPHS``.

        Raises:
            BundleError: the graph or its weights are missing or damaged.
            DeviceError: OpenVINO cannot compile it for this CPU.
            MissingExtraError: OpenVINO is not installed.
        """
        path = bundle / graph.path
        if not path.is_file():
            raise BundleError(
                f"{graph.path} is missing from bundle {bundle}",
                hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
            )
        openvino = _import_openvino()
        if precise is None:
            precise = Path(graph.path).parts[0] in PRECISE_GRAPHS
        self._settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} if precise else {}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._core, self._path = openvino.Core(), path
        cores = threads or (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        small = sum(file.stat().st_size for file in path.parent.iterdir()) <= MOST_WEIGHTS
        laned = small and Path(graph.path).parts[0] in LANED_GRAPHS
        self._lane_count = min(cores, MOST_LANES) if laned else 1
        self._lanes: list[Any] = []
        try:
            model = self._core.read_model(path)
        except Exception as error:  # OpenVINO's exceptions share no narrower ancestor.
            raise BundleError(
                f"{path} cannot be loaded: {_last_line(error)}",
                hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
            ) from error
        try:
            compiled = self._core.compile_model(
                model, "CPU", {**self._settings, "PERFORMANCE_HINT": "LATENCY"}
            )
            self._arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self._request: Any = compiled.create_infer_request()
        except Exception as error:
            raise DeviceError(
                f"OpenVINO cannot compile {graph.path}: {_last_line(error)}", hint="Use --device cpu"
            ) from error
        self._graph, self._running = graph, threading.Lock()

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """What runs it, and its arithmetic: ``"OpenVINO CPU bf16"``."""
        return f"OpenVINO CPU {self._arithmetic}"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``."""
        prepared = prepare_feeds(self._graph, feeds)
        with self._running:
            if self._request is None:
                raise DeviceError(
                    f"The session of {self._graph.path} is closed", hint="Open a new one: open_session(...)"
                )
            try:
                rows = len(prepared[self._graph.inputs[0].name])
                if self._lane_count > 1 and rows >= LEAST_ROWS * self._lane_count:
                    return self._run_in_lanes(prepared, rows)
                outputs = self._request.infer(prepared, share_inputs=True)
                return {spec.name: np.array(outputs[spec.name]) for spec in self._graph.outputs}
            except Exception as error:
                raise DeviceError(
                    f"OpenVINO could not run {self._graph.path}: {_last_line(error)}",
                    hint="Free memory or use a smaller batch, or use --device cpu",
                ) from error

    def close(self) -> None:
        """Give the memory back."""
        with self._running:
            self._request, self._lanes = None, []

    def _run_in_lanes(self, feeds: Mapping[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
        if not self._lanes:
            settings = {**self._settings, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self._lane_count}
            compiled = self._core.compile_model(self._core.read_model(self._path), "CPU", settings)
            self._lanes = [compiled.create_infer_request() for _ in range(self._lane_count)]
        edges = [rows * lane // self._lane_count for lane in range(self._lane_count + 1)]
        for request, first, last in zip(self._lanes, edges, edges[1:], strict=False):
            # An array of one row is meant for all of them.
            part = {name: array[first:last] if len(array) == rows else array for name, array in feeds.items()}
            request.start_async(part, share_inputs=True)
        for request in self._lanes:
            request.wait()
        results = [request.results for request in self._lanes]
        return {
            spec.name: np.concatenate([result[spec.name] for result in results])
            for spec in self._graph.outputs
        }


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "OpenVINO is not installed, or does not load", hint=INSTALL_OPENVINO
        ) from error
    return openvino


def _last_line(error: Exception) -> str:
    """OpenVINO puts its source lines first and what happened last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
