"""A file of prompts in, a folder of clips and their manifest out, on this machine or all over a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from riffusion_rt.cli.failure import USER_ERROR, OneLineError
from riffusion_rt.cli.model_options import FILE, check_threads, model_options, step_options
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    from riffusion_rt.bulk import Maker

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_TOLD = 10
"""Failures that are said one by one."""


def ray_options(command: Command) -> Command:
    """Give a verb ``--ray``, ``--ray-address``, ``--replicas``, ``--gpus`` and ``--cpus``."""
    for option in (
        click.option("--cpus", type=float, help="Cores of each engine.  [default: 1]"),
        click.option("--gpus", type=float, help="GPUs of each engine; 0.5 is half of one.  [default: 0]"),
        click.option(
            "--replicas",
            metavar="N|LEAST:MOST",
            default="1",
            show_default=True,
            help="Engines of a cluster; 1:8 follows the load.",
        ),
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="A cluster's head node, or auto.  [default: a cluster on this machine]",
        ),
        click.option("--ray", "on_ray", is_flag=True, help="Over a Ray cluster; see docs/cluster.md."),
    ):
        command = option(command)
    return command


@click.command("batch", short_help="A file of prompts becomes a folder of clips.")
@click.argument("prompts", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="FOLDER", required=True, help="Where the clips go.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the first prompt; each has the next."
)
@click.option("--negative", "negative_prompt", metavar="TEXT", help="What to stay away from.")
@click.option(
    "--duration", "duration_s", type=float, metavar="SECONDS", help="Of each.  [default: the model's]"
)
@click.option("--guidance", type=float, help="How strictly to follow a prompt.  [default: the model's]")
@click.option("--format", "suffix", default="wav", show_default=True, help="wav, flac, ogg or mp3.")
@step_options
@ray_options
@model_options
@reporting
def command(
    prompts: Path,
    output: Path,
    seed: int,
    suffix: str,
    on_ray: bool,
    ray_address: str | None,
    replicas: str,
    gpus: float | None,
    cpus: float | None,
    model: str,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Make a clip of every line of PROMPTS: text, or .jsonl with a request's settings in each line.

    \b
      riffusion-rt batch prompts.txt -o clips
      riffusion-rt batch prompts.txt -o clips --ray --replicas 4 --gpus 1

    Begin it again after whatever ended it: what is there stays, and clips/manifest.jsonl is complete at the end.
    """
    from riffusion_rt.audio_file import check_audio_suffix
    from riffusion_rt.bulk import BulkFolder, check_distinct, make_all, read_prompts

    report = Report(as_json, quiet)
    suffix = f".{suffix.lstrip('.').lower()}"
    check_audio_suffix(Path(f"clip{suffix}"))
    check_threads(threads)
    given = {name: value for name, value in settings.items() if value is not None}
    entries = read_prompts(prompts, model=model, seed=seed, settings=given)
    check_distinct(entries)
    options = {"device": device, "threads": threads}
    failed = []
    with ExitStack() as stack:
        folder = stack.enter_context(BulkFolder(output, entries, suffix))
        before = folder.made
        if folder.missing:
            maker = stack.enter_context(
                _on_cluster(model, options, suffix, ray_address, replicas, gpus, cpus)
                if on_ray
                else _here(model, options, suffix)
            )
            with report.progress("clips", "clip") as advance:
                for clip in make_all(folder, maker):
                    if clip.error is not None:
                        failed.append((clip.number, clip.error))
                    advance(folder.made, len(entries))
        made, missing = folder.made, len(folder.missing)
    report.line(f"{output}: {made} of {len(entries)} clips, {made - before} of them new")
    report.document(
        {
            "folder": output,
            "prompts": len(entries),
            "clips": made,
            "new": made - before,
            "failed": [{"number": number, "error": error.message} for number, error in failed],
        }
    )
    for number, error in failed[:MOST_TOLD]:
        OneLineError(f"prompt {number}: {error}", USER_ERROR).show()
    if missing:
        raise OneLineError(
            f"{missing} of {len(entries)} clips could not be made; the others are done", USER_ERROR
        )


@contextmanager
def _here(model: str, options: dict[str, Any], suffix: str) -> Iterator[Maker]:
    from riffusion_rt.bulk import made_here
    from riffusion_rt.pipeline import Riffusion

    with Riffusion(model, **options) as riffusion:
        yield made_here(riffusion, suffix)


@contextmanager
def _on_cluster(
    model: str,
    options: dict[str, Any],
    suffix: str,
    address: str | None,
    replicas: str,
    gpus: float | None,
    cpus: float | None,
) -> Iterator[Maker]:
    from riffusion_rt.scale.bulk_cluster import made_by_cluster
    from riffusion_rt.scale.cluster_settings import ClusterSettings, parse_replicas
    from riffusion_rt.scale.starting import LOCAL, cluster

    least, most = parse_replicas(replicas)
    given: dict[str, Any] = {"gpus": gpus, "cpus": cpus}
    given = {name: value for name, value in given.items() if value is not None}
    makers = ClusterSettings(least=least, most=most, **given)
    with cluster(address or LOCAL):
        yield made_by_cluster(model, options, suffix, makers)
