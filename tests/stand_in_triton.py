"""A stand-in of Triton Inference Server, our own: it opens a model repository in ONNX Runtime as its configs declare.

``module()`` is what a server gives Python models as ``triton_python_backend_utils``. It has no more of it than this
package asks for, and holds requests to the declared names, types and shapes, as the server does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT8": np.uint8,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_STRING": np.object_,
}


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError(Exception):
    def message(self) -> str:
        return str(self)


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors, self._error = {tensor.name(): tensor for tensor in output_tensors}, error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class Request:
    """What a client sends."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.tensors = {tensor.name(): tensor for tensor in inputs}


class StandInServer:
    """The models of a repository, by their configs as Triton's own schema reads them."""

    def __init__(self, repository: Path, schema: Any) -> None:
        import onnxruntime
        from google.protobuf import json_format, text_format

        self.repository = repository
        self.configs = {
            path.parent.name: text_format.Parse(path.read_text(), schema.ModelConfig())
            for path in sorted(repository.glob("*/config.pbtxt"))
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {
            name: onnxruntime.InferenceSession(
                str(repository / name / "1" / "model.onnx" / "model.onnx"),
                options,
                providers=["CPUExecutionProvider"],
            )
            for name, config in self.configs.items()
            if config.platform == "onnxruntime_onnx"
        }
        self.runs: Counter[str] = Counter()
        self.fail: set[str] = set()
        self._as_json = json_format.MessageToJson

    def arguments(self, name: str) -> dict[str, str]:
        """What the server tells a Python model at its start."""
        told = json.loads(self._as_json(self.configs[name], preserving_proto_field_name=True))
        return {
            "model_config": json.dumps(told),
            "model_repository": str(self.repository / name),
            "model_version": "1",
        }

    def run(self, name: str, inputs: Sequence[Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Run an ONNX model with tensors that are as its config says."""
        config = self.configs[name]
        self.runs[name] += 1
        if name in self.fail:
            raise TritonError("out of memory")
        batches = {len(tensor.as_numpy()) for tensor in inputs}
        assert len(batches) == 1 and max(batches) <= config.max_batch_size, batches
        declared = {spec.name: spec for spec in config.input}
        assert declared.keys() == {tensor.name() for tensor in inputs}
        feeds = {
            tensor.name(): self.admitted(declared[tensor.name()], tensor.as_numpy()) for tensor in inputs
        }
        outputs = self.sessions[name].run(list(wanted), feeds)
        given = {spec.name: spec for spec in config.output}
        for output_name, output in zip(wanted, outputs, strict=True):
            self.admitted(given[output_name], output)
        return [Tensor(output_name, output) for output_name, output in zip(wanted, outputs, strict=True)]

    def admitted(self, spec: Any, array: NDArray[Any], *, batched: bool = True) -> NDArray[Any]:
        """An array, if it is as declared; without the axes that ``reshape`` takes off."""
        from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

        kind = EnumTypeWrapper(spec.DESCRIPTOR.fields_by_name["data_type"].enum_type).Name(spec.data_type)
        assert array.dtype == TYPES[kind], (spec.name, array.dtype, kind)
        shape = array.shape[1:] if batched else array.shape
        assert len(shape) == len(spec.dims), (spec.name, array.shape)
        assert all(want in (-1, size) for size, want in zip(shape, spec.dims, strict=True)), spec.name
        return array.reshape(len(array), *spec.reshape.shape) if spec.HasField("reshape") else array

    def module(self) -> ModuleType:
        """What a Python model imports as ``triton_python_backend_utils``."""
        server = self

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: Sequence[str],
                inputs: Sequence[Tensor],
                preferred_memory: object = None,
            ) -> None:
                self._told = model_name, inputs, requested_output_names

            def exec(self) -> InferenceResponse:
                try:
                    return InferenceResponse(server.run(*self._told))
                except TritonError as error:
                    return InferenceResponse(error=error)

        module: Any = ModuleType("triton_python_backend_utils")
        module.Tensor, module.TritonError = Tensor, TritonError
        module.InferenceRequest, module.InferenceResponse = InferenceRequest, InferenceResponse
        module.TRITONSERVER_MEMORY_CPU = 0
        module.PreferredMemory = lambda memory, device: (memory, device)
        module.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
        module.get_output_tensor_by_name = lambda response, name: response.tensors.get(name)
        return module
