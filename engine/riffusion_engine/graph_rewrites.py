"""A bundle's standard graph in, the same function in operators that ONNX Runtime has faster kernels for out.

The bundle stays as every backend reads it; a session rewrites what it opens. Each rewrite finds the shape in which the
export leaves an operator, and leaves alone what looks different.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from riffusion_engine.graph_bytes import Graph, Node

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
_HEADS_BEFORE_TOKENS = [0, 2, 1, 3]
_CHANNELS_LAST, _CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def fuse_attention(graph: Graph) -> int:
    """Make each Attention over split heads a MultiHeadAttention over whole rows, in place; returns how many.

    The projections come as (batch, tokens, heads * width), are reshaped to (batch, tokens, heads, width) and transposed
    for Attention, and back after it. All that moving is inside the kernel then, which need not write out the scores.
    """
    made, readers = _makers(graph), _readers(graph)
    fused: dict[int, Node] = {}
    for index, node in enumerate(graph.nodes):
        if node.op_type != "Attention" or len(node.inputs) != 3 or node.attributes.get("is_causal"):
            continue
        rows = [_unsplit(graph, made, name) for name in node.inputs]
        back = _only_reader(readers, node.outputs[0])
        flat = back and _only_reader(readers, back.outputs[0])
        heads = graph.shapes.get(node.inputs[0], ())
        if not all(rows) or not back or not flat or len(heads) != 4 or not isinstance(heads[1], int):
            continue
        if back.attributes.get("perm") != _HEADS_BEFORE_TOKENS or flat.op_type != "Reshape":
            continue
        attributes = {"num_heads": heads[1]}
        if "scale" in node.attributes:
            attributes["scale"] = node.attributes["scale"]  # type: ignore[assignment]
        name = f"{node.name or 'attention'}_fused"
        fused[index] = Node(
            "MultiHeadAttention", [row for row in rows if row], flat.outputs, {**attributes}, CONTRIB, name
        )
        flat.op_type = ""
    graph.nodes = [fused.get(index, node) for index, node in enumerate(graph.nodes) if node.op_type]
    return _finish(graph, len(fused))


def fuse_group_norms(graph: Graph) -> int:
    """Make each GroupNormalization, with the SiLU that may follow, one channels-last GroupNorm; returns how many.

    ONNX Runtime has that kernel for CUDA alone. The transposes on both sides meet those that channels-last convolutions
    bring (``CudaSettings.channels_last``) and cancel.
    """
    readers, nodes, gone = _readers(graph), [], set[int]()
    count = 0
    for node in graph.nodes:
        if id(node) in gone:
            continue
        if node.op_type != "GroupNormalization":
            nodes.append(node)
            continue
        silu = _silu(readers, node.outputs[0])
        gone |= {id(part) for part in silu}
        last, first = f"{node.outputs[0]}_channels_last", f"{node.outputs[0]}_normal"
        attributes = {
            "groups": node.attributes["num_groups"],
            "epsilon": node.attributes["epsilon"],
            "channels_last": 1,
            "activation": int(bool(silu)),
        }
        result = silu[-1].outputs[0] if silu else node.outputs[0]
        nodes += [
            Node("Transpose", [node.inputs[0]], [last], {"perm": _CHANNELS_LAST}, name=f"{last}_in"),
            Node("GroupNorm", [last, *node.inputs[1:]], [first], attributes, CONTRIB, f"{first}_fused"),
            Node("Transpose", [first], [result], {"perm": _CHANNELS_FIRST}, name=f"{first}_out"),
        ]
        count += 1
    graph.nodes = nodes
    return _finish(graph, count)


def split_gated_units(graph: Graph) -> int:
    """Make each GEGLU (arXiv 2002.05202) two products rather than one that is cut in two, in place; returns how many.

    The cut copies the widest values of a transformer block; weights are cut once, when the graph is opened. ONNX
    Runtime adds the gate's bias and applies GELU in one operator.
    """
    made, readers = _makers(graph), _readers(graph)
    nodes: list[Node] = []
    gone: set[int] = set()
    count = 0
    for node in graph.nodes:
        found = _gated_unit(graph, made, readers, node)
        if found is None:
            nodes.append(node)
            continue
        product, biased, gelu = found
        (value, gate), stem = node.outputs, node.outputs[0]
        weights, biases = ([f"{stem}_{kind}_{i}" for i in (0, 1)] for kind in ("weights", "biases"))
        halves = {"num_outputs": 2}
        nodes += [
            Node("Split", [product.inputs[1]], weights, {"axis": 1, **halves}, name=f"{stem}_weights"),
            Node("Split", [biased.inputs[1]], biases, {"axis": 0, **halves}, name=f"{stem}_biases"),
            Node("MatMul", [product.inputs[0], weights[0]], [f"{value}_product"], name=f"{value}_product"),
            Node("Add", [f"{value}_product", biases[0]], [value], name=f"{value}_biased"),
            Node("MatMul", [product.inputs[0], weights[1]], [f"{gate}_product"], name=f"{gate}_product"),
            Node("BiasGelu", [f"{gate}_product", biases[1]], gelu.outputs, {}, CONTRIB, f"{gate}_gelu"),
        ]
        gone.add(id(gelu))
        count += 1
    graph.nodes = [node for node in nodes if id(node) not in gone]
    return _finish(graph, count)


def _gated_unit(
    graph: Graph, made: dict[str, Node], readers: dict[str, list[Node]], node: Node
) -> tuple[Node, Node, Node] | None:
    """The product, the addition of its bias and the GELU around a Split that cuts a GEGLU's two halves apart."""
    if node.op_type != "Split" or len(node.outputs) != 2 or len(node.inputs) != 1:
        return None
    if node.attributes.get("axis", 0) not in (-1, len(graph.shapes.get(node.inputs[0], ())) - 1):
        return None
    biased, gelu = made.get(node.inputs[0]), _only_reader(readers, node.outputs[1])
    product = made.get(biased.inputs[0]) if biased and biased.op_type == "Add" else None
    if biased is None or product is None or product.op_type != "MatMul":
        return None
    if gelu is None or gelu.op_type != "Gelu" or gelu.attributes.get("approximate", "none") != "none":
        return None
    alone = (
        _only_reader(readers, product.outputs[0]) is biased and _only_reader(readers, node.inputs[0]) is node
    )
    return (product, biased, gelu) if alone else None


