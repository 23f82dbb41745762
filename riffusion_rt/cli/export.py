"""A diffusers checkpoint in, a bundle out."""

from __future__ import annotations

from pathlib import Path

import click

from riffusion_rt.cli.report import reporting


@click.command("export", short_help="A diffusers checkpoint becomes a bundle to play from.")
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    required=True,
    help="The folder to make.",
)
@reporting
def command(checkpoint: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Export CHECKPOINT, a folder or a hub id in the local cache, to a bundle.

    Needs torch: pip install 'riffusion-rt[export]'
    """
    raise NotImplementedError
