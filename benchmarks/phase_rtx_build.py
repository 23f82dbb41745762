"""A vocoder graph enters; a TensorRT-RTX engine for Ada (SM 8.9) leaves, built without a GPU.

    python3 -m venv .venvs/rtx
    .venvs/rtx/bin/pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
    .venvs/phase/bin/python benchmarks/phase_vocoder_time.py --write-only vocoder.onnx
    .venvs/rtx/bin/python benchmarks/phase_rtx_build.py vocoder.onnx

Says so and ends well where TensorRT-RTX is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any


def tensorrt_rtx() -> Any | None:
    """The library under either of its names, or None."""
    names = ("tensorrt_rtx", "tensorrt_rtx_bindings")
    found = next((name for name in names if importlib.util.find_spec(name)), None)
    return importlib.import_module(found) if found else None


def build(trt: Any, model: Path, *, most: int = 8, tf32: bool = False) -> bytes:
    """The serialized engine for SM 8.9, batches of 1 to ``most``.

    Raises:
        RuntimeError: the parser or the builder refused the graph; its messages.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        raise RuntimeError("; ".join(str(parser.get_error(place)) for place in range(parser.num_errors)))
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        inner = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *inner), (1, *inner), (most, *inner))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("the builder gave no engine; see its messages above")
    return bytes(engine)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tf32", action="store_true", help="let matrix products round to 11 bits")
    arguments = parser.parse_args()
    trt = tensorrt_rtx()
    if trt is None:
        print(
            "skipped: TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings)"
        )
        return 0
    began = time.perf_counter()
    engine = build(trt, arguments.model, tf32=arguments.tf32)
    if arguments.output:
        arguments.output.write_bytes(engine)
    row = {
        "benchmark": "vocoder engine for SM 8.9",
        "tensorrt_rtx": trt.__version__,
        "tf32": arguments.tf32,
        "build_s": round(time.perf_counter() - began, 1),
        "engine_mb": round(len(engine) / 1e6, 1),
    }
    print(json.dumps(row))
    from recording import record

    record("phase", **row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
