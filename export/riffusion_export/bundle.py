"""A diffusers checkpoint in, a bundle out: one set of weights that diffusers and ONNX both read, and the manifest.

The folder appears whole or not at all. Its weights stand once, as safetensors in the diffusers layout; the graphs
point into them. The autoencoder is the exception to the layout: its two halves lie beside their graphs, and
``riffusion_export.checkpoint.load_autoencoder`` puts them together again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from riffusion_engine.errors import ExportError, OutputError
from riffusion_engine.manifest import MANIFEST_NAME, GraphSpec, Manifest, SourceSpec, file_spec
from riffusion_export.checkpoint import (
    MODEL_WEIGHTS,
    TEXT_WEIGHTS,
    VAE_PARTS,
    Checkpoint,
    licence_files,
    load_checkpoint,
    quiet,
)

GRAPH_FILE = "model.onnx"
DTYPES: tuple[str, ...] = ("float16", "float32")
PARITY_LIMITS: dict[str, float] = {"float32": 1e-4, "float16": 1e-2}
"""Relative L2 distance to torch above which a graph is refused. Sound ones measure near 1e-6 and 1e-3."""

_STAGES: dict[str, float] = {
    "weights": 0.06,
    "text_encoder": 0.12,
    "unet": 0.55,
    "vae_decoder": 0.15,
    "vae_encoder": 0.10,
    "hashes": 0.02,
}
"""Each stage's share of the time, measured on small models."""


_TEXT_PREFIX = "text_model."


@dataclass(frozen=True)
class ExportProgress:
    """``stage`` begins (or, at the end, is "done"); ``fraction`` of the work lies behind, 0 to 1."""

    stage: str
    fraction: float


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    weights: str = "float16",
    precision: str = "float32",
    name: str | None = None,
    parity_limit: float | None = None,
) -> Iterator[ExportProgress]:
    """Export a Stable Diffusion class checkpoint of any geometry; yields before every stage and when done.

    Args:
        checkpoint: a diffusers folder (CLIPTextModel, UNet2DConditionModel, AutoencoderKL), or another bundle.
        output: the bundle; replaced if it is a bundle already.
        weights: type of the weights on disk, "float16" or "float32".
        precision: type of the arithmetic, inputs and outputs, "float32" or "float16" (for GPUs; then ``weights``
            must be float16 too).
        name: the bundle's name; by default the checkpoint's.
        parity_limit: relative L2 distance to torch above which a graph is refused.

    Raises:
        ExportError: the checkpoint cannot be exported, a graph strays too far from torch, or ``output`` holds
            something that is not a bundle.
        OutputError: ``output`` cannot be written.
    """
    _check_options(weights, precision)
    _check_output(output)
    behind = 0.0
    with _folder_in_making(output) as scratch:
        yield ExportProgress("weights", behind)
        loaded = load_checkpoint(checkpoint)
        _write_weights(loaded, scratch, weights)
        _copy_companions(loaded, scratch)
        behind += _STAGES["weights"]

        from riffusion_export.graphs import plan_graphs

        limit = PARITY_LIMITS[precision] if parity_limit is None else parity_limit
        graphs: dict[str, GraphSpec] = {}
        for plan in plan_graphs(loaded):
            yield ExportProgress(plan.name, behind)
            graphs[plan.name] = _write_graph(plan, scratch, weights, precision, limit)
            behind += _STAGES[plan.name]
        yield ExportProgress("hashes", behind)
        _manifest(loaded, graphs, scratch, name).write(scratch)
    yield ExportProgress("done", 1.0)


def _check_options(weights: str, precision: str) -> None:
    for option, value in (("--weights", weights), ("--precision", precision)):
        if value not in DTYPES:
            raise ExportError(f"{option} cannot be {value!r}", hint=f"Choose one of: {', '.join(DTYPES)}")
    if precision == "float16" and weights == "float32":
        raise ExportError(
            "A float16 graph has no use for float32 weights",
            hint="Leave --weights out, or use --precision float32",
        )


def _check_output(output: Path) -> None:
    if output.is_dir():
        if (output / MANIFEST_NAME).is_file() or not any(output.iterdir()):
            return
        raise ExportError(
            f"{output} holds files that are not a bundle's", hint="Choose another folder with -o BUNDLE"
        )
    if output.exists() or output.is_symlink():
        raise ExportError(f"{output} is not a folder", hint="Choose another place with -o BUNDLE")


@contextmanager
def _folder_in_making(output: Path) -> Iterator[Path]:
    """A temporary sibling of ``output`` that takes its place if the body succeeds, and vanishes if it fails."""
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        yield scratch
        _take_place(scratch, output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_place(scratch: Path, output: Path) -> None:
    scratch.chmod(0o777 & ~_umask())
    if not output.exists():
        scratch.rename(output)
        return
    previous = scratch.with_suffix(".old")
    output.rename(previous)
    try:
        scratch.rename(output)
    except OSError:
        previous.rename(output)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _unwritable(output: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"Cannot write {output}: {reason}", hint="Choose a writable place with -o BUNDLE")


def _write_weights(loaded: Checkpoint, scratch: Path, weights: str) -> None:
    """Write the networks in the diffusers layout, and round the loaded ones to what was written."""
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, weights)
    networks: tuple[Any, ...] = (loaded.text_encoder, loaded.unet, loaded.autoencoder)
    with quiet():
        for network in networks:
            network.to(dtype)
        loaded.text_encoder.config.save_pretrained(scratch / "text_encoder")
        loaded.unet.save_config(scratch / "unet")
        loaded.autoencoder.save_config(scratch / "vae")
    _declare_dtype(scratch / "text_encoder" / "config.json", "float32")
    text_state = {_published_key(key): value for key, value in _state(loaded.text_encoder).items()}
    save_file(text_state, scratch / "text_encoder" / TEXT_WEIGHTS, metadata={"format": "pt"})
    save_file(_state(loaded.unet), scratch / "unet" / MODEL_WEIGHTS, metadata={"format": "pt"})
    for part, prefixes in VAE_PARTS.items():
        half = {key: value for key, value in _state(loaded.autoencoder).items() if key.startswith(prefixes)}
        (scratch / part).mkdir()
        save_file(half, scratch / part / MODEL_WEIGHTS, metadata={"format": "pt"})
        shutil.copy2(scratch / "vae" / "config.json", scratch / part)
    with quiet():
        for network in networks:
            network.float()
    _make_readable(scratch)


