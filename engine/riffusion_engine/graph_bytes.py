"""The bytes of an ONNX file in, a graph that can be read and edited out, and back again, without the onnx package.

ONNX files are protocol buffers. A session needs to make small graphs and to rewrite some nodes of large ones, and what
plays music should not have to install a compiler's toolkit for that. Field numbers are those of onnx.proto; what is not
edited here (weights, functions, metadata) is carried over byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError

ELEMENT_TYPES: Mapping[str, int] = MappingProxyType(
    {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
)
"""numpy's name of a type to TensorProto.DataType."""

Attribute = int | float | str | Sequence[int] | bytes
"""An attribute's value; bytes are one that is carried over as it was found."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # Wire types of protocol buffers.
_FLOAT, _INT, _STRING, _INTS = 1, 2, 3, 7  # AttributeProto.AttributeType
_MASK64 = (1 << 64) - 1

_Field = tuple[int, int, Any]


@dataclass
class Node:
    """One operator: what it reads and writes, by name. An empty input is one left out."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    name: str = ""


@dataclass(frozen=True)
class Value:
    """A tensor's name, element type and shape; a string in the shape names an axis of any size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ExternalTensor:
    """An initializer whose bytes lie in another file: which, relative to the graph's, and where in it."""

    location: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


@dataclass
class Graph:
    """A graph and the operator sets it was written in, from domain to version."""

    name: str
    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    opsets: dict[str, int]
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Initializers made here."""
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    """Shapes of inputs, weights and inner values, as far as the file tells them."""
    stored: dict[str, NDArray[Any] | None] = field(default_factory=dict)
    """Initializers found in the file: small ones by value, those that lie in another file or are large as None."""
    _carried: list[_Field] = field(default_factory=list)
    _carried_model: list[_Field] = field(default_factory=list)

    @staticmethod
    def read(data: bytes) -> Graph:
        """Read an ONNX file's bytes.

        Raises:
            BundleError: they are not an ONNX model.
        """
        try:
            return _read_model(memoryview(data))
        except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
            raise BundleError(
                f"The graph cannot be read: {error}",
                hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
            ) from error

    def external(self) -> dict[str, ExternalTensor]:
        """The initializers that lie in other files: where each of them lies."""
        return dict(found for entry in self._carried if (found := _external_of(entry)))

    def take_external(self) -> dict[str, ExternalTensor]:
        """Make inputs of the initializers that lie in other files; returns where each of them lies."""
        taken = self.external()
        self._carried = [entry for entry in self._carried if not _external_of(entry)]
        self.inputs.extend(Value(name, tensor.dtype, tensor.shape) for name, tensor in taken.items())
        return taken

    def forget_inner_shapes(self) -> None:
        """Leave out what the file says of inner values' shapes: whoever opens it infers them anew."""
        self._carried = [entry for entry in self._carried if entry[0] != 13]

    def write(self) -> bytes:
        """The ONNX file's bytes."""
        graph = b"".join(
            [
                *(_block(1, _node_bytes(node)) for node in self.nodes),
                _block(2, self.name.encode()),
                *(_block(5, _tensor_bytes(name, array)) for name, array in self.constants.items()),
                *(_block(11, _value_bytes(value)) for value in self.inputs),
                *(_block(12, _value_bytes(value)) for value in self.outputs),
                *(_field_bytes(entry) for entry in self._carried),
            ]
        )
        opsets = [
            _block(8, _block(1, domain.encode()) + _number(2, version))
            for domain, version in self.opsets.items()
        ]
        model = self._carried_model or [(1, _VARINT, 10), (2, _LENGTH, b"riffusion-rt")]
        return b"".join([*(_field_bytes(entry) for entry in model), _block(7, graph), *opsets])


def _read_model(data: memoryview) -> Graph:
    graph = Graph("", [], [], [], {})
    body: memoryview | None = None
    for entry in _fields(data):
        number, _, value = entry
        if number == 7:
            body = value
        elif number == 8:
            parts = {kind: part for kind, _, part in _fields(value)}
            graph.opsets[_text(parts.get(1, b""))] = parts.get(2, 1)
        else:
            graph._carried_model.append(entry)
    if body is None:
        raise ValueError("it holds no graph")
    for entry in _fields(body):
        number, _, value = entry
        if number == 1:
            graph.nodes.append(_read_node(value))
        elif number == 2:
            graph.name = _text(value)
        elif number in (11, 12):
            (graph.inputs if number == 11 else graph.outputs).append(_read_value(value))
        else:
            graph._carried.append(entry)
            if number == 5:
                name, dims, array = _read_tensor(value)
                graph.shapes[name], graph.stored[name] = dims, array
            elif number == 13:
                inner = _read_value(value)
                graph.shapes[inner.name] = inner.shape
    graph.shapes.update({value.name: value.shape for value in (*graph.inputs, *graph.outputs)})
    return graph


def _read_node(data: memoryview) -> Node:
    node = Node("", [], [])
    for number, _, value in _fields(data):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 3:
            node.name = _text(value)
        elif number == 4:
            node.op_type = _text(value)
        elif number == 5:
            name, attribute = _read_attribute(value)
            node.attributes[name] = attribute
        elif number == 7:
            node.domain = _text(value)
    return node


