"""An ONNX file read and written without the onnx package says the same to the onnx package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from riffusion_engine.errors import BundleError
from riffusion_engine.graph_bytes import Graph, Node, Value
from riffusion_engine.step_graph import StepShape, step_graph


@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_a_graph_survives_reading_and_writing(name: str, toy_bundle: Path) -> None:
    data = (toy_bundle / name / "model.onnx").read_bytes()
    before, after = onnx.load_from_string(data), onnx.load_from_string(Graph.read(data).write())
    assert len(before.graph.node) > 10
    for old, new in zip(before.graph.node, after.graph.node, strict=True):
        assert (old.op_type, old.domain, old.input, old.output) == (
            new.op_type,
            new.domain,
            new.input,
            new.output,
        )
        assert {a.name: onnx.helper.get_attribute_value(a) for a in old.attribute} == {
            a.name: onnx.helper.get_attribute_value(a) for a in new.attribute
        }
    assert list(before.graph.initializer) == list(after.graph.initializer)
    assert [str(value.type) for value in before.graph.input] == [
        str(value.type) for value in after.graph.input
    ]
    assert before.opset_import == after.opset_import
    assert before.ir_version == after.ir_version


def test_shapes_and_small_constants_are_known(toy_bundle: Path) -> None:
    graph = Graph.read((toy_bundle / "unet" / "model.onnx").read_bytes())
    assert graph.shapes["sample"] == ("batch", 4, 8, 8)
    reshape = next(node for node in graph.nodes if node.op_type == "Reshape")
    target = graph.stored[reshape.inputs[1]]
    assert target is not None
    assert target.dtype == np.int64


def test_a_graph_made_by_hand_passes_the_checker() -> None:
    value = Value("x", "float32", ("n", 3))
    attributes = {"to": 10, "note": "as it is", "share": 0.5, "sizes": [-1, 0, 300]}
    graph = Graph(
        "hand", [Node("Identity", ["x"], ["y"])], [value], [Value("y", "float32", ("n", 3))], {"": 20}
    )
    onnx.checker.check_model(onnx.load_from_string(graph.write()))
    graph.nodes[0].attributes.update(attributes)
    assert Graph.read(graph.write()).nodes[0].attributes == attributes


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("switches", [(False, False, False), (True, False, False), (True, True, True)])
def test_every_step_graph_is_standard_onnx(dtype: str, switches: tuple[bool, bool, bool]) -> None:
    guided, noisy, masked = switches
    shape = StepShape(3, 4, 8, 8, dtype, guided, noisy, masked)
    model = onnx.load_from_string(step_graph(shape))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"PK\x03\x04 not a graph"])
def test_what_is_no_graph_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Graph.read(data)


def test_a_truncated_graph_is_refused(toy_bundle: Path) -> None:
    data = (toy_bundle / "unet" / "model.onnx").read_bytes()
    with pytest.raises(BundleError, match="cannot be read"):
        Graph.read(data[: len(data) // 2])