def drop_unread(graph: Graph) -> None:
    """Drop the nodes whose results nobody reads."""
    read = Counter(name for node in graph.nodes for name in node.inputs)
    read.update(value.name for value in graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(read[name] for name in node.outputs):
            kept.append(node)
        else:
            read.subtract(node.inputs)
    graph.nodes = kept[::-1]


def _finish(graph: Graph, count: int) -> int:
    if count:
        graph.opsets.setdefault(CONTRIB, 1)
    drop_unread(graph)
    return count


def _unsplit(graph: Graph, made: dict[str, Node], name: str) -> str | None:
    """The rows of which ``name`` is the split and transposed form."""
    turned = made.get(name)
    if (
        turned is None
        or turned.op_type != "Transpose"
        or turned.attributes.get("perm") != _HEADS_BEFORE_TOKENS
    ):
        return None
    split = made.get(turned.inputs[0])
    if split is None or split.op_type != "Reshape":
        return None
    rows, heads = graph.shapes.get(split.inputs[0], ()), graph.shapes.get(name, ())
    if len(rows) != 3 or len(heads) != 4 or not isinstance(heads[1], int) or not isinstance(heads[3], int):
        return None
    return split.inputs[0] if rows[2] == heads[1] * heads[3] else None


def _silu(readers: dict[str, list[Node]], name: str) -> list[Node]:
    """The nodes of x * sigmoid(x) where they are all that reads x."""
    reading = readers.get(name, [])
    if sorted(node.op_type for node in reading) != ["Mul", "Sigmoid"]:
        return []
    gate, product = sorted(reading, key=lambda node: node.op_type, reverse=True)
    if (
        sorted(product.inputs) != sorted([name, gate.outputs[0]])
        or len(readers.get(gate.outputs[0], [])) != 1
    ):
        return []
    return [gate, product]


def _makers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.outputs}


def _readers(graph: Graph) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {value.name: [_RESULT] for value in graph.outputs}
    for node in graph.nodes:
        for name in np.unique(node.inputs).tolist():
            readers.setdefault(name, []).append(node)
    return readers


def _only_reader(readers: dict[str, list[Node]], name: str) -> Node | None:
    reading = readers.get(name, [])
    return reading[0] if len(reading) == 1 and reading[0] is not _RESULT else None


_RESULT = Node("", [], [])
"""Stands for the caller, who reads a graph's outputs."""
