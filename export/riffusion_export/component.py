"""One network of a checkpoint in; its weights file, its graphs and their manifest entries out."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import GraphSpec
from riffusion_export.checkpoint import MODEL_WEIGHTS, TEXT_PREFIX, TEXT_WEIGHTS, VAE_PARTS, Source
from riffusion_export.lora import Lora, fuse_loras
from riffusion_export.precision import AUTO, FLOAT16_LIMIT, Precision
from riffusion_export.silence import quiet

GRAPH_FILE = "model.onnx"
PARITY_LIMITS: Mapping[str, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
"""Relative L2 distance to torch above which a graph is refused. Sound ones measure near 1e-6, 1e-3 and 1e-2."""

STEPS: Mapping[str, float] = {"weights": 0.15, "torch": 0.2, "graph": 0.4, "check": 0.25}
"""What is done for each graph, and its share of the time."""


@dataclass(frozen=True)
class Step:
    """One of `STEPS` begins for a graph; ``note`` says what a user should know of it."""

    graph: str
    step: str
    note: str = ""


class FinishedPart(msgspec.Struct, frozen=True):
    """What the manifest will say of a network's graphs."""

    graphs: dict[str, GraphSpec]


def write_part(
    source: Source,
    part: str,
    bundle: Path,
    precisions: Mapping[str, Precision],
    loras: Sequence[Lora] = (),
    parity_limit: float | None = None,
) -> Generator[Step, None, FinishedPart]:
    """Write one network into a bundle folder; yields before each step. Only this network is in memory meanwhile.

    Args:
        source: the checkpoint.
        part: "text_encoder", "unet" or "vae".
        bundle: the folder; what it holds of this network is written anew.
        precisions: by graph.
        loras: are fused into the weights.
        parity_limit: relative L2 distance to torch above which a graph is refused.

    Raises:
        ExportError: the network is damaged, does not fit its precision, or a graph strays too far from torch.
    """
    from riffusion_export.graphs import plan_part

    first = next(iter(VAE_PARTS)) if part == "vae" else part
    yield Step(first, "weights")
    network = source.load(part)
    if part != "vae":
        fuse_loras(loras, part, network)
    plans = list(plan_part(part, network, source.geometry))
    kept: dict[str, Precision] = {}
    for plan in plans:
        chosen = precisions[plan.name]
        kept[plan.name] = _fitting_weights(plan.name, plan.module, chosen)
        if kept[plan.name] != chosen:
            yield Step(plan.name, "weights", f"{plan.name} has weights beyond float16: it stays in float32")
        _write_weights(part, plan, network, bundle, kept[plan.name].weights)
    drawn: dict[str, _Drawn] = {}
    for plan in plans:
        drawn[plan.name] = yield from _draw(plan, bundle, kept[plan.name])
    del network, plan, plans  # Torch's copy makes room for ONNX Runtime's.
    gc.collect()
    graphs: dict[str, GraphSpec] = {}
    for name, graph in drawn.items():
        yield Step(name, "check")
        parity = graph.parity or _check(bundle / name / GRAPH_FILE, graph.reference)
        _judge(name, parity, graph.spec.compute_dtype, parity_limit)
        graphs[name] = msgspec.structs.replace(graph.spec, parity=parity)
    return FinishedPart(graphs)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A graph that was saved, and what it is to be checked against; ``parity`` where that is known already."""

    spec: GraphSpec
    reference: Any
    parity: dict[str, float]


def _draw(plan: Any, bundle: Path, precision: Precision) -> Generator[Step, None, _Drawn]:
    """Trace and save one graph in a precision that it can bear."""
    import torch

    from riffusion_export.graphs import trace_graph
    from riffusion_export.parity import check_graph_file, measure_arithmetic

    yield Step(plan.name, "torch")
    compute = "float16" if precision.compute == AUTO else precision.compute
    reference = _finite_reference(plan, compute)
    if compute == "float16" and reference.greatest > FLOAT16_LIMIT:
        if precision.compute != AUTO:
            raise _overflow(plan.name, reference.greatest)
        yield Step(
            plan.name,
            "torch",
            f"{plan.name} reaches {reference.greatest:.0f}, beyond float16: it computes in float32",
        )
        compute = "float32"
        reference = _finite_reference(plan, compute)
    yield Step(plan.name, "graph")
    model = trace_graph(plan, getattr(torch, compute))
    spec = _save_graph(model, plan, bundle, Precision(compute, precision.weights))
    parity: dict[str, float] = {}
    if compute == "bfloat16":  # ONNX Runtime's CPU has no kernels for it.
        check_graph_file(bundle / spec.path)
        parity = measure_arithmetic(plan, reference, torch.bfloat16)
    plan.module.float()
    return _Drawn(spec, reference, parity)


def _finite_reference(plan: Any, compute: str) -> Any:
    import torch

    from riffusion_export.parity import torch_reference

    reference = torch_reference(plan, getattr(torch, compute))
    if not math.isfinite(reference.greatest):
        raise ExportError(
            f"The {plan.name} gives NaN or infinity in torch already",
            hint="Copy or download the checkpoint again, or leave out the LoRA that spoils it",
        )
    return reference


def _check(model: Path, reference: Any) -> dict[str, float]:
    from riffusion_export.parity import measure_parity

    return measure_parity(reference, model)


def _fitting_weights(graph: str, module: Any, chosen: Precision) -> Precision:
    greatest_of_each = [float(values.detach().abs().max()) for values in module.parameters()]
    if not all(map(math.isfinite, greatest_of_each)):
        raise ExportError(
            f"The {graph} has weights that are NaN or infinite", hint="Copy or download the checkpoint again"
        )
    greatest = max(greatest_of_each)
    if chosen.weights != "float16" or greatest <= FLOAT16_LIMIT:
        return chosen
    if chosen.compute == AUTO:
        return Precision("float32", "float32")
    raise ExportError(
        f"The {graph} has a weight of {greatest:.0f}, beyond float16",
        hint="Keep its weights: riffusion-rt export CHECKPOINT -o BUNDLE --weights float32 --precision float32",
    )


def _write_weights(part: str, plan: Any, network: Any, bundle: Path, weights: str) -> None:
    """Write a graph's weights in the diffusers layout, and round the loaded ones to what was written."""
    import torch
    from safetensors.torch import save_file

    folder = bundle / plan.name
    shutil.rmtree(folder, ignore_errors=True)
    prefixes = VAE_PARTS.get(plan.name, ("",))
    with quiet():
        plan.module.to(getattr(torch, weights))
        config = bundle / "vae" if part == "vae" else folder
        if part == "text_encoder":
            network.config.save_pretrained(folder)
            # Have transformers compute in float32, however weights are stored; both names that it has for that.
            _restate(
                folder / "config.json",
                dtype="float32",
                torch_dtype="float32",
                architectures=["CLIPTextModel"],
            )
        else:
            network.save_config(config)
            _restate(config / "config.json")
        if part == "vae":
            folder.mkdir()
            shutil.copy2(config / "config.json", folder)
    state = {
        _published_key(part, key): values.contiguous()
        for key, values in network.state_dict().items()
        if key.startswith(prefixes)
    }
    save_file(
        state, folder / (TEXT_WEIGHTS if part == "text_encoder" else MODEL_WEIGHTS), metadata={"format": "pt"}
    )
    plan.module.float()
    for path in {folder, config}:
        make_readable(path)


