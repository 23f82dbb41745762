"""A Stable Diffusion class checkpoint in, a bundle out: one set of weights that diffusers and ONNX both read.

The folder appears whole or not at all; an export that is interrupted goes on where it was. Its weights stand once, as
safetensors in the diffusers layout; the graphs point into them. The autoencoder is the exception to the layout: its
two halves lie beside their graphs, and ``riffusion_export.checkpoint.load_autoencoder`` puts them together again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from riffusion_engine.manifest import MANIFEST_NAME, GraphSpec, Manifest, SourceSpec, file_spec
from riffusion_export.checkpoint import PARTS, Source
from riffusion_export.companions import copy_companions
from riffusion_export.component import PARITY_LIMITS, STEPS, FinishedPart, Step, write_part
from riffusion_export.lora import Lora, LoraRequest, check_fit, read_lora
from riffusion_export.precision import GRAPHS, parse_precisions
from riffusion_export.resume import FolderInMaking, check_output, folder_in_making, inputs_key
from riffusion_export.single_file import open_source

__all__ = ["PARITY_LIMITS", "ExportProgress", "export_bundle"]

_SHARES: dict[str, float] = {
    "text_encoder": 0.12,
    "unet": 0.55,
    "vae_decoder": 0.18,
    "vae_encoder": 0.12,
}
"""Each graph's share of the time; the rest is for hashes and what stands beside the graphs."""
_VOCODER_SHARE = 0.02
_EXPORTERS = ("riffusion-rt", "torch", "diffusers", "transformers", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportProgress:
    """``stage`` begins ("unet: graph"; "done" at the end); ``fraction`` of the work lies behind, 0 to 1.

    ``note`` is a sentence for the user, if there is something to say: a graph that was found finished, or that could
    not be had in the precision asked for.
    """

    stage: str
    fraction: float
    note: str = ""


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    weights: str = "float16",
    precision: str = "float32",
    loras: Sequence[LoraRequest] = (),
    like: Path | None = None,
    name: str | None = None,
    parity_limit: float | None = None,
) -> Iterator[ExportProgress]:
    """Export a Stable Diffusion class checkpoint of any geometry; yields before every step and when done.

    An export that was interrupted leaves its finished networks in a hidden folder beside ``output``; the next one of
    the same checkpoint with the same options takes them up.

    Args:
        checkpoint: a diffusers folder (CLIPTextModel, UNet2DConditionModel, AutoencoderKL), another bundle, or a
            single file in Stable Diffusion's original layout (.safetensors, .ckpt).
        output: the bundle; replaced if it is a bundle already.
        weights: type of the weights on disk, "float16", "float32" or "bfloat16".
        precision: type of the arithmetic, inputs and outputs: "float32", "float16" (for GPUs; then ``weights`` must
            be float16 too), "bfloat16" or "auto", for all graphs or by graph ("unet=float16,vae=float32").
        loras: are fused into the weights, in this order.
        like: a diffusers folder whose configurations, tokenizer and scheduler a single file takes.
        name: the bundle's name; by default the checkpoint's.
        parity_limit: relative L2 distance to torch above which a graph is refused.

    Raises:
        ExportError: the checkpoint cannot be exported, a LoRA does not fit it, a graph strays too far from torch or
            overflows its precision, or ``output`` holds something that is not a bundle.
        OutputError: ``output`` cannot be written.
    """
    precisions = parse_precisions(precision, weights)
    check_output(output)
    source = open_source(checkpoint, like)
    adaptations = [read_lora(request) for request in loras]
    if adaptations:
        check_fit(adaptations, {part: source.skeleton(part) for part in ("text_encoder", "unet")})
    options = {
        "precisions": repr(sorted(precisions.items())),
        "loras": repr([adaptation.spec for adaptation in adaptations]),
        "parity": repr(parity_limit),
        "exporters": repr(_exporter_versions()),
    }
    files = {str(path.absolute()): path for path in source.files}
    with folder_in_making(output, inputs_key(files, options)) as making:
        copy_companions(source.folder, making.path)
        graphs: dict[str, GraphSpec] = {}
        for part in PARTS:
            done = making.finished(part, FinishedPart)
            if done is None:
                steps = write_part(source, part, making.path, precisions, adaptations, parity_limit)
                done = yield from _progress(steps)
                making.finish(part, done.graphs, done)
            else:
                yield ExportProgress(part, _behind(next(iter(done.graphs))), f"{part} was finished before")
            graphs |= done.graphs
        yield ExportProgress("vocoder", sum(_SHARES.values()))
        graphs |= _vocoder(source, making.path)
        yield ExportProgress("hashes", sum(_SHARES.values()) + _VOCODER_SHARE)
        _manifest(source, graphs, adaptations, making, name).write(making.path)
    yield ExportProgress("done", 1.0)


def _progress(
    steps: Generator[Step, None, FinishedPart],
) -> Generator[ExportProgress, None, FinishedPart]:
    furthest = 0.0  # The autoencoder's graphs take turns.
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            done: FinishedPart = stop.value
            return done
        shares = list(STEPS.values())[: list(STEPS).index(step.step)]
        furthest = max(furthest, _behind(step.graph) + _SHARES[step.graph] * sum(shares))
        yield ExportProgress(f"{step.graph}: {step.step}", furthest, step.note)


def _behind(graph: str) -> float:
    return sum(_SHARES[name] for name in GRAPHS[: GRAPHS.index(graph)])


def _vocoder(source: Source, bundle: Path) -> dict[str, GraphSpec]:
    """The vocoder's entry, which is float32 in every bundle; none where the pictures are narrower than a frame."""
    from riffusion_export.vocoder_file import VOCODER, bundle_plan, write_vocoder

    plan = bundle_plan(source.facts.spectrogram, source.geometry.latent)
    return {} if plan is None else {VOCODER: write_vocoder(bundle, plan)}


def _exporter_versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _EXPORTERS}


def _manifest(
    source: Source,
    graphs: dict[str, GraphSpec],
    loras: Sequence[Lora],
    making: FolderInMaking,
    name: str | None,
) -> Manifest:
    facts = source.facts
    files = [path for path in making.files() if path.name != MANIFEST_NAME]
    return Manifest(
        name=name or facts.name,
        graphs=graphs,
        files={path.relative_to(making.path).as_posix(): file_spec(path) for path in files},
        latent=source.geometry.latent,
        spectrogram=facts.spectrogram,
        defaults=facts.defaults,
        source=SourceSpec(checkpoint=source.name, licence=facts.licence, description=facts.description),
        loras=(*facts.loras, *(lora.spec for lora in loras)),
        exporter=_exporter_versions(),
    )
