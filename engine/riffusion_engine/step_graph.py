"""A UNet's prediction and a sampler's registers in, the next registers and the UNet's next input out: one small graph.

It holds what lies between two runs of the UNet: classifier-free guidance, the sampler's update as one matrix product
with a few coefficients, and a mask that puts a picture back. Its operators are standard ones, so any backend that runs
the UNet runs it too, on the same device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from riffusion_engine.graph_bytes import Attribute, Graph, Node, Value

_OPSET = 20  # Every operator here is older; TensorRT, TensorRT-RTX and ONNX Runtime all read it.


@dataclass(frozen=True)
class StepShape:
    """Which step graph: sizes that are fixed, and what is left out when it is not needed.

    ``dtype`` is that of the UNet's sample and prediction; everything else is float32.
    """

    registers: int
    channels: int
    height: int
    width: int
    dtype: str = "float32"
    guided: bool = True
    noisy: bool = False
    masked: bool = False


def step_graph(shape: StepShape) -> bytes:
    """The ONNX file of one step.

    Inputs: ``registers`` (K, n, c, h, w); ``prediction`` (n, c, h, w) or, guided, (2n, c, h, w) with the negative ones
    first; ``coefficients`` (K + 1, K + 2); ``input_scale`` (1) of the step to come; guided: ``weights`` (n, 1, 1, 1);
    noisy: ``noise`` (n, c, h, w); masked: ``kept`` and ``kept_noise`` (n, c, h, w), ``keep`` (n, 1, h, w), and
    ``shares`` (3).

    Outputs: ``next_registers`` (K, n, c, h, w), ``denoised`` (n, c, h, w), and the UNet's next input once, ``sample``
    (n, c, h, w), and twice over, ``guided_sample`` (2n, c, h, w).
    """
    build = _Builder(shape)
    prediction = build.add("Cast", ["prediction"], to=1)
    if shape.guided:
        negative, positive = build.halves(prediction)
        push = build.add("Mul", ["weights", build.add("Sub", [positive, negative])])
        prediction = build.add("Add", [negative, push])
    columns = ["registers", build.stacked(prediction)]
    weights = "coefficients"
    if shape.noisy:
        columns.append(build.stacked("noise"))
    else:
        weights = build.part(weights, 0, shape.registers + 1, axis=1)
    flat = build.add("Reshape", [build.add("Concat", columns, axis=0), build.ints(0, -1)])
    rows = build.add("MatMul", [weights, flat])
    canvas = (shape.channels, shape.height, shape.width)
    rows = build.add("Reshape", [rows, build.ints(shape.registers + 1, -1, *canvas)])
    latents = build.plane(rows, 0)
    if shape.masked:
        latents = build.masked(latents)
        memory = [build.part(rows, 1, shape.registers)] if shape.registers > 1 else []
        build.add("Concat", [build.stacked(latents), *memory], "next_registers", axis=0)
    else:
        build.part(rows, 0, shape.registers, name="next_registers")
    build.plane(rows, shape.registers, "denoised")
    scaled = build.add("Mul", [latents, "input_scale"])
    build.add("Cast", [scaled], "sample", to={"float32": 1, "float16": 10}[shape.dtype])
    build.add("Concat", ["sample", "sample"], "guided_sample", axis=0)
    return build.graph.write()


class _Builder:
    def __init__(self, shape: StepShape) -> None:
        count, canvas = shape.registers, (shape.channels, shape.height, shape.width)
        runs = "guided_batch" if shape.guided else "batch"
        inputs = [
            Value("registers", "float32", (count, "batch", *canvas)),
            Value("prediction", shape.dtype, (runs, *canvas)),
            Value("coefficients", "float32", (count + 1, count + 2)),
            Value("input_scale", "float32", (1,)),
        ]
        if shape.guided:
            inputs.append(Value("weights", "float32", ("batch", 1, 1, 1)))
        if shape.noisy:
            inputs.append(Value("noise", "float32", ("batch", *canvas)))
        if shape.masked:
            inputs += [Value(name, "float32", ("batch", *canvas)) for name in ("kept", "kept_noise")]
            inputs.append(Value("keep", "float32", ("batch", 1, *canvas[1:])))
            inputs.append(Value("shares", "float32", (3,)))
        outputs = [
            Value("next_registers", "float32", (count, "batch", *canvas)),
            Value("denoised", "float32", ("batch", *canvas)),
            Value("sample", shape.dtype, ("batch", *canvas)),
            Value("guided_sample", shape.dtype, ("guided_batch", *canvas)),
        ]
        self.graph = Graph("sampler_step", [], inputs, outputs, {"": _OPSET})

    def add(self, operator: str, inputs: list[str], name: str = "", **attributes: Attribute) -> str:
        """Append a node with one output; returns the output's name."""
        name = name or f"{operator.lower()}_{len(self.graph.nodes)}"
        self.graph.nodes.append(Node(operator, inputs, [name], attributes, name=f"make_{name}"))
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        name = "_".join(["ints", *(str(value) for value in values)])
        self.graph.constants[name] = np.array(values, np.int64)
        return name

    def stacked(self, value: str) -> str:
        """With an axis for the registers in front."""
        return self.add("Unsqueeze", [value, self.ints(0)])

    def part(self, value: str, first: int, last: int, *, axis: int = 0, name: str = "") -> str:
        """``value[first:last]`` along an axis."""
        return self.add("Slice", [value, self.ints(first), self.ints(last), self.ints(axis)], name)

    def plane(self, value: str, index: int, name: str = "") -> str:
        """``value[index]``"""
        return self.add("Squeeze", [self.part(value, index, index + 1), self.ints(0)], name)

    def halves(self, value: str) -> tuple[str, str]:
        """The two halves of the batch."""
        halves = [f"{value}_{side}" for side in ("negative", "prompt")]
        self.graph.nodes.append(Node("Split", [value], halves, {"axis": 0, "num_outputs": 2}, name="halves"))
        return halves[0], halves[1]

    def masked(self, latents: str) -> str:
        """The kept picture at its noise level where all of ``keep`` is 1, the latents where it is 0."""
        *shares, counted = [self.part("shares", index, index + 1) for index in (0, 1, 2)]
        parts = [
            self.add("Mul", [value, share])
            for value, share in zip(("kept", "kept_noise"), shares, strict=True)
        ]
        keep = self.add("Mul", ["keep", counted])
        change = self.add("Sub", [self.add("Add", parts), latents])
        return self.add("Add", [latents, self.add("Mul", [keep, change])])
