"""Triton's requests in, pictures and sound out: the pipeline, with graphs that the same server runs.

Triton Inference Server's Python backend imports this class from the repository's ``model.py``. The loop, its samplers
and the phase are this package's own; a run of a graph is a request to the model of that name.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.errors import DeviceError, RequestError, RiffusionError
from riffusion_engine.manifest import GraphSpec, Manifest
from riffusion_engine.session import prepare_feeds
from riffusion_rt.model_repository.bundle_repository import FACTS

_TEXTS = ("prompt", "negative_prompt", "sampler")
_NUMBERS = ("seed", "steps", "guidance", "duration_s")
ON_A_GPU = "triton"
"""What the device is called where graphs run on a GPU."""


class RequestedSession(Closing):
    """A graph that is run by asking the server's model of its name."""

    def __init__(self, backend: Any, name: str, graph: GraphSpec, max_batch: int) -> None:
        """``backend`` is Triton's ``triton_python_backend_utils``; larger batches than ``max_batch`` go in parts."""
        self._backend, self._name, self._graph, self._max_batch = backend, name, graph, max_batch

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """Who runs it."""
        return "Triton"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``.

        Raises:
            DeviceError: the server answers with an error.
        """
        prepared = prepare_feeds(self._graph, feeds)
        batch = max(len(array) for array in prepared.values())
        whole = {name: np.broadcast_to(array, (batch, *array.shape[1:])) for name, array in prepared.items()}
        parts = [
            self._asked({name: array[first : first + self._max_batch] for name, array in whole.items()})
            for first in range(0, batch, self._max_batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Nothing: the server owns the model."""

    def _asked(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        backend = self._backend
        names = [spec.name for spec in self._graph.outputs]
        request = backend.InferenceRequest(
            model_name=self._name,
            requested_output_names=names,
            inputs=[
                # One number for each sample has an axis of its own on the way: Triton knows no tensor without.
                backend.Tensor(name, np.ascontiguousarray(array[:, None] if array.ndim == 1 else array))
                for name, array in feeds.items()
            ],
            preferred_memory=backend.PreferredMemory(backend.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise DeviceError(
                f"{self._name} failed in Triton: {response.error().message()}",
                hint="See the log of tritonserver",
            )
        return {
            name: np.asarray(backend.get_output_tensor_by_name(response, name).as_numpy()) for name in names
        }


class TritonPythonModel:
    """What Triton's Python backend looks for in ``model.py``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the facts of the bundle beside ``model.py``; called once for each instance."""
        from riffusion_rt.open_model import OpenModel

        self._backend: Any = importlib.import_module("triton_python_backend_utils")
        told = {
            name: value["string_value"]
            for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        facts = Path(args["model_repository"]) / args["model_version"] / FACTS
        graphs, most = Manifest.read(facts).graphs, int(told["max_batch"])
        sessions = {
            name: RequestedSession(self._backend, name, graphs[name], most)
            for name in told["components"].split(",")
        }
        self._model = OpenModel.of_sessions(facts, "cpu" if told["instance"] == "cpu" else ON_A_GPU, sessions)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Make a clip for each request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Nothing is held that needs to be given back."""
        self._model.close()

    def _answer(self, request: Any) -> Any:
        backend = self._backend
        try:
            clip = self._made(request)
        except RiffusionError as error:
            return backend.InferenceResponse(error=backend.TritonError(str(error)))
        return backend.InferenceResponse(
            output_tensors=[
                backend.Tensor("picture", np.ascontiguousarray(np.asarray(clip.image, np.uint8))),
                backend.Tensor("waveform", np.ascontiguousarray(clip.samples)),
                backend.Tensor("sample_rate", np.array([clip.sample_rate], np.int32)),
            ]
        )

    def _made(self, request: Any) -> Any:
        from riffusion_rt.pipeline import iterate_clip
        from riffusion_rt.request import ClipRequest

        settings: dict[str, Any] = {}
        for name in (*_TEXTS, *_NUMBERS):
            tensor = self._backend.get_input_tensor_by_name(request, name)
            if tensor is not None:
                settings[name] = _value(name, tensor.as_numpy())
        if "prompt" not in settings:
            raise RequestError("There is no prompt", hint="Send one string as the input named prompt")
        *_, clip = iterate_clip(self._model, ClipRequest(**settings))
        return clip


def _value(name: str, array: NDArray[Any]) -> str | int | float:
    if array.size != 1:
        raise RequestError(f"{name} must be one value, not {array.size}", hint=f"Send {name} with shape [1]")
    value = array.reshape(-1)[0]
    if name not in _TEXTS:
        number: int | float = value.item()
        return number
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: {error}", hint="Encode text as UTF-8") from error
