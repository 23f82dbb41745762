"""A graph file in, an ONNX Runtime session on the CPU or on CUDA out; its provider is verified, not assumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.devices import import_onnxruntime
from riffusion_engine.errors import BundleError, DeviceError
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.session import prepare_feeds

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device name to the provider that must stand first in the session."""

_FATAL_ONLY = 4  # ONNX Runtime's log level: failures arrive as exceptions; the library itself prints nothing.


class OnnxRuntimeSession:
    """A graph in ONNX Runtime. See ``riffusion_engine.session.Session`` for the promises."""

    def __init__(self, bundle: Path, graph: GraphSpec, *, device: str, threads: int | None = None) -> None:
        """Load ``graph`` of the folder ``bundle`` onto ``device`` ("cpu" or "cuda").

        Raises:
            BundleError: the graph or its weights are missing or damaged.
            DeviceError: the provider did not take the graph.
            MissingExtraError: ONNX Runtime is not installed.
        """
        provider = PROVIDERS[device]
        path = bundle / graph.path
        if not path.is_file():
            raise BundleError(
                f"{graph.path} is missing from bundle {bundle}",
                hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
            )
        self._graph = graph
        self._session = _create(path, provider, threads)
        active = self._session.get_providers()
        if active[0] != provider:
            raise DeviceError(
                f"ONNX Runtime ran {graph.path} on {active[0]} where {provider} was asked for",
                hint="See what is missing: riffusion-rt doctor",
            )
        self._provider = provider
        self._output_names = [output.name for output in graph.outputs]
        self._check_interface()

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs it."""
        return self._provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``."""
        prepared = prepare_feeds(self._graph, feeds)
        if self._session is None:
            raise DeviceError(
                f"The session of {self._graph.path} is closed", hint="Open a new one: open_session(...)"
            )
        try:
            outputs = self._session.run(self._output_names, prepared)
        except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
            raise DeviceError(
                f"{self._provider} could not run {self._graph.path}: {_first_line(error)}",
                hint="Free memory or use a smaller batch; riffusion-rt doctor shows the device",
            ) from error
        return {name: np.asarray(output) for name, output in zip(self._output_names, outputs, strict=True)}

    def close(self) -> None:
        """Give the device's memory back."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_interface(self) -> None:
        declared = ([spec.name for spec in self._graph.inputs], self._output_names)
        found = (
            [value.name for value in self._session.get_inputs()],
            [value.name for value in self._session.get_outputs()],
        )
        if set(declared[0]) != set(found[0]) or not set(declared[1]) <= set(found[1]):
            raise BundleError(
                f"{self._graph.path} takes {', '.join(found[0])} and gives {', '.join(found[1])}, "
                "which is not what riffusion.json says",
                hint="Export the bundle again: riffusion-rt export CHECKPOINT -o BUNDLE",
            )


def _default_threads() -> int:
    """CPUs that this process may run on; 0, which is ONNX Runtime's "one for each core", where it may use all."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
        return 0 if allowed == os.cpu_count() else allowed
    return 0


def _create(path: Path, provider: str, threads: int | None) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or _default_threads()
    options.inter_op_num_threads = 1
    # The planner that shares buffers between values takes quadratic time: it was two thirds of what it took to open a
    # UNet of 2,000 nodes. Without it runs are as fast and take no more memory: the arena recycles freed buffers.
    options.enable_mem_reuse = False
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=_provider_list(provider))
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        reason = _first_line(error)
        if provider != PROVIDERS["cpu"] and "memory" in reason.lower():
            raise DeviceError(
                f"{provider} could not load {path.name}: {reason}",
                hint="Free memory on the device, or use --device cpu",
            ) from error
        raise BundleError(
            f"{path} cannot be loaded: {reason}",
            hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
        ) from error


def _provider_list(provider: str) -> list[Any]:
    if provider == PROVIDERS["cuda"]:
        # TF32 rounds float32 products to 10 bits: a float32 bundle was measured without it.
        return [(provider, {"use_tf32": "0"})]
    return [provider]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