def _read_attribute(data: memoryview) -> tuple[str, Attribute]:
    name, kind = "", 0
    integers: list[int] = []
    single: dict[int, Any] = {}
    for number, wire, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 20:
            kind = value
        elif number == 8:
            integers.extend([value] if wire == _VARINT else _varints(value))
        else:
            single[number] = value
    if kind == _INT:
        return name, _signed(single.get(3, 0))
    if kind == _INTS:
        return name, [_signed(integer) for integer in integers]
    if kind == _FLOAT:
        return name, float(struct.unpack("<f", single.get(2, bytes(4)))[0])
    if kind == _STRING:
        return name, _text(single.get(4, b""))
    return name, bytes(data)


def _read_value(data: memoryview) -> Value:
    name, dtype, shape = "", "float32", []
    names = {number: name for name, number in ELEMENT_TYPES.items()}
    for number, _, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor = next((part for kind, _, part in _fields(value) if kind == 1), b"")
            for kind, _, part in _fields(memoryview(tensor)):
                if kind == 1:
                    dtype = names.get(part, str(part))
                elif kind == 2:
                    shape = [_read_size(size) for _, _, size in _fields(part)]
    return Value(name, dtype, tuple(shape))


def _read_size(data: memoryview) -> int | str:
    for number, _, value in _fields(data):
        return int(value) if number == 1 else _text(value)
    return "?"


def _read_tensor(data: memoryview) -> tuple[str, tuple[int, ...], NDArray[Any] | None]:
    name, dims, dtype = _tensor_head(data)
    raw = None
    for number, _, value in _fields(data):
        if number == 9:
            raw = value
    array = None if raw is None or dtype is None else np.frombuffer(raw, dtype).reshape(dims)
    return name, dims, array


def _read_external(data: memoryview) -> tuple[str, ExternalTensor] | None:
    """Name and place of a tensor; None where its bytes are in the graph's own file, or its type is not known here."""
    name, dims, dtype = _tensor_head(data)
    place: dict[str, str] = {}
    for number, _, value in _fields(data):
        if number == 13:
            pair = {part: text for part, _, text in _fields(value)}
            place[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
    if dtype is None or not {"location", "length"} <= place.keys():
        return None
    where = place["location"], int(place.get("offset", "0")), int(place["length"])
    return name, ExternalTensor(*where, dtype, dims)


def _external_of(entry: _Field) -> tuple[str, ExternalTensor] | None:
    """What ``_read_external`` says of one field of a graph, if that is an initializer."""
    return _read_external(entry[2]) if entry[0] == 5 else None


def _tensor_head(data: memoryview) -> tuple[str, tuple[int, ...], str | None]:
    """A tensor's name, shape and type, None for one that is not known here."""
    dims: list[int] = []
    name, kind = "", 0
    for number, wire, value in _fields(data):
        if number == 1:
            dims.extend([value] if wire == _VARINT else _varints(value))
        elif number == 2:
            kind = value
        elif number == 8:
            name = _text(value)
    return name, tuple(dims), next((each for each, code in ELEMENT_TYPES.items() if code == kind), None)


def _fields(data: memoryview) -> Iterator[_Field]:
    """Every field of a message: its number, its wire type, and an integer or the bytes."""
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _LENGTH:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} is unknown")
        if at + size > len(data):
            raise ValueError("it ends too early")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("an integer is too long")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(data: memoryview | bytes) -> str:
    return bytes(data).decode()


def _encoded(value: int) -> bytes:
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(number: int, value: int) -> bytes:
    return _encoded(number << 3 | _VARINT) + _encoded(value)


def _block(number: int, data: bytes | memoryview) -> bytes:
    return b"".join((_encoded(number << 3 | _LENGTH), _encoded(len(data)), data))


def _field_bytes(entry: _Field) -> bytes:
    number, wire, value = entry
    if wire == _VARINT:
        return _number(number, value)
    return _block(number, value) if wire == _LENGTH else _encoded(number << 3 | wire) + bytes(value)


def _node_bytes(node: Node) -> bytes:
    parts: Iterable[bytes] = (
        *(_block(1, name.encode()) for name in node.inputs),
        *(_block(2, name.encode()) for name in node.outputs),
        _block(3, node.name.encode()),
        _block(4, node.op_type.encode()),
        *(_block(5, _attribute_bytes(name, value)) for name, value in node.attributes.items()),
        _block(7, node.domain.encode()),
    )
    return b"".join(parts)


def _attribute_bytes(name: str, value: Attribute) -> bytes:
    if isinstance(value, bytes):
        return value
    head = _block(1, name.encode())
    if isinstance(value, int):
        return head + _number(3, value) + _number(20, _INT)
    if isinstance(value, float):
        return head + _encoded(2 << 3 | _FIXED32) + struct.pack("<f", value) + _number(20, _FLOAT)
    if isinstance(value, str):
        return head + _block(4, value.encode()) + _number(20, _STRING)
    return head + b"".join(_number(8, integer) for integer in value) + _number(20, _INTS)


def _value_bytes(value: Value) -> bytes:
    sizes = (
        _block(1, _number(1, size) if isinstance(size, int) else _block(2, size.encode()))
        for size in value.shape
    )
    tensor = _number(1, ELEMENT_TYPES[value.dtype]) + _block(2, b"".join(sizes))
    return _block(1, value.name.encode()) + _block(2, _block(1, tensor))


def _tensor_bytes(name: str, array: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    kind = _number(2, ELEMENT_TYPES[array.dtype.name])
    return dims + kind + _block(8, name.encode()) + _block(9, np.ascontiguousarray(array).tobytes())
