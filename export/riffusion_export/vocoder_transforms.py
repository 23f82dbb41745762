"""Frames of a fixed length enter as tensors of a graph; their discrete Fourier transforms leave, and back again.

Standard ONNX operators have a DFT, but runtimes lack it or run it slowly. Written as two small matrix products with a
rotation between them (Cooley and Tukey) it runs wherever a matrix product does. With ``N = N1 N2``, sample
``n = N2 n1 + n2`` and bin ``k = k1 + N1 k2``:

    X[k] = Σ_n2 W(N2)^(n2 k2) · W(N)^(n2 k1) · Σ_n1 x[n] W(N1)^(n1 k1)

A real signal needs only rows ``k1 = 0 .. N1 // 2``: row ``N1 - k1`` holds the conjugates of row ``k1``. The bins
stay in that order, ``(rows, N2)``, as nothing in the loop minds their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# What is this much smaller than the greatest entry of its column counts for nothing, seen in float32.
NEGLIGIBLE = 1e-7
# Columns of a banded matrix that are multiplied at once: about as many as rows count there.
BLOCK_COLUMNS = 64


@dataclass
class GraphText:
    """Nodes and constants of a graph under construction."""

    round_products_to: str | None = None
    """``"tf32"`` or ``"fp16"`` rounds what enters matrix products, to show on a CPU what a GPU's modes cost."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    known: dict[bytes, str] = field(default_factory=dict)
    prefix: str = ""

    def body(self, prefix: str) -> GraphText:
        """The text of a subgraph that sees this graph's constants."""
        return GraphText(self.round_products_to, [], self.constants, self.known, prefix)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node of one output; its name."""
        name = f"{self.prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def named(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        """Add a node whose one output has this name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        """Add an initializer, or find the same one; its name."""
        array = np.asarray(value, dtype)
        key = repr((array.dtype.str, array.shape)).encode() + array.tobytes()
        if key not in self.known:
            self.known[key] = f"constant_{len(self.known)}"
            self.constants[self.known[key]] = numpy_helper.from_array(array, self.known[key])
        return self.known[key]

    def shape(self, *sizes: int) -> str:
        """A shape for ``Reshape``: 0 keeps an axis, -1 is what is left."""
        return self.constant(sizes, np.int64)

    def cut(self, tensor: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """A slice along one axis."""
        bounds = (self.constant([bound], np.int64) for bound in (start, stop, axis, step))
        return self.op("Slice", tensor, *bounds)

    def product(self, left: str, right: str) -> str:
        """A matrix product."""
        return self.op("MatMul", self._rounded(left), self._rounded(right))

    def banded_product(self, left: str, matrix: NDArray[np.floating]) -> str:
        """The product ``(..., rows) x (rows, columns)`` with a constant that is all but zero far from a diagonal.

        It is cut into blocks of columns, each over the rows that count there: a tenth of the constant and of the work.
        """
        kept = np.where(np.abs(matrix) > NEGLIGIBLE * np.abs(matrix).max(axis=0), matrix, 0)
        parts = []
        for start in range(0, matrix.shape[1], BLOCK_COLUMNS):
            block = kept[:, start : start + BLOCK_COLUMNS]
            counting = np.flatnonzero(block.any(axis=1))
            first, last = (int(counting[0]), int(counting[-1]) + 1) if len(counting) else (0, 1)
            parts.append(self.product(self.cut(left, 2, first, last), self.constant(block[first:last])))
        return self.op("Concat", *parts, axis=2)

    def repeating_rows(self, matrix: NDArray[np.floating]) -> str:
        """A constant matrix whose rows are mostly the same, each different row kept once."""
        different, places = np.unique(matrix.astype(np.float32), axis=0, return_inverse=True)
        if len(different) == 1:
            return self.constant(different)
        return self.op(
            "Gather", self.constant(different), self.constant(places.reshape(-1), np.int64), axis=0
        )

    def _rounded(self, tensor: str) -> str:
        if self.round_products_to == "fp16":
            half = self.op("Cast", tensor, to=TensorProto.FLOAT16)
            return self.op("Cast", half, to=TensorProto.FLOAT)
        if self.round_products_to == "tf32":
            # Dekker's splitting: what survives x (2¹³ + 1) minus itself is x with 11 significant bits.
            scaled = self.op("Mul", tensor, self.constant(2.0**13 + 1))
            return self.op("Sub", scaled, self.op("Sub", scaled, tensor))
        return tensor


@dataclass(frozen=True)
class HalfTransform:
    """Transforms of ``points`` points of real frames that fill only the first ``length`` of them."""

    length: int
    points: int

    @property
    def inner(self) -> int:
        """N2: the points of the second product."""
        divisors = [d for d in range(1, self.length + 1) if self.length % d == 0]
        return min(divisors, key=self._work)

    @property
    def outer(self) -> int:
        """N1: the points of the first product."""
        return self.points // self.inner

    @property
    def rows(self) -> int:
        """Rows of bins that a real frame needs."""
        return self.outer // 2 + 1

    def bins(self) -> NDArray[np.intp]:
        """The bin ``0 .. points / 2`` whose magnitude stands at each place; shape ``(rows, inner)``."""
        bins = np.arange(self.rows)[:, None] + self.outer * np.arange(self.inner)
        mirrored: NDArray[np.intp] = np.minimum(bins, self.points - bins)
        return mirrored

    def conjugate(self) -> NDArray[np.bool_]:
        """Whether that place holds the bin's conjugate."""
        bins = np.arange(self.rows)[:, None] + self.outer * np.arange(self.inner)
        return bins > self.points // 2

    def forward(self, graph: GraphText, frames: str) -> str:
        """``(..., length)`` to ``(..., rows, 2 inner)``: real parts, then imaginary parts."""
        used = self.length // self.inner
        first = _turns(np.outer(np.arange(self.rows), np.arange(used)) / self.outer, -1)
        grid = graph.op("Reshape", frames, graph.shape(0, 0, used, self.inner))
        real = graph.product(graph.constant(first.real), grid)
        imaginary = graph.product(graph.constant(first.imag), grid)
        second = _turns(np.outer(np.arange(self.inner), np.arange(self.inner)) / self.inner, -1)
        return graph.product(
            _rotated(graph, real, imaginary, self._twiddle(-1)), graph.constant(_pairs(second))
        )

    def backward(self, graph: GraphText, spectra: str) -> str:
        """``(..., rows, 2 inner)`` to the first ``length`` samples ``(..., length)``."""
        second = _turns(np.outer(np.arange(self.inner), np.arange(self.inner)) / self.inner, 1)
        mixed = graph.product(spectra, graph.constant(_pairs(second)))
        real = graph.cut(mixed, 3, 0, self.inner)
        imaginary = graph.cut(mixed, 3, self.inner, 2 * self.inner)
        turned = _rotated(graph, real, imaginary, self._twiddle(1), axis=2)
        weight = np.full(self.rows, 2.0)
        weight[0] = 1
        if self.outer % 2 == 0:
            weight[-1] = 1
        used = self.length // self.inner
        last = _turns(np.outer(np.arange(used), np.arange(self.rows)) / self.outer, 1) * weight / self.points
        frames = graph.product(graph.constant(np.concatenate([last.real, -last.imag], axis=1)), turned)
        return graph.op("Reshape", frames, graph.shape(0, 0, self.length))

    def _twiddle(self, sign: int) -> NDArray[np.complex128]:
        return _turns(np.outer(np.arange(self.rows), np.arange(self.inner)) / self.points, sign)

    def _work(self, inner: int) -> float:
        used, outer = self.length // inner, self.points // inner
        rows = outer // 2 + 1
        return 2 * rows * used * inner + 4 * rows * inner * inner


@dataclass(frozen=True)
class NaturalSynthesis:
    """Real frames of ``points`` samples from their lowest ``bins`` bins in natural order; the others are zero."""

    points: int
    bins: int

    @property
    def outer(self) -> int:
        """N1: bins in a row."""
        divisors = [d for d in range(1, self.points + 1) if self.points % d == 0]
        return min(divisors, key=self._work)

    @property
    def padded(self) -> int:
        """Bins that :meth:`backward` takes: whole rows."""
        return -(-self.bins // self.outer) * self.outer

    def backward(self, graph: GraphText, real: str, imaginary: str) -> str:
        """Real and imaginary parts ``(..., padded)`` to frames ``(..., points)``."""
        outer, inner, rows = self.outer, self.points // self.outer, self.padded // self.outer
        second = _turns(np.outer(np.arange(inner), np.arange(rows)) / inner, 1)
        weight = np.full((rows, outer), 2.0)
        weight[0, 0] = 1
        if self.bins > self.points // 2:
            weight.reshape(-1)[self.points // 2] = 1
        weighted = graph.constant(weight / self.points)
        parts = [
            graph.op("Mul", graph.op("Reshape", part, graph.shape(0, 0, rows, outer)), weighted)
            for part in (real, imaginary)
        ]
        stacked = graph.op("Concat", *parts, axis=2)
        upper = graph.product(graph.constant(np.concatenate([second.real, -second.imag], axis=1)), stacked)
        lower = graph.product(graph.constant(np.concatenate([second.imag, second.real], axis=1)), stacked)
        twiddle = _turns(np.outer(np.arange(inner), np.arange(outer)) / self.points, 1)
        turned = _rotated(graph, upper, lower, twiddle)
        last = _turns(np.outer(np.arange(outer), np.arange(outer)) / outer, 1)
        frames = graph.product(turned, graph.constant(np.concatenate([last.real, -last.imag], axis=0)))
        # (n2, n1) to sample N2 n1 + n2.
        ordered = graph.op("Transpose", frames, perm=[0, 1, 3, 2])
        return graph.op("Reshape", ordered, graph.shape(0, 0, self.points))

    def _work(self, outer: int) -> float:
        rows, inner = -(-self.bins // outer), self.points // outer
        return 4 * rows * inner * outer + 2 * inner * outer * outer


def _rotated(graph: GraphText, real: str, imaginary: str, by: NDArray[np.complex128], axis: int = 3) -> str:
    """The complex product with a constant, real and imaginary parts side by side along ``axis``."""
    cosine, sine = graph.constant(by.real), graph.constant(by.imag)
    turned = (
        graph.op("Sub", graph.op("Mul", real, cosine), graph.op("Mul", imaginary, sine)),
        graph.op("Add", graph.op("Mul", real, sine), graph.op("Mul", imaginary, cosine)),
    )
    return graph.op("Concat", *turned, axis=axis)


def _turns(cycles: NDArray[np.float64], sign: int) -> NDArray[np.complex128]:
    turns: NDArray[np.complex128] = np.exp(sign * 2j * np.pi * (cycles % 1))
    return turns


def _pairs(matrix: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The real matrix that does to (real, imaginary) rows what the complex one does to complex rows."""
    return np.block([[matrix.real, matrix.imag], [-matrix.imag, matrix.real]])
