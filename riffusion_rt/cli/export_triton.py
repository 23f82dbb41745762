"""A bundle in, a model repository for Triton Inference Server out."""

from __future__ import annotations

from pathlib import Path

import click

from riffusion_rt.cli.report import Report, reporting


@click.command("export-triton", short_help="A bundle becomes a repository for Triton Inference Server.")
@click.argument("bundle")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="REPOSITORY",
    required=True,
    help="The folder to make, for tritonserver --model-repository.",
)
@click.option(
    "--instance",
    type=click.Choice(["gpu", "cpu"]),
    default="gpu",
    show_default=True,
    help="Where the server runs graphs.",
)
@click.option(
    "--max-batch",
    type=int,
    default=8,
    show_default=True,
    help="Most samples in a run; guidance takes two for a clip.",
)
@click.option("--clips-at-once", type=int, default=4, show_default=True, help="Clips under way at a time.")
@click.option(
    "--plans",
    is_flag=True,
    help="TensorRT engines from the cache (`riffusion-rt build --device trt`), not ONNX.",
)
@reporting
def command(
    bundle: str,
    output: Path,
    instance: str,
    max_batch: int,
    clips_at_once: int,
    plans: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a model repository of BUNDLE, a short name or a bundle's folder.

    Clients call the model `riffusion`: a prompt, and if wanted negative_prompt, seed, steps, guidance, sampler and
    duration_s, become a picture, a waveform and its sample rate. The server's Python needs riffusion-rt: pip install
    riffusion-rt
    """
    report = Report(as_json, quiet)
    from riffusion_rt.model_repository.bundle_repository import RepositorySettings, write_repository
    from riffusion_rt.models import locate_model

    settings = RepositorySettings(instance, max_batch, clips_at_once, plans)
    models = []
    for name in write_repository(locate_model(bundle), output, settings):
        models.append(name)
        report.line(f"{name}: {output / name}")
    report.line(f"Serve it: tritonserver --model-repository {output}")
    report.document({"repository": output, "models": models})
