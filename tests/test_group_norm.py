"""The rewritten normalization computes what torch computes, and more exactly than the operator's reference function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from riffusion_export.group_norm import as_instance_norms

EPSILON = 1e-6


def _graph(channels: int, groups: int, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> ir.Model:
    def value(name: str, array: NDArray[np.float32]) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)

    shape = ir.Shape(["batch", channels, 6, 5])
    picture = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    parameters = [value("weight", weight), value("bias", bias)]
    node = ir.node("GroupNormalization", [picture, *parameters], {"num_groups": groups, "epsilon": EPSILON})
    node.outputs[0].name, node.outputs[0].shape = "y", shape
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [picture], node.outputs, nodes=[node], initializers=parameters, opset_imports={"": 23}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, path: Path, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    ir.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": picture})[0]
    return result


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (8, 2), (12, 3), (4, 1)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 300.0], ids=["centred", "far from zero"])
def test_it_is_torchs_group_norm(
    tmp_path: Path, channels: int, groups: int, batch: int, offset: float
) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, channels)).astype(np.float32)
    picture = (rng.normal(size=(batch, channels, 6, 5)) + offset).astype(np.float32)
    model = _graph(channels, groups, weight, bias)
    assert as_instance_norms(model.graph) == 1
    assert "GroupNormalization" not in {node.op_type for node in model.graph}
    tensors = [torch.from_numpy(array).double() for array in (picture, weight, bias)]
    expected = torch.nn.functional.group_norm(tensors[0], groups, tensors[1], tensors[2], EPSILON).numpy()
    actual = _run(model, tmp_path / "model.onnx", picture)
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-4


def test_a_graph_without_the_operator_stays_as_it_is() -> None:
    model = _graph(8, 2, np.ones(8, np.float32), np.zeros(8, np.float32))
    as_instance_norms(model.graph)
    before = [node.op_type for node in model.graph]
    assert as_instance_norms(model.graph) == 0
    assert [node.op_type for node in model.graph] == before
