"""A graph's constants in, entries that point into a safetensors file out: one set of weights serves both readers.

A safetensors file is a JSON header followed by raw little-endian tensors, and ONNX external data is a file name, an
offset and a length. So the weights file of a diffusers component can be the external data of its graph, as long as
the two stand in the same folder. Weights stored as float16 get a Cast to the graph's type; a weight that the
exporter stored transposed gets a Transpose. Runtimes fold both while they load.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from riffusion_engine.errors import ExportError

LARGEST_COINCIDENCE = 64
"""Up to this many elements a constant of the graph may equal a weight by chance: its name must fit as well."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where one weight lies in its file: ``length`` bytes from ``offset``, ``dtype`` values of ``shape``."""

    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Placement:
    """What pointing a graph at a weights file did: bytes now outside of the graph, bytes of constants still inside."""

    outside: int
    inside: int


class _HeaderEntry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors_header(path: Path) -> tuple[StoredTensor, ...]:
    """List the tensors of a safetensors file with their absolute offsets.

    Raises:
        ExportError: a tensor is none of float16, bfloat16 and float32.
    """
    with path.open("rb") as file:
        (header_length,) = struct.unpack("<Q", file.read(8))
        header = msgspec.json.decode(file.read(header_length), type=dict[str, msgspec.Raw])
    data_start = 8 + header_length
    entries = {key: raw for key, raw in header.items() if key != "__metadata__"}
    return tuple(_stored_tensor(path, key, raw, data_start) for key, raw in entries.items())


def _stored_tensor(path: Path, key: str, raw: msgspec.Raw, data_start: int) -> StoredTensor:
    entry = msgspec.json.decode(raw, type=_HeaderEntry)
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise ExportError(
            f"{path.name} holds {key} as {entry.dtype}, not as float16, bfloat16 or float32",
            hint="Save the checkpoint's weights as float32 and export again",
        )
    begin, end = entry.data_offsets
    return StoredTensor(key, dtype, entry.shape, data_start + begin, end - begin)


def point_into_safetensors(model: ir.Model, weights: Path) -> Placement:
    """Replace every weight of ``model`` by an external entry into ``weights``, in place.

    Weights are found by their values, so constants that the exporter renamed, transposed or gave axes of size one
    are found too; where several tensors hold the same values, the one whose name fits is taken. ``model`` must then
    be saved in the folder of ``weights``.

    Raises:
        ExportError: ``weights`` holds none of float16, bfloat16 and float32.
    """
    stored_weights = _ValueIndex(weights)
    sources = _WeightSources(model.graph, weights)
    outside = inside = 0
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None:
            continue
        found = (
            stored_weights.find(value.name or "", tensor.numpy())
            if tensor.dtype.is_floating_point()
            else None
        )
        if found is None:
            inside += tensor.nbytes
            continue
        stored, transposed = found
        shape = tuple(tensor.shape.numpy())
        replacement = sources.value(stored, tensor.dtype, shape, transposed=transposed)
        ir.convenience.replace_all_uses_with(value, replacement)
        del model.graph.initializers[value.name or ""]
        outside += stored.length
    sources.register()
    return Placement(outside, inside)


class _ValueIndex:
    """Finds a weights file's tensor by its values."""

    def __init__(self, weights: Path) -> None:
        self._tensors: dict[tuple[bytes, tuple[int, ...]], list[StoredTensor]] = {}
        self._dtypes: set[np.dtype[Any]] = set()
        data = np.memmap(weights, dtype=np.uint8, mode="r")
        for stored in read_safetensors_header(weights):
            self._dtypes.add(stored.dtype)
            digest = _digest(data[stored.offset : stored.offset + stored.length])
            self._tensors.setdefault((digest, _without_ones(stored.shape)), []).append(stored)

    def find(self, name: str, array: NDArray[Any]) -> tuple[StoredTensor, bool] | None:
        """The tensor that holds ``array``, and whether it holds it transposed."""
        for transposed in (False, True) if array.ndim == 2 else (False,):
            values = array.T if transposed else array
            matches = [stored for dtype in self._dtypes for stored in self._equal(values, dtype)]
            named = [stored for stored in matches if name.endswith(stored.key)]
            if named:
                return named[0], transposed
            if matches and array.size > LARGEST_COINCIDENCE:
                return matches[0], transposed
        return None

    def _equal(self, values: NDArray[Any], dtype: np.dtype[Any]) -> list[StoredTensor]:
        with np.errstate(over="ignore"):
            stored_values = np.ascontiguousarray(values.astype(dtype))
        digest = _digest(stored_values.reshape(-1).view(np.uint8))
        candidates = self._tensors.get((digest, _without_ones(values.shape)), [])
        return candidates if np.array_equal(stored_values, values) else []


class _WeightSources:
    """The external initializers of a graph, one for each stored tensor, and the nodes that lead from them."""

    def __init__(self, graph: ir.Graph, weights: Path) -> None:
        self._graph = graph
        self._weights = weights
        self._first_node = next(iter(graph))
        self._values: dict[str, ir.Value] = {}
        self._sources: list[ir.Value] = []

    def value(
        self, stored: StoredTensor, dtype: ir.DataType, shape: tuple[int, ...], *, transposed: bool
    ) -> ir.Value:
        """The value that holds ``stored`` as the graph wants it: of this type and shape, maybe transposed."""
        stored_dtype = ir.DataType.from_numpy(stored.dtype)
        straight_shape = shape[::-1] if transposed else shape
        name = stored.key
        if straight_shape != stored.shape:
            name += "." + "x".join(map(str, straight_shape))
        value = self._once(name, lambda: self._source(stored, stored_dtype, straight_shape))
        if dtype != stored_dtype:
            source = value
            name += f".{dtype.name.lower()}"
            value = self._once(name, lambda: self._node("Cast", source, dtype, to=dtype.value))
        if transposed:
            straight = value
            name += ".transposed"
            value = self._once(name, lambda: self._node("Transpose", straight, dtype, perm=(1, 0)))
        return value

    def register(self) -> None:
        """Enter the sources as initializers; the exporter's own of the same names must be gone by now."""
        for source in self._sources:
            self._graph.register_initializer(source)

    def _once(self, name: str, make: Callable[[], ir.Value]) -> ir.Value:
        if name not in self._values:
            self._values[name] = make()
            self._values[name].name = name
        return self._values[name]

    def _source(self, stored: StoredTensor, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        external = ir.ExternalTensor(
            location=self._weights.name,
            offset=stored.offset,
            length=stored.length,
            dtype=dtype,
            shape=ir.Shape(shape),
            name=stored.key,
            base_dir=str(self._weights.parent),
        )
        source = ir.Value(
            name=stored.key, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=external
        )
        self._sources.append(source)
        return source

    def _node(
        self, op_type: str, source: ir.Value, dtype: ir.DataType, **attributes: int | tuple[int, ...]
    ) -> ir.Value:
        node = ir.node(op_type, [source], attributes)
        assert source.shape is not None
        shape = tuple(source.shape)
        node.outputs[0].shape = ir.Shape(shape[::-1] if op_type == "Transpose" else shape)
        node.outputs[0].type = ir.TensorType(dtype)
        self._graph.insert_before(self._first_node, node)
        return node.outputs[0]


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _digest(raw: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(raw).data, digest_size=16).digest()
