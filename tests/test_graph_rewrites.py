"""A rewritten graph computes what the bundle's graph computes, in fewer and faster operators."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from riffusion_engine.graph_bytes import Graph, Node, Value
from riffusion_engine.graph_rewrites import CONTRIB, fuse_attention, fuse_group_norms, split_gated_units
from riffusion_engine.manifest import Manifest
from riffusion_engine.onnxruntime_session import OnnxRuntimeSession

SHAPE = ("batch", 64, 8, 8)


def _unet(bundle: Path) -> Graph:
    return Graph.read((bundle / "unet" / "model.onnx").read_bytes())


def _counts(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def test_every_attention_of_a_unet_is_fused_with_the_transposes_around_it(toy_bundle: Path) -> None:
    graph = _unet(toy_bundle)
    before = _counts(graph)
    assert fuse_attention(graph) == before["Attention"] > 0
    after = _counts(graph)
    assert after["MultiHeadAttention"] == before["Attention"]
    assert after["Attention"] == 0
    assert before["Transpose"] - after["Transpose"] == 4 * before["Attention"]


def test_gated_units_are_two_products_and_nothing_is_cut(toy_bundle: Path) -> None:
    graph = _unet(toy_bundle)
    before = _counts(graph)
    cut = {node.inputs[0] for node in graph.nodes if node.op_type == "Split"}
    assert split_gated_units(graph) == len(cut) == before["Gelu"] > 0
    after = _counts(graph)
    assert (after["Gelu"], after["BiasGelu"]) == (0, before["Gelu"])
    assert after["MatMul"] - before["MatMul"] == before["Gelu"]
    # What is cut now are weights and biases, once, when the graph is opened.
    assert not cut & {node.inputs[0] for node in graph.nodes if node.op_type == "Split"}


def test_a_fused_session_predicts_the_same(toy_bundle: Path) -> None:
    spec = Manifest.read(toy_bundle).graph("unet")
    draw = np.random.default_rng(0)
    feeds = {
        "sample": draw.standard_normal((2, 4, 8, 8), np.float32),
        "timestep": np.full(2, 500, np.float32),
        "encoder_hidden_states": draw.standard_normal((2, 77, 32), np.float32),
    }
    outputs = []
    for fused in (False, True):
        with OnnxRuntimeSession(toy_bundle, spec, device="cpu", threads=1, fused=fused) as session:
            outputs.append(session.run(feeds)["out_sample"])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_rewriting_leaves_a_graph_that_it_does_not_know_alone(toy_bundle: Path) -> None:
    graph = Graph.read((toy_bundle / "vae_encoder" / "model.onnx").read_bytes())
    for node in graph.nodes:
        if node.op_type == "Attention":
            node.attributes["is_causal"] = 1
    before = list(graph.nodes)
    assert fuse_attention(graph) == 0
    assert fuse_group_norms(graph) == 0
    assert split_gated_units(graph) == 0
    assert graph.nodes == before


class GroupNorm(OpRun):
    """ONNX Runtime's contrib operator, which it runs on CUDA alone, as its documentation defines it."""

    op_domain = CONTRIB

    def _run(
        self,
        x: NDArray[np.float32],
        gamma: NDArray[np.float32],
        beta: NDArray[np.float32],
        activation: int,
        channels_last: int,
        epsilon: float,
        groups: int,
    ) -> tuple[NDArray[Any]]:
        assert channels_last == 1
        batch, *_, channels = x.shape
        split = x.reshape(batch, -1, groups, channels // groups)
        centred = split - split.mean(axis=(1, 3), keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + epsilon)
        y = normal.reshape(x.shape) * gamma + beta
        return ((y / (1 + np.exp(-y)) if activation else y).astype(x.dtype),)


def _norm_graph(*, silu: bool, tapped: bool = False) -> Graph:
    """x -> group norm -> (SiLU) -> y, the norm also an output where ``tapped``."""
    attributes = {"num_groups": 8, "epsilon": 1e-5}
    nodes = [
        Node(
            "GroupNormalization", ["x", "gamma", "beta"], ["norm" if silu else "y"], {**attributes}, name="n"
        )
    ]
    if silu:
        nodes += [
            Node("Sigmoid", ["norm"], ["gate"], name="g"),
            Node("Mul", ["norm", "gate"], ["y"], name="m"),
        ]
    draw = np.random.default_rng(3)
    constants = {name: draw.standard_normal(64, np.float32) for name in ("gamma", "beta")}
    outputs = [Value(name, "float32", SHAPE) for name in (("y", "norm") if tapped else ("y",))]
    return Graph("norm", nodes, [Value("x", "float32", SHAPE)], outputs, {"": 21}, constants)


@pytest.mark.parametrize(
    ("silu", "tapped", "left"),
    [(False, False, set()), (True, False, set()), (True, True, {"Sigmoid", "Mul"})],
)
def test_a_fused_group_norm_is_the_standard_one(silu: bool, tapped: bool, left: set[str]) -> None:
    standard, fused = (_norm_graph(silu=silu, tapped=tapped) for _ in range(2))
    assert fuse_group_norms(fused) == 1
    assert set(_counts(fused)) == {"Transpose", "GroupNorm"} | left
    x = np.random.default_rng(4).standard_normal((2, 64, 8, 8), np.float32)
    expected = ReferenceEvaluator(onnx.load_from_string(standard.write())).run(None, {"x": x})
    found = ReferenceEvaluator(onnx.load_from_string(fused.write()), new_ops=[GroupNorm]).run(None, {"x": x})
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
