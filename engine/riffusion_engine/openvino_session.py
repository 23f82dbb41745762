"""A graph file in, an OpenVINO model on the CPU out: where the processor multiplies bfloat16, twice as fast.

OpenVINO chooses the arithmetic by the processor: bfloat16 products with float32 sums where there are instructions for
them (AVX-512 BF16, AMX), float32 everywhere else. The text encoder stays in float32: it is a small part of the work,
and every step of a clip leans on it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.devices import INSTALL_OPENVINO, available_cores
from riffusion_engine.errors import BundleError, DeviceError, MissingExtraError
from riffusion_engine.laned_session import row_count, rows_of, weighs_little
from riffusion_engine.manifest import GraphSpec, TensorSpec
from riffusion_engine.session import prepare_feeds

PRECISE_GRAPHS = frozenset({"text_encoder"})
"""Folders of graphs that stay in float32."""

PAIRED_GRAPHS = frozenset({"unet"})
"""Folders of graphs that are compiled for one clip's two predictions, which is what a guided UNet computes."""
PAIR, TOKENS = 2, 77
"""Rows and tokens of that shape."""
MOST_LANES = 4


class OpenVinoSession(Closing):
    """A graph in OpenVINO's CPU plugin. See ``riffusion_engine.session.Session`` for the promises.

    A small UNet is compiled for *pairs*, the two predictions of guidance: a graph of known shape is a tenth quicker
    than one that takes any. Batches are dealt out by pairs to *lanes* with cores of their own, since cores that share
    each product of a small network wait for one another. What does not come in pairs of 77 tokens takes the graph for
    any shape. Runs from several threads wait for one another.
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
        self._core = openvino.Core()
        self._pairs = weighs_little(path) and Path(graph.path).parts[0] in PAIRED_GRAPHS
        self._lane_count = min(threads or available_cores(), MOST_LANES)
        self._requests: dict[str, list[Any]] = {}
        self._graph, self._running = graph, threading.Lock()
        try:
            self._model = self._core.read_model(path)
        except Exception as error:  # OpenVINO's exceptions share no narrower ancestor.
            raise BundleError(
                f"{path} cannot be loaded: {_last_line(error)}",
                hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
            ) from error
        try:
            request = self._compiled("pair" if self._pairs else "any")[0]
            compiled = request.get_compiled_model()
            self._arithmetic = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:
            raise DeviceError(
                f"OpenVINO cannot compile {graph.path}: {_last_line(error)}", hint="Use --device cpu"
            ) from error

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
            if self._model is None:
                raise DeviceError(
                    f"The session of {self._graph.path} is closed", hint="Open a new one: open_session(...)"
                )
            try:
                if not self._pairs or not _in_pairs(prepared):
                    return self._run_each("any", [prepared])
                pairs = [
                    _whole(rows_of(prepared, first, first + PAIR))
                    for first in range(0, row_count(prepared), PAIR)
                ]
                return self._run_each("lanes" if len(pairs) > 1 and self._lane_count > 1 else "pair", pairs)
            except Exception as error:
                self._requests.clear()  # Others of the batch may be under way, and are not to be asked again.
                raise DeviceError(
                    f"OpenVINO could not run {self._graph.path}: {_last_line(error)}",
                    hint="Free memory or use a smaller batch, or use --device cpu",
                ) from error

    def close(self) -> None:
        """Give the memory back."""
        with self._running:
            self._model = None
            self._requests.clear()

    def _compiled(self, kind: str) -> list[Any]:
        """Requests of the graph for "any" shape, for one "pair" at a time or for pairs in "lanes"; compiled once."""
        if kind not in self._requests:
            model, settings = self._model, {**self._settings, "PERFORMANCE_HINT": "LATENCY"}
            if kind != "any":
                model = model.clone()
                model.reshape({spec.name: _paired_shape(spec) for spec in self._graph.inputs})
            count = self._lane_count if kind == "lanes" else 1
            if count > 1:
                settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": count}
            compiled = self._core.compile_model(model, "CPU", settings)
            self._requests[kind] = [compiled.create_infer_request() for _ in range(count)]
        return self._requests[kind]

    def _run_each(self, kind: str, parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Run parts of a batch, as many at once as there are requests, and put their results together."""
        requests = self._compiled(kind)
        results: list[dict[str, NDArray[Any]]] = []

        def take(request: Any) -> None:
            request.wait()
            results.append({spec.name: np.array(request.results[spec.name]) for spec in self._graph.outputs})

        for index, part in enumerate(parts):
            if index >= len(requests):
                take(requests[index % len(requests)])
            requests[index % len(requests)].start_async(dict(part), share_inputs=True)
        for index in range(max(0, len(parts) - len(requests)), len(parts)):
            take(requests[index % len(requests)])
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def _paired_shape(spec: TensorSpec) -> list[int]:
    """An input's shape for a pair: every free axis but the second is the batch's."""
    return [
        size if isinstance(size, int) else PAIR if axis == 0 else TOKENS
        for axis, size in enumerate(spec.shape)
    ]


def _in_pairs(feeds: Mapping[str, NDArray[Any]]) -> bool:
    sample, _, prompts = feeds.values()
    return len(sample) % PAIR == 0 and prompts.shape[1] == TOKENS


def _whole(pair: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A pair whose arrays all have two rows: one that is meant for both stands there twice."""
    return {
        name: array if len(array) == PAIR else np.repeat(array, PAIR, axis=0) for name, array in pair.items()
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
