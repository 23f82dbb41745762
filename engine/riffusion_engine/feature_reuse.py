"""A UNet's graph in, two out: one that also hands out its deep features, and a small one that takes them as given.

From one denoising step to the next the deep layers of a UNet change little. DeepCache (arXiv 2312.00858) computes them
at every n-th step only and, between, just the last layers and what those need of the first: here the last ``layers``
of the last block of the way up, which join the skip connections of the first layers of the way down.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from riffusion_engine.errors import BundleError
from riffusion_engine.graph_bytes import Graph, Node, Value
from riffusion_engine.manifest import GraphSpec, TensorSpec

DEEP_FEATURES = "deep_features"
"""The tensor that one graph gives and the other takes."""

_CHANNELS_AXIS = 1


def with_deep_features(graph: Graph, layers: int = 1) -> Graph:
    """The same graph with one output more: the features that enter its last ``layers`` layers.

    Raises:
        BundleError: the graph has no such layers.
    """
    cut = _cut(graph, layers)
    whole = copy.copy(graph)
    whole.nodes = [*graph.nodes, Node("Identity", [cut.name], [DEEP_FEATURES], name=DEEP_FEATURES)]
    whole.outputs = [*graph.outputs, replace(cut, name=DEEP_FEATURES)]
    return whole


def from_deep_features(graph: Graph, layers: int = 1) -> Graph:
    """The last ``layers`` layers and what else they need, with the deep features as one input more.

    Raises:
        BundleError: the graph has no such layers.
    """
    cut = _cut(graph, layers)
    shallow = copy.copy(graph)
    renamed = [
        replace(node, inputs=[DEEP_FEATURES if name == cut.name else name for name in node.inputs])
        for node in graph.nodes
    ]
    shallow.nodes = _needed(renamed, {output.name for output in graph.outputs})
    shallow.inputs = [*graph.inputs, replace(cut, name=DEEP_FEATURES)]
    return shallow


def reuse_specs(spec: GraphSpec, graph: Graph, layers: int = 1) -> tuple[GraphSpec, GraphSpec]:
    """What the two graphs take and give, where the whole one is ``spec``."""
    import msgspec

    cut = _cut(graph, layers)
    # A device may name the batch otherwise inside a graph; the manifest's name ties it to the other inputs.
    batch = spec.inputs[0].shape[0]
    deep = TensorSpec(name=DEEP_FEATURES, dtype=cut.dtype, shape=(batch, *cut.shape[1:]))
    return (
        msgspec.structs.replace(spec, outputs=(*spec.outputs, deep)),
        msgspec.structs.replace(spec, inputs=(*spec.inputs, deep)),
    )


def _cut(graph: Graph, layers: int) -> Value:
    """The tensor that meets the skip connection before the last ``layers`` layers."""
    joints = [
        node
        for node in graph.nodes
        if node.op_type == "Concat"
        and len(node.inputs) == 2
        and node.attributes.get("axis") in (_CHANNELS_AXIS, _CHANNELS_AXIS - 4)
        and len(graph.shapes.get(node.inputs[0], ())) == 4
    ]
    if not 1 <= layers < len(joints):
        raise BundleError(
            f"The UNet has no {layers} last layers whose deep features could be used again",
            hint="Leave --reuse out for this model",
        )
    name = joints[-layers].inputs[0]
    sample = graph.inputs[0]
    shape: tuple[Any, ...] = graph.shapes[name]
    return Value(name, sample.dtype, (sample.shape[0], *shape[1:]))


def _needed(nodes: list[Node], wanted: set[str]) -> list[Node]:
    """The nodes that the wanted values depend on, in their order."""
    wanted = set(wanted)
    kept: list[Node] = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]