def make_readable(folder: Path) -> None:
    """Give every file the mode of an ordinary new one: the safetensors library keeps its own to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def _published_key(part: str, key: str) -> str:
    """A text encoder's weight as published checkpoints name it: transformers 5 dropped a prefix, yet reads it."""
    return key if part != "text_encoder" or key.startswith(TEXT_PREFIX) else TEXT_PREFIX + key


def _restate(config: Path, **changes: Any) -> None:
    """Change what a network's configuration says, and leave out where on this machine it was loaded from."""
    stated = json.loads(config.read_text(encoding="utf-8")) | changes
    stated.pop("_name_or_path", None)
    config.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_graph(model: Any, plan: Any, bundle: Path, precision: Precision) -> GraphSpec:
    import onnx_ir as ir

    from riffusion_export.graphs import tensor_specs
    from riffusion_export.weights import point_into_safetensors

    folder = bundle / plan.name
    point_into_safetensors(model, folder / plan.weights_file)
    ir.save(model, folder / GRAPH_FILE)
    return GraphSpec(
        path=f"{plan.name}/{GRAPH_FILE}",
        inputs=tensor_specs(model.graph.inputs),
        outputs=tensor_specs(model.graph.outputs),
        weights_dtype=precision.weights,
        compute_dtype=precision.compute,
        parity={},
    )


def _overflow(graph: str, greatest: float) -> ExportError:
    return ExportError(
        f"The {graph} reaches {greatest:.0f} inside, beyond float16's {FLOAT16_LIMIT:.0f}",
        hint=f"Have it compute in float32: --precision float16,{graph}=float32, or --precision auto",
    )


def _judge(graph: str, parity: Mapping[str, float], compute: str, parity_limit: float | None) -> None:
    limit = PARITY_LIMITS[compute] if parity_limit is None else parity_limit
    worst = max(parity.values())
    if worst <= limit:
        return
    if worst == float("inf"):
        raise ExportError(
            f"The {graph} graph gives NaN or infinity where torch does not",
            hint=f"Have it compute in float32: --precision {graph}=float32",
        )
    raise ExportError(
        f"The {graph} graph is {worst:.1e} away from torch (relative L2), more than {limit:.0e}",
        hint="Check the checkpoint for weights that overflow float16, or keep them: --weights float32"
        if compute == "float32"
        else f"Have it compute in float32: --precision {compute},{graph}=float32",
    )