def _make_readable(folder: Path) -> None:
    """Give every file the mode of an ordinary new one: the safetensors library keeps its own to their owner."""
    mode = 0o666 & ~_umask()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _state(network: Any) -> dict[str, Any]:
    return {key: value.contiguous() for key, value in network.state_dict().items()}


def _published_key(key: str) -> str:
    """A text encoder's weight as published checkpoints name it: transformers 5 dropped a prefix, yet reads it."""
    return key if key.startswith(_TEXT_PREFIX) else _TEXT_PREFIX + key


def _declare_dtype(config: Path, dtype: str) -> None:
    """Have transformers compute in ``dtype``, however the weights are stored; both names that it has for that."""
    stated = json.loads(config.read_text(encoding="utf-8"))
    stated["dtype"] = stated["torch_dtype"] = dtype
    stated["architectures"] = ["CLIPTextModel"]
    config.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_companions(loaded: Checkpoint, scratch: Path) -> None:
    shutil.copytree(loaded.folder / "scheduler", scratch / "scheduler")
    shutil.copytree(loaded.folder / "tokenizer", scratch / "tokenizer")
    _complete_tokenizer(scratch / "tokenizer")
    for path in licence_files(loaded.folder):
        shutil.copy2(path, scratch)
    card = loaded.folder / "README.md"
    if card.is_file():
        shutil.copy2(card, scratch)
    scheduler = json.loads((scratch / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": metadata.version("diffusers"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler.get("_class_name", "PNDMScheduler")],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (scratch / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _complete_tokenizer(folder: Path) -> None:
    """Have the tokenizer in both forms: tokenizer.json for ``tokenizers``, vocab.json and merges.txt for the others."""
    combined, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not combined.is_file():
        if not (vocabulary.is_file() and merges.is_file()):
            raise ExportError(
                "The checkpoint's tokenizer has neither tokenizer.json nor vocab.json and merges.txt",
                hint="Copy the checkpoint's tokenizer folder again",
            )
        with quiet():
            from transformers import CLIPTokenizer

            CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(combined))
    if not (vocabulary.is_file() and merges.is_file()):
        model = json.loads(combined.read_text(encoding="utf-8"))["model"]
        vocabulary.write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        merges.write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")


def _write_graph(plan: Any, scratch: Path, weights: str, precision: str, limit: float) -> GraphSpec:
    import onnx_ir as ir
    import torch

    from riffusion_export.graphs import tensor_specs, trace_graph
    from riffusion_export.parity import measure_parity
    from riffusion_export.weights import point_into_safetensors

    model = trace_graph(plan, getattr(torch, precision))
    folder = scratch / plan.name
    point_into_safetensors(model, folder / plan.weights_file)
    ir.save(model, folder / GRAPH_FILE)
    graph = GraphSpec(
        path=f"{plan.name}/{GRAPH_FILE}",
        inputs=tensor_specs(model.graph.inputs),
        outputs=tensor_specs(model.graph.outputs),
        weights_dtype=weights,
        compute_dtype=precision,
        parity={},
    )
    del model
    parity = measure_parity(plan, graph, folder / GRAPH_FILE)
    worst = max(parity.values())
    if worst > limit:
        raise ExportError(
            f"The {plan.name} graph is {worst:.1e} away from torch (relative L2), more than {limit:.0e}",
            hint="Export in float32: riffusion-rt export CHECKPOINT -o BUNDLE --precision float32"
            if precision == "float16"
            else "Check the checkpoint for weights that overflow float16, or keep them: --weights float32",
        )
    return GraphSpec(
        path=graph.path,
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights_dtype=weights,
        compute_dtype=precision,
        parity=parity,
    )


def _manifest(loaded: Checkpoint, graphs: dict[str, GraphSpec], scratch: Path, name: str | None) -> Manifest:
    facts = loaded.facts
    files = sorted(path for path in scratch.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    return Manifest(
        name=name or facts.name,
        graphs=graphs,
        files={path.relative_to(scratch).as_posix(): file_spec(path) for path in files},
        latent=loaded.latent,
        spectrogram=facts.spectrogram,
        defaults=facts.defaults,
        source=SourceSpec(
            checkpoint=loaded.folder.resolve().name, licence=facts.licence, description=facts.description
        ),
        exporter={
            package: metadata.version(package)
            for package in ("riffusion-rt", "torch", "diffusers", "transformers", "onnxscript", "onnxruntime")
        },
    )
