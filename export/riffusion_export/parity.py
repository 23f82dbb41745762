"""A graph file and the torch module it came from in, how far they are apart out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from riffusion_engine.errors import ExportError, MissingExtraError
from riffusion_engine.manifest import GraphSpec
from riffusion_export.graphs import GraphPlan

BATCHES: tuple[int, ...] = (1, 3)
"""Batch sizes that are compared: neither is the one that was traced."""
LARGE_MODULE = 20_000_000
"""Weights above which only the first batch size is compared, or the comparison would take longer than the export."""
_SEED = 20_221_215


def measure_parity(plan: GraphPlan, graph: GraphSpec, model: Path) -> dict[str, float]:
    """Run ``model`` in ONNX Runtime on the CPU and ``plan.module`` in torch, both on the same random inputs.

    The module computes in float32, whatever the graph does, but for its group norms, which it takes in float64.

    Returns:
        The relative L2 distance, the worst of all outputs, keyed ``"batch 1"``, ``"batch 3"``; only the former if
        the module is large.

    Raises:
        ExportError: ONNX Runtime cannot load or run the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = open_model(model)
    plan.module.float()
    large = sum(values.numel() for values in plan.module.parameters()) > LARGE_MODULE
    with _exact_group_norms(plan.module):
        return {
            f"batch {batch}": _distance(plan, graph, session, batch)
            for batch in (BATCHES[:1] if large else BATCHES)
        }


def relative_l2(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """``|actual - expected| / |expected|`` in float64; infinite where ``actual`` is not finite."""
    difference = actual.astype(np.float64) - expected.astype(np.float64)
    if not np.isfinite(difference).all():
        return float("inf")
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(difference)) / max(norm, float(np.finfo(np.float32).tiny))


@contextmanager
def _exact_group_norms(module: nn.Module) -> Iterator[None]:
    """Have torch normalize in float64: its float32 kernel loses two digits on large pictures in a batch."""
    norms = [part for part in module.modules() if isinstance(part, nn.GroupNorm)]
    hooks = [
        hook
        for norm in norms
        for hook in (
            norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),)),
            norm.register_forward_hook(lambda _, inputs, output: output.float()),
        )
    ]
    for norm in norms:
        norm.double()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.float()


def _distance(plan: GraphPlan, graph: GraphSpec, session: Any, batch: int) -> float:
    feeds = plan.feeds(batch, _SEED + batch)
    typed = {spec.name: feeds[spec.name].astype(spec.dtype) for spec in graph.inputs}
    with torch.no_grad():
        # The module sees the inputs as the graph does: rounded, if the graph is float16.
        seen = (torch.from_numpy(typed[name].astype(feeds[name].dtype)) for name in plan.inputs)
        expected = plan.module(*seen)
    expected = expected if isinstance(expected, tuple) else (expected,)
    try:
        actual = session.run(list(plan.outputs), typed)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        raise _refused(plan, error) from error
    return max(relative_l2(got, want.numpy()) for got, want in zip(actual, expected, strict=True))


def open_model(model: Path) -> Any:
    """A session of the graph file ``model`` on ONNX Runtime's CPU.

    Raises:
        ExportError: ONNX Runtime cannot load the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "ONNX Runtime, which checks the exported graphs, is not installed",
            hint="Install it: pip install 'riffusion-rt[cpu]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Fatal: failures arrive as exceptions.
    options.enable_mem_reuse = False  # Its planner takes longer than the few runs gain.
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        raise ExportError(
            f"ONNX Runtime cannot load the {model.parent.name} graph: {str(error).splitlines()[0][:300]}",
            hint="Upgrade it: pip install -U onnxruntime",
        ) from error


def _refused(plan: GraphPlan, error: Exception) -> ExportError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:300]
    return ExportError(
        f"ONNX Runtime cannot run the {plan.name} graph: {reason}",
        hint="Upgrade it: pip install -U onnxruntime",
    )
