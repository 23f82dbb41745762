"""A UNet's graph in, one that computes what guidance's two predictions share only once out.

Classifier-free guidance (arXiv 2207.12598) feeds every sample twice, with two prompts. Up to the first layer that reads
a prompt both computations are the same, and so is everything that depends on the timestep alone. The rewritten graph
takes each sample once and as many prompts as there are predictions: values are repeated where the prompts join.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.denoising_session import UNET_NAMES
from riffusion_engine.graph_bytes import Graph, Node, Value

SAMPLE, TIMESTEP, PROMPTS, _ = UNET_NAMES
PREDICTIONS = "predictions"
"""The batch of a rewritten graph's prompts and output: a multiple of its samples' batch."""


def share_guidance(graph: Graph) -> bool:
    """Rewrite a UNet's graph in place to take each sample once for all of its prompts; False if it cannot be done.

    Samples (n, …) and prompts (k n, …) give predictions (k n, …), the j-th of sample j mod n. Names stay as they were.
    """
    if [value.name for value in graph.inputs[:3]] != [SAMPLE, TIMESTEP, PROMPTS]:
        return False
    told, shared, counts = {PROMPTS}, {SAMPLE, TIMESTEP}, set[str]()
    early: list[Node] = []
    late: list[Node] = []
    counting: list[Node] = []
    for node in graph.nodes:
        read = set(node.inputs)
        if read & told:
            kind = told
        elif read & shared:
            kind = counts if node.op_type == "Shape" else shared
        else:
            kind = counts if read & counts else set()
        kind.update(node.outputs)
        (late if kind is told else early).append(node)
        if kind is counts:
            counting.append(node)
    joining = sorted({name for node in late for name in node.inputs} & shared)
    whole_batch = all(
        (node.attributes.get("start", 0), node.attributes.get("end")) == (0, 1)
        for node in counting
        if node.op_type == "Shape"
    )
    if not joining or not whole_batch or not told.issuperset(value.name for value in graph.outputs):
        return False
    if any(name not in graph.shapes for name in joining):
        return False
    again = [_counting_predictions(node, counts) for node in counting]
    for node in late:
        node.inputs = [
            f"{name}_repeated" if name in shared else _again(name) if name in counts else name
            for name in node.inputs
        ]
    graph.nodes = [*early, *again, *_repeats(graph, joining), *late]
    graph.inputs = [_predicting(value) if value.name == PROMPTS else value for value in graph.inputs]
    graph.outputs = [_predicting(value) for value in graph.outputs]
    graph.forget_inner_shapes()
    return True


def named_once(feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Feeds for a rewritten graph: samples that come twice, as guidance feeds them, are left once."""
    sample, timestep = feeds[SAMPLE], feeds[TIMESTEP]
    half, odd = divmod(len(sample), 2)
    if odd or not np.array_equal(sample[:half], sample[half:]):
        return feeds
    if len(timestep) > 1:
        if not np.array_equal(timestep[:half], timestep[half:]):
            return feeds
        timestep = timestep[:half]
    return {**feeds, SAMPLE: sample[:half], TIMESTEP: timestep}


def _counting_predictions(node: Node, counts: set[str]) -> Node:
    """A node that derives sizes from the samples' batch, deriving them from the prompts' batch."""
    inputs = [_again(name) if name in counts else name for name in node.inputs]
    outputs = [_again(name) for name in node.outputs]
    return dataclasses.replace(
        node, inputs=[PROMPTS] if node.op_type == "Shape" else inputs, outputs=outputs, name=_again(node.name)
    )


def _again(name: str) -> str:
    return f"{name}_of_predictions"


def _repeats(graph: Graph, names: list[str]) -> list[Node]:
    """Nodes that repeat each value along the batch until it is as long as the prompts'."""
    batch = {"start": 0, "end": 1}
    nodes = [
        Node("Shape", [PROMPTS], ["guidance_predictions"], {**batch}, name="guidance_predictions"),
        Node("Shape", [SAMPLE], ["guidance_samples"], {**batch}, name="guidance_samples"),
        Node("Div", ["guidance_predictions", "guidance_samples"], ["guidance_times"], name="guidance_times"),
    ]
    for rank in sorted({len(graph.shapes[name]) for name in names}):
        ones, times = f"guidance_ones_{rank}", f"guidance_times_{rank}"
        graph.constants[ones] = np.ones(rank - 1, np.int64)
        nodes.append(Node("Concat", ["guidance_times", ones], [times], {"axis": 0}, name=times))
    for name in names:
        times, repeated = f"guidance_times_{len(graph.shapes[name])}", f"{name}_repeated"
        nodes.append(Node("Tile", [name, times], [repeated], name=repeated))
    return nodes


def _predicting(value: Value) -> Value:
    return dataclasses.replace(value, shape=(PREDICTIONS, *value.shape[1:]))
