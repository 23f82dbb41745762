"""Minimal filtering is the convolution that it replaces, to float32 rounding."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from riffusion_engine.graph_bytes import Graph, Node, Value
from riffusion_engine.winograd import Least, Weights, filter_minimally

LEAST = Least(channels=16, cells=64)


def _conv_graph(size: int, **changes: object) -> Graph:
    """16 channels to 24, ``size`` cells to a side."""
    attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
    draw = np.random.default_rng(1)
    constants = {
        "w": draw.standard_normal((24, 16, 3, 3), np.float32) / np.float32(12),
        "b": draw.standard_normal(24, np.float32),
    }
    shape = ("batch", 16, size, size)
    node = Node("Conv", ["x", "w", "b"], ["y"], {**attributes, **changes}, name="conv")  # type: ignore[dict-item]
    inputs, outputs = [Value("x", "float32", shape)], [Value("y", "float32", ("batch", 24, "h", "w"))]
    graph = Graph("conv", [node], inputs, outputs, {"": 20}, constants)
    # Read back, so that it knows its shapes as one from a file does.
    return Graph.read(graph.write())


def _run(graph: Graph, size: int, weights: Weights | None = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.write(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).standard_normal((3, 16, size, size), np.float32)
    return session.run(None, {"x": x, **(weights or {})})[0]


@pytest.mark.parametrize(("size", "tile"), [(8, 2), (16, 4), (32, 4)])
def test_it_computes_the_same_convolution(size: int, tile: int) -> None:
    plain, minimal = _conv_graph(size), _conv_graph(size)
    weights = filter_minimally(minimal, minimal.stored.get, LEAST)
    assert [weight.shape for weight in weights.values()] == [(1, (tile + 2) ** 2, 24, 16)]
    assert f"minimal_data_{tile}" in minimal.constants
    expected, found = _run(plain, size), _run(minimal, size, weights)
    assert np.linalg.norm(found - expected) <= 5e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (16, {"strides": [2, 2]}),
        (16, {"pads": [0] * 4}),
        (16, {"dilations": [2, 2], "pads": [2] * 4}),
        (17, {}),
        (4, {}),
    ],
)
def test_other_and_small_convolutions_stay(size: int, changes: dict[str, object]) -> None:
    graph = _conv_graph(size, **changes)
    assert not filter_minimally(graph, graph.stored.get, LEAST)
    assert [node.op_type for node in graph.nodes] == ["Conv"]


def test_few_channels_do_not_pay_for_the_transforms() -> None:
    graph = _conv_graph(16)
    assert not filter_minimally(graph, graph.stored.get)


def test_a_convolution_whose_weights_cannot_be_read_stays() -> None:
    graph = _conv_graph(16)
    assert not filter_minimally(graph, lambda _: None, LEAST)
    assert [node.op_type for node in graph.nodes] == ["Conv"]
