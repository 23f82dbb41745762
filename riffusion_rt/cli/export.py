"""A diffusers checkpoint in, a bundle out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from riffusion_engine.errors import MissingExtraError
from riffusion_rt.cli.report import Report, reporting

_NEEDED = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "safetensors", "onnxruntime")
"""What the export imports beyond the base install."""


@click.command("export", short_help="A diffusers checkpoint becomes a bundle to play from.")
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    required=True,
    help="The folder to make; a bundle that is there is replaced.",
)
@click.option("--name", help="What the bundle calls itself.  [default: as the checkpoint]")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    metavar="TYPE|GRAPH=TYPE,…",
    help="Arithmetic: float32, float16 or bfloat16 (for GPUs), auto; by graph too: float16,vae=float32.",
)
@click.option(
    "--weights", default="float16", show_default=True, help="Numbers on disk: float16, float32 or bfloat16."
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="Fuse a LoRA into the weights; more than once if wanted.",
)
@click.option(
    "--like",
    metavar="FOLDER|ID",
    help="For a single file: where its tokenizer comes from.  [default: riffusion-v1, if it was pulled]",
)
@reporting
def command(
    checkpoint: str,
    output: Path,
    name: str | None,
    precision: str,
    weights: str,
    loras: tuple[str, ...],
    like: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Export CHECKPOINT to a bundle, the folder that `riffusion-rt generate --model` takes.

    CHECKPOINT is a folder saved by diffusers, a .safetensors or .ckpt file in the original layout, the hub id of a
    model that was pulled, or riffusion-mini, to fuse a LoRA into it. Nothing is downloaded. An export that was
    interrupted goes on where it was. Needs torch: pip install 'riffusion-rt[export,cpu]'
    """
    report = Report(as_json, quiet)
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise MissingExtraError(
            f"The export needs {', '.join(missing)}",
            hint="Install it with: pip install 'riffusion-rt[export,cpu]'",
        )
    from riffusion_engine.manifest import Manifest
    from riffusion_export.bundle import export_bundle
    from riffusion_export.lora import parse_lora
    from riffusion_rt.models import locate_checkpoint, locate_settings

    folder = locate_checkpoint(checkpoint)
    settings = None
    if like is not None or folder.is_file():
        settings = locate_settings(like or "riffusion-v1")
    if name is None and not Path(checkpoint).exists():
        # In the hub's cache a checkpoint's folder is called after its commit.
        name = checkpoint.rpartition("/")[2]
    steps = export_bundle(
        folder,
        output,
        name=name,
        precision=precision,
        weights=weights,
        loras=[parse_lora(lora) for lora in loras],
        like=settings,
    )
    notes = []
    with report.progress("export", "%") as advance:
        for progress in steps:
            advance(round(100 * progress.fraction), 100, progress.stage)
            if progress.note:
                notes.append(progress.note)

    manifest = Manifest.read(output)
    size = sum(file.size for file in manifest.files.values())
    parity = {graph: max(spec.parity.values()) for graph, spec in manifest.graphs.items()}
    for note in notes:
        report.line(f"Note: {note}")
    report.line(f"{output}: {manifest.name}, {size / 1e6:.1f} MB")
    for graph, distance in parity.items():
        report.line(f"  {graph}: {distance:.1e} from torch (relative L2)")
    report.line(f'Play it: riffusion-rt generate "funky piano" --model {output}')
    report.document(
        {"bundle": output, "name": manifest.name, "bytes": size, "parity": parity, "notes": notes}
    )
