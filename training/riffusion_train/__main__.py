"""``python -m riffusion_train STAGE``: the stages of riffusion-mini's recipe, each resumable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

RUN = click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=Path("runs/mini"),
    show_default=True,
    help="Folder of the run.",
)


@click.group(context_settings={"max_content_width": 110})
def main() -> None:
    """Render, train and judge riffusion-mini."""


@main.command()
@RUN
@click.option("--count", default=4000, show_default=True, help="Clips to render.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--soundfont", type=click.Path(path_type=Path), default=None, help="An .sf2 or .sf3 file.")
@click.option("--folder", default="clips", show_default=True, help="Folder of the data set inside the run.")
def render(run: Path, count: int, seed: int, processes: int, soundfont: Path | None, folder: str) -> None:
    """Render captioned clips from openly licensed instruments."""
    from riffusion_train.rendered_clips import render_dataset
    from riffusion_train.rendering import DEBIAN_SOUNDFONT

    steps = render_dataset(
        run / folder, count, seed=seed, soundfont=soundfont or DEBIAN_SOUNDFONT, processes=processes
    )
    with tqdm(total=count, unit="clip") as bar:
        for done in steps:
            bar.update(done - bar.n)


@main.command()
@RUN
@click.option("--minutes", default=25.0, show_default=True, help="Wall time to train.")
@click.option("--steps", type=int, help="Batches to train instead.")
def autoencoder(run: Path, minutes: float, steps: int | None) -> None:
    """Train the autoencoder on the rendered pictures."""
    from riffusion_train.autoencoder import AutoencoderRecipe, train_autoencoder
    from riffusion_train.rendered_clips import open_pictures, read_facts

    pictures = open_pictures(run / "clips")[: len(read_facts(run / "clips"))]
    _show(train_autoencoder(pictures, run, AutoencoderRecipe(minutes=minutes, steps=steps)), "dB")


@main.command()
@RUN
@click.option("--minutes", default=45.0, show_default=True, help="Wall time to train.")
@click.option("--steps", type=int, help="Batches to train instead.")
def denoiser(run: Path, minutes: float, steps: int | None) -> None:
    """Train the UNet and the text encoder on the autoencoder's latents."""
    from riffusion_train.denoiser import DenoiserRecipe, train_denoiser

    _show(train_denoiser(run, DenoiserRecipe(minutes=minutes, steps=steps)), "loss")


@main.command()
@RUN
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint."
)
def assemble(run: Path, output: Path) -> None:
    """Gather the trained parts into a diffusers checkpoint."""
    from riffusion_train.mini import assemble_checkpoint

    click.echo(assemble_checkpoint(run, output))


def _show(reports: Iterable[Any], measure: str) -> None:
    with tqdm(total=1.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}", mininterval=5) as bar:
        for report in reports:
            bar.set_postfix_str(f"step {report.step}, {measure} {report.measure:.3f}", refresh=False)
            bar.update(report.fraction - bar.n)


if __name__ == "__main__":
    main()
