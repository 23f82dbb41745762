"""A graph with 3×3 convolutions in, the same ones with fewer multiplications out, for CPUs that run at their limit.

ONNX Runtime's direct convolution already reaches a CPU's peak rate, so only fewer operations can be faster. Winograd's
minimal filtering (arXiv 1509.09308) computes an m×m tile of outputs from (m + 2)×(m + 2) products instead of 9 m²: 2.25
times fewer for m = 2, 4 times for m = 4, paid with transforms around them and with weights 16/9 or 4 times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.graph_bytes import Attribute, Graph, Node, Value
from riffusion_engine.graph_rewrites import CONTRIB, drop_unread

# The transforms of arXiv 1509.09308, sections 4.1 (m = 2) and 4.2 (m = 4), for interpolation points 0, ±1 (and ±2).
_DATA = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_FILTER = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}

CELLS_FOR_LARGE_TILES = 256
"""From here on 4×4 tiles are worth weights four times as large: with fewer, products have too few columns."""


Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Least:
    """The smallest convolution that is filtered minimally: with less, transforms and larger weights cost too much."""

    channels: int
    """Of inputs and of outputs."""
    cells: int
    """Rows times columns."""


LARGE_GRAPHS_LEAST = Least(channels=256, cells=64)
"""Measured on Stable Diffusion's UNet, whose convolutions all lie in one layout then."""
SMALL_GRAPHS_LEAST = Least(channels=128, cells=CELLS_FOR_LARGE_TILES)
"""Measured on riffusion-mini's UNet, whose other convolutions keep ONNX Runtime's own layout: a guided step takes 37 ms
instead of 43 on two cores of an AMD EPYC with AVX-512. Of its decoder, whose wide layers have few channels, nothing
can be gained."""


def filter_minimally(
    graph: Graph, read: Callable[[str], NDArray[Any] | None], least: Least = LARGE_GRAPHS_LEAST
) -> Weights:
    """Rewrite in place the 3×3 convolutions that are large enough to gain from it.

    Args:
        graph: is rewritten.
        read: the values of a constant by its name, None if it is none that can be read; then its convolution stays.
        least: what is smaller stays as it is.

    Returns:
        The transformed weights, which are inputs of the graph now, by name. They are transformed here: an optimizer
        that does it step by step holds each step of all of them at once.
    """
    nodes: list[Node] = []
    fed: Weights = {}
    for node in graph.nodes:
        tile = _tile(graph, node, least)
        values = read(node.inputs[1]) if tile else None
        if values is None:
            nodes.append(node)
            continue
        weight = f"{node.outputs[0]}_minimal_weight"
        fed[weight] = _spread(values, tile)
        graph.inputs.append(Value(weight, "float32", fed[weight].shape))
        nodes += _minimal(graph, node, tile, weight)
    graph.nodes = nodes
    if fed:
        graph.opsets.setdefault(CONTRIB, 1)
        drop_unread(graph)
    return fed


def _spread(weight: NDArray[Any], tile: int) -> NDArray[np.float32]:
    """Weights (outputs, inputs, 3, 3) as those of a tile's points: float32 (1, points, outputs, inputs)."""
    outputs, inputs = weight.shape[:2]
    kernel = np.array(_FILTER[tile], np.float64)
    taps = np.ascontiguousarray(weight.transpose(2, 3, 0, 1).reshape(9, -1), np.float32)
    spread: NDArray[np.float32] = np.kron(kernel, kernel).astype(np.float32) @ taps
    return spread.reshape(1, -1, outputs, inputs)


def _tile(graph: Graph, node: Node, least: Least) -> int:
    """Outputs to a tile's side, 0 for a node that stays."""
    wanted: dict[str, list[int]] = {
        "pads": [1] * 4,
        "strides": [1, 1],
        "kernel_shape": [3, 3],
        "dilations": [1, 1],
    }
    if node.op_type != "Conv" or node.attributes.get("group", 1) != 1 or len(node.inputs) != 3:
        return 0
    if any(node.attributes.get(name, value) != value for name, value in wanted.items()):
        return 0
    source, weight = graph.shapes.get(node.inputs[0], ()), graph.shapes.get(node.inputs[1], ())
    if (
        len(source) != 4
        or len(weight) != 4
        or not all(isinstance(size, int) for size in (*source[1:], *weight))
    ):
        return 0
    height, width = int(source[2]), int(source[3])
    if min(int(size) for size in weight[:2]) < least.channels or height * width < least.cells:
        return 0
    tile = 4 if height * width >= CELLS_FOR_LARGE_TILES else 2
    return tile if height % tile == 0 and width % tile == 0 else 0


def _minimal(graph: Graph, node: Node, tile: int, weight: str) -> list[Node]:
    data, output = (np.array(table[tile], np.float64) for table in (_DATA, _OUTPUT))
    side, points = len(data), len(data) ** 2
    inputs, height, width = (int(size) for size in graph.shapes[node.inputs[0]][1:])
    outputs = int(graph.shapes[node.inputs[1]][0])
    rows, columns = height // tile, width // tile
    nodes: list[Node] = []
    stem = node.outputs[0]

    def add(operator: str, names: list[str], **attributes: Attribute) -> str:
        last = f"{stem}_minimal_{len(nodes)}"
        nodes.append(Node(operator, names, [last], attributes, name=last))
        return last

    def shaped(name: str, *sizes: int) -> str:
        return add("Reshape", [name, _sizes(graph, sizes)])

    # Tiles overlap by two cells: a strided convolution of every plane by itself cuts and transforms them at once.
    planes = shaped(add("Transpose", [node.inputs[0]], perm=[1, 0, 2, 3]), -1, 1, height, width)
    cut = _table(graph, f"minimal_data_{tile}", np.kron(data, data).reshape(points, 1, side, side))
    moved = add(
        "Conv", [planes, cut], strides=[tile, tile], pads=[1, 1, 1, 1], kernel_shape=[side, side], group=1
    )
    tiles = shaped(moved, inputs, -1, points, rows * columns)
    # The product reads (inputs, batch, points, cells) as matrices of inputs by cells where they lie: nothing is moved.
    products = add("FusedMatMul", [weight, tiles], transBatchB=1)
    nodes[-1].domain = CONTRIB
    back = _table(graph, f"minimal_output_{tile}", np.kron(output, output))
    cells = add("MatMul", [back, shaped(products, -1, points, outputs * rows * columns)])
    deep = shaped(cells, -1, tile * tile * outputs, rows, columns)
    plane = add("DepthToSpace", [deep], blocksize=tile, mode="DCR")
    bias = shaped(node.inputs[2], outputs, 1, 1)
    nodes.append(Node("Add", [plane, bias], node.outputs, name=f"{stem}_minimal"))
    return nodes


def _sizes(graph: Graph, sizes: Sequence[int]) -> str:
    name = "minimal_sizes_" + "_".join(str(size) for size in sizes)
    graph.constants.setdefault(name, np.array(sizes, np.int64))
    return name


def _table(graph: Graph, name: str, values: NDArray[np.floating[Any]]) -> str:
    graph.constants.setdefault(name, values.astype(np.float32))
    return name
