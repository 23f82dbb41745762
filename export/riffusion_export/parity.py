"""A torch module in, what it makes of random inputs out; then its graph file in, how far that is from it out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from riffusion_engine.errors import ExportError, MissingExtraError
from riffusion_export.graphs import GraphPlan, InDtype, cast_inputs

BATCHES: tuple[int, ...] = (1, 3)
"""Batch sizes that are compared: neither is the one that was traced."""
LARGE_MODULE = 20_000_000
"""Weights above which only the first batch size is compared, or the comparison would take longer than the export."""
_SEED = 20_221_215


@dataclass(frozen=True, eq=False)
class Reference:
    """What torch makes of random inputs, by batch ("batch 1").

    ``names`` are those of the outputs; ``greatest`` is the greatest activation inside, by absolute value.
    """

    names: tuple[str, ...]
    feeds: dict[str, dict[str, NDArray[Any]]]
    outputs: dict[str, tuple[NDArray[Any], ...]]
    greatest: float


def torch_reference(plan: GraphPlan, dtype: torch.dtype) -> Reference:
    """Run ``plan.module`` in torch on random inputs, as they are after rounding to ``dtype``.

    The module computes in float32, whatever the graph does, but for its group norms, which it takes in float64. It is
    left in float32.
    """
    plan.module.float()
    large = sum(values.numel() for values in plan.module.parameters()) > LARGE_MODULE
    feeds, outputs = {}, {}
    with _exact_group_norms(plan.module), _greatest_activation(plan.module) as greatest, torch.no_grad():
        for batch in BATCHES[:1] if large else BATCHES:
            drawn = plan.example(batch, torch.Generator().manual_seed(_SEED + batch))
            rounded = cast_inputs(plan, drawn, dtype)
            seen = (tensor.float() if tensor.is_floating_point() else tensor for tensor in rounded)
            made = plan.module(*seen)
            key = f"batch {batch}"
            outputs[key] = tuple(out.numpy() for out in (made if isinstance(made, tuple) else (made,)))
            feeds[key] = {name: value.numpy() for name, value in zip(plan.inputs, rounded, strict=True)}
    return Reference(plan.outputs, feeds, outputs, greatest[0])


def measure_parity(reference: Reference, model: Path) -> dict[str, float]:
    """Run the graph file ``model`` in ONNX Runtime on the CPU, on the inputs that torch had.

    Returns:
        The relative L2 distance, the worst of all outputs, keyed ``"batch 1"``, ``"batch 3"``; only the former if
        the module is large. Infinite where the graph gives NaN or infinity.

    Raises:
        ExportError: ONNX Runtime cannot load or run the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = open_model(model)
    return {
        batch: _distance(model, session, reference.names, feeds, reference.outputs[batch])
        for batch, feeds in reference.feeds.items()
    }


def measure_arithmetic(plan: GraphPlan, reference: Reference, dtype: torch.dtype) -> dict[str, float]:
    """How far ``plan.module`` in ``dtype`` is from the reference in torch: for graphs that no CPU runtime runs.

    The module is left in ``dtype``. Keys are "torch, batch 1" and so on.
    """
    plan.module.to(dtype)
    distances = {}
    with torch.no_grad():
        for batch, feeds in reference.feeds.items():
            inputs = (torch.from_numpy(feeds[name]) for name in plan.inputs)
            made = InDtype(plan.module, plan.inputs, dtype)(*inputs)
            outputs = made if isinstance(made, tuple) else (made,)
            expected = reference.outputs[batch]
            distances[f"torch, {batch}"] = max(
                relative_l2(got.numpy(), want) for got, want in zip(outputs, expected, strict=True)
            )
    return distances


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


@contextmanager
def _greatest_activation(module: nn.Module) -> Iterator[list[float]]:
    """Keep the greatest absolute value that any layer gives: whether float16 would overflow, a CPU does not show."""
    greatest = [0.0]

    def look(_: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point():
            seen = float(torch.maximum(output.max(), -output.min()))
            greatest[0] = max(greatest[0], float("inf") if math.isnan(seen) else seen)

    hooks = [part.register_forward_hook(look) for part in module.modules()]
    try:
        yield greatest
    finally:
        for hook in hooks:
            hook.remove()


def _distance(
    model: Path,
    session: Any,
    names: tuple[str, ...],
    feeds: dict[str, NDArray[Any]],
    expected: tuple[NDArray[Any], ...],
) -> float:
    try:
        actual = session.run(list(names), feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        raise _refused(model, error) from error
    return max(relative_l2(got, want) for got, want in zip(actual, expected, strict=True))


def check_graph_file(model: Path) -> None:
    """Check a graph that no CPU runtime runs against the operators' definitions.

    Raises:
        ExportError: it breaks them.
    """
    import onnx

    try:
        onnx.checker.check_model(str(model))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"The {model.parent.name} graph is not valid: {str(error).splitlines()[0][:300]}",
            hint="Export it in float32: --precision float32",
        ) from error


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


def _refused(model: Path, error: Exception) -> ExportError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:300]
    return ExportError(
        f"ONNX Runtime cannot run the {model.parent.name} graph: {reason}",
        hint="Upgrade it: pip install -U onnxruntime",
    )
