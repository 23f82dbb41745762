"""What a graph takes and gives in, the text of its ``config.pbtxt`` for Triton Inference Server out.

The format is the text form of the protocol buffer ``inference.ModelConfig``. With a ``max_batch_size`` the first axis
of every tensor is the batch and is left out of ``dims``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from riffusion_engine.errors import BundleError
from riffusion_engine.manifest import GraphSpec, TensorSpec
from riffusion_engine.session import BATCH_AXIS, BROADCAST_SUFFIX

DATA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "bool": "TYPE_BOOL",
        "uint8": "TYPE_UINT8",
        "int32": "TYPE_INT32",
        "int64": "TYPE_INT64",
        "float16": "TYPE_FP16",
        "float32": "TYPE_FP32",
        "bfloat16": "TYPE_BF16",
        "string": "TYPE_STRING",
    }
)
"""A manifest's name of a type to Triton's."""

QUEUE_DELAY_US = 2000
"""How long a batch waits for others to join: little against a step of Stable Diffusion on any GPU."""
KINDS: Mapping[str, str] = MappingProxyType({"cpu": "KIND_CPU", "gpu": "KIND_GPU"})


@dataclass(frozen=True)
class Tensor:
    """An input or output as Triton sees it: ``dims`` without the batch, -1 for a size that varies."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False
    scalar: bool = False
    """One number for each sample: Triton knows no tensor without axes, so it gets one that is taken off again."""


def tensor_of(spec: TensorSpec) -> Tensor:
    """A graph's input or output, its batch left out.

    Raises:
        BundleError: its first axis is not the batch.
    """
    first, *others = spec.shape or (0,)
    if not isinstance(first, str) or not (first == BATCH_AXIS or first.endswith(BROADCAST_SUFFIX)):
        raise BundleError(
            f"{spec.name} has no batch as its first axis: {spec.shape}",
            hint="Export the checkpoint again: riffusion-rt export CHECKPOINT -o BUNDLE",
        )
    dims = tuple(size if isinstance(size, int) else -1 for size in others)
    return Tensor(spec.name, spec.dtype, dims or (1,), scalar=not dims)


def component_config(
    name: str,
    graph: GraphSpec,
    *,
    instance: str,
    max_batch: int,
    plans: Sequence[int] | None = None,
) -> str:
    """``config.pbtxt`` of one graph, whose samples Triton gathers into batches.

    Args:
        name: what the model is called.
        graph: what it takes and gives.
        instance: "cpu" or "gpu".
        max_batch: most samples in one run.
        plans: indices of the profiles of a TensorRT plan; None where the model is an ONNX file.

    Raises:
        BundleError: a tensor has no batch axis.
    """
    group = [f"kind: {KINDS[instance]}", "count: 1"]
    if plans is not None:
        group.append(f"profile: [ {', '.join(quoted(str(index)) for index in plans)} ]")
    lines = [
        f"name: {quoted(name)}",
        'platform: "onnxruntime_onnx"' if plans is None else 'platform: "tensorrt_plan"',
        f"max_batch_size: {max_batch}",
        *tensors("input", (tensor_of(spec) for spec in graph.inputs)),
        *tensors("output", (tensor_of(spec) for spec in graph.outputs)),
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}",
        f"instance_group [ {{ {' '.join(group)} }} ]",
    ]
    return "\n".join(lines) + "\n"


def entry_config(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    parameters: Mapping[str, str],
    *,
    clips_at_once: int,
) -> str:
    """``config.pbtxt`` of the Python model that others are called from; a request is one clip and has no batch axis."""
    lines = [
        f"name: {quoted(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        *tensors("input", inputs),
        *tensors("output", outputs),
        f"instance_group [ {{ kind: KIND_CPU count: {clips_at_once} }} ]",
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def tensors(kind: str, of: Iterable[Tensor]) -> list[str]:
    """Lines of all inputs or all outputs."""
    return [
        f"{kind} {{ name: {quoted(tensor.name)} data_type: {DATA_TYPES[tensor.dtype]} "
        f"dims: [ {', '.join(map(str, tensor.dims))} ]"
        + (" reshape { shape: [ ] }" if tensor.scalar else "")
        + (" optional: true" if tensor.optional else "")
        + " }"
        for tensor in of
    ]


def quoted(text: str) -> str:
    """A string of the text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
