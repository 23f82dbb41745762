"""A graph with GroupNormalization in, the same graph with InstanceNormalization out, for backends that lack the former.

ONNX Runtime has no kernel for GroupNormalization, on the CPU or on CUDA: it inlines the operator's reference function,
some twenty nodes whose variance is E[x²] − E[x]². Where a channel's mean is large beside its deviation, as in small
autoencoders, that loses half of float32's digits. InstanceNormalization has kernels in every backend, which subtract
the mean before they square; over a view of (batch, groups, rest) it is the same normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def as_instance_norms(graph: ir.Graph) -> int:
    """Rewrite every GroupNormalization of ``graph`` in place; returns how many there were.

    Each becomes Reshape, InstanceNormalization, Reshape, Mul, Add; where every channel is a group of its own, one
    InstanceNormalization. Inputs are (batch, channels, …) with all but the batch known.
    """
    norms = [node for node in graph if node.op_type == "GroupNormalization"]
    for index, node in enumerate(norms):
        _rewrite(graph, node, f"{node.name or 'group_norm'}_{index}")
    return len(norms)


def _rewrite(graph: ir.Graph, node: ir.Node, name: str) -> None:
    source, weight, bias = node.inputs
    result = node.outputs[0]
    assert source is not None and weight is not None and bias is not None
    assert source.shape is not None and source.dtype is not None
    groups, epsilon = node.attributes["num_groups"].as_int(), node.attributes["epsilon"].as_float()
    dtype = ir.TensorType(source.dtype)
    channels, *rest = (size for size in source.shape[1:] if isinstance(size, int))
    nodes: list[ir.Node] = []

    def add(
        operator: str, inputs: list[ir.Value], shape: Sequence[int | ir.SymbolicDim], **attributes: float
    ) -> ir.Value:
        made = ir.node(operator, inputs, attributes)
        nodes.append(made)
        value = made.outputs[0]
        value.name, value.shape, value.type = f"{name}_{len(nodes)}", ir.Shape(shape), dtype
        return value

    batch, whole = source.shape[0], [source.shape[0], channels, *rest]
    if groups == channels:
        last = add("InstanceNormalization", [source, weight, bias], whole, epsilon=epsilon)
    else:
        size = channels // groups * int(np.prod(rest))
        ones = _constant(graph, f"group_scale_{groups}", np.ones(groups, source.dtype.numpy()))
        zeros = _constant(graph, f"group_bias_{groups}", np.zeros(groups, source.dtype.numpy()))
        grouped = add("Reshape", [source, _sizes(graph, 0, groups, -1)], [batch, groups, size])
        normal = add("InstanceNormalization", [grouped, ones, zeros], [batch, groups, size], epsilon=epsilon)
        spread = add("Reshape", [normal, _sizes(graph, 0, channels, *rest)], whole)
        per_channel = [channels, *(1 for _ in rest)]
        scale = add("Reshape", [weight, _sizes(graph, *per_channel)], list(per_channel))
        shift = add("Reshape", [bias, _sizes(graph, *per_channel)], list(per_channel))
        last = add("Add", [add("Mul", [spread, scale], whole), shift], whole)
    graph.insert_before(node, nodes)
    kept = result.name
    ir.convenience.replace_all_uses_with(result, last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    last.name = kept


def _sizes(graph: ir.Graph, *sizes: int) -> ir.Value:
    return _constant(graph, "shape_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
    return graph.initializers[name]
