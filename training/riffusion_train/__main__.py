"""``python -m riffusion_train STAGE``: the stages of riffusion-mini's recipe, each resumable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import partial
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

CLIPS, MANNERED, DUOS = 6_000, 4_800, 2_200
"""The data set that riffusion-mini learns from."""
DRAWN, REDRAWN = 800, 1_200
"""Clips of its own that its decoder learns from: drawn from noise, and from clips of the data set."""
EMPHASIS_BATCHES = 1_700


@click.group(context_settings={"max_content_width": 110})
def main() -> None:
    """Render, train and judge riffusion-mini."""


@main.command()
@RUN
@click.option("--count", default=CLIPS, show_default=True, help="Clips to render.")
@click.option(
    "--mannered", default=MANNERED, show_default=True, help="Clips of those who play in many manners."
)
@click.option("--duos", default=DUOS, show_default=True, help="Duos to mix of the first.")
@click.option("--seed", default=0, show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--soundfont", type=click.Path(path_type=Path), default=None, help="An .sf2 or .sf3 file.")
def render(
    run: Path, count: int, mannered: int, duos: int, seed: int, processes: int, soundfont: Path | None
) -> None:
    """Make the data set: captioned clips of openly licensed instruments, and duos mixed of them."""
    from riffusion_train.duos import mix_duos
    from riffusion_train.rendered_clips import MANNERS_FOLDER, render_dataset
    from riffusion_train.rendering import DEBIAN_SOUNDFONT

    rendering = partial(
        render_dataset, seed=seed, soundfont=soundfont or DEBIAN_SOUNDFONT, processes=processes
    )
    for total, steps in (
        (count, rendering(run / "clips", count)),
        (mannered, rendering(run / MANNERS_FOLDER, mannered, manners=True)),
        (duos, mix_duos(run, duos, seed=seed)),
    ):
        with tqdm(total=total, unit="clip") as bar:
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
@click.option(
    "--autoencoder-batches", type=int, required=True, help="That it had learned from, for the card."
)
@click.option("--denoiser-batches", type=int, required=True, help="The same.")
@click.option("--decoder-batches", default=0, show_default=True, help="The same, of the decoder alone.")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def begin(
    run: Path, autoencoder_batches: int, denoiser_batches: int, decoder_batches: int, bundle: Path
) -> None:
    """Begin a run with the weights of a BUNDLE's folder instead of none; its encoder stays as it is."""
    from riffusion_train.begun import begin_with

    begun = begin_with(bundle, run, autoencoder_batches, denoiser_batches, decoder_batches)
    click.echo(f"{run} begins with {begun.model} of {denoiser_batches:,} batches")


@main.command()
@RUN
@click.option("--minutes", default=150.0, show_default=True, help="Wall time to train.")
@click.option("--steps", type=int, help="Batches to train instead.")
@click.option("--learning-rate", default=6e-4, show_default=True, help="At its highest; it falls to the end.")
def denoiser(run: Path, minutes: float, steps: int | None, learning_rate: float) -> None:
    """Train the UNet and the text encoder on the autoencoder's latents."""
    from riffusion_train.denoiser import DenoiserRecipe, train_denoiser

    recipe = DenoiserRecipe(minutes=minutes, steps=steps, learning_rate=learning_rate)
    _show(train_denoiser(run, recipe), "loss")


@main.command()
@RUN
@click.option("--share", default=0.5, show_default=True, help="Of the BUNDLE's weights in the mean.")
@click.option(
    "--denoiser-batches", type=int, required=True, help="That the BUNDLE had learned from, for the card."
)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def soup(run: Path, share: float, denoiser_batches: int, bundle: Path) -> None:
    """Mix the UNet and the text encoder with an earlier state of them, a BUNDLE's."""
    from riffusion_train.model_soup import mix_in

    mixed = mix_in(bundle, run, share, denoiser_batches)
    click.echo(f"{run} has {mixed.share:.0%} of {mixed.model}")


@main.command()
@RUN
@click.option("--manner", default="jazzy", show_default=True, help="Its word.")
@click.option(
    "--emphasis", default=3.0, show_default=True, help="How much further away from the other manners."
)
@click.option("--steps", default=EMPHASIS_BATCHES, show_default=True, help="Batches to teach it.")
def emphasize(run: Path, manner: str, emphasis: float, steps: int) -> None:
    """Teach the text encoder to say a manner louder, for players who were never heard in it."""
    from riffusion_train.manner_emphasis import EmphasisRecipe, emphasize_manner

    _show(emphasize_manner(run, EmphasisRecipe(manner, emphasis, batches=steps)), "error")


@main.command()
@RUN
@click.option("--count", default=DRAWN, show_default=True, help="Clips to draw from noise.")
@click.option("--redrawn", default=REDRAWN, show_default=True, help="Clips of the data set to draw again.")
def draw(run: Path, count: int, redrawn: int) -> None:
    """Draw clips' latents with the trained UNet, for the decoder to learn from."""
    from riffusion_train.drawn_latents import DrawSettings, draw_latents, redraw_latents
    from riffusion_train.mini import SHIPPED_SETTINGS

    shipped = DrawSettings(**{field.name: SHIPPED_SETTINGS[field.name] for field in fields(DrawSettings)})  # type: ignore[arg-type]
    for total, steps in (
        (count, draw_latents(run, count, shipped)),
        (redrawn, redraw_latents(run, redrawn, shipped)),
    ):
        with tqdm(total=total, unit="clip", mininterval=5) as bar:
            for done in steps:
                bar.update(done - bar.n)


@main.command()
@RUN
@click.option("--minutes", default=12.0, show_default=True, help="Wall time to train.")
@click.option("--steps", type=int, help="Batches to train instead.")
def decoder(run: Path, minutes: float, steps: int | None) -> None:
    """Teach the autoencoder's decoder not to blur; latents stay as they are."""
    from riffusion_train.decoder import DecoderRecipe, train_decoder

    _show(train_decoder(run, DecoderRecipe(minutes=minutes, steps=steps)), "dB")


@main.command(name="few-steps")
@RUN
@click.option("--minutes", default=45.0, show_default=True, help="Wall time to train.")
@click.option("--steps", type=int, help="Batches to train instead.")
@click.option("--guidance", default=5.0, show_default=True, help="That the student plays as if it had.")
def few_steps(run: Path, minutes: float, steps: int | None, guidance: float) -> None:
    """Distil the UNet into one that needs four to eight steps and no guidance."""
    from riffusion_train.few_steps import FewStepsRecipe, train_few_steps

    _show(train_few_steps(run, FewStepsRecipe(minutes=minutes, steps=steps, guidance=guidance)), "loss")


@main.command()
@RUN
@click.option("--few-steps", "few", is_flag=True, help="Take the distilled UNet, and settings that suit it.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint."
)
def assemble(run: Path, few: bool, output: Path) -> None:
    """Gather the trained parts into a diffusers checkpoint."""
    from riffusion_train.mini import assemble_checkpoint

    click.echo(assemble_checkpoint(run, output, few_steps=few))


@main.command()
@RUN
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint."
)
@click.option("--count", default=CLIPS, show_default=True, help="Clips to render.")
@click.option(
    "--mannered", default=MANNERED, show_default=True, help="Clips of those who play in many manners."
)
@click.option("--duos", default=DUOS, show_default=True, help="Duos to mix of the first.")
@click.option("--steps", type=int, help="Batches to train each network with, instead of its time.")
@click.pass_context
def everything(
    context: click.Context, run: Path, output: Path, count: int, mannered: int, duos: int, steps: int | None
) -> None:
    """All of it, from the data set to the checkpoint: some four hours of two cores."""
    context.invoke(render, run=run, count=count, mannered=mannered, duos=duos)
    context.invoke(autoencoder, run=run, steps=steps)
    context.invoke(denoiser, run=run, steps=steps)
    context.invoke(emphasize, run=run, steps=steps or EMPHASIS_BATCHES)
    drawn = {"count": DRAWN, "redrawn": REDRAWN}
    context.invoke(
        draw, run=run, **(drawn if steps is None else {k: min(n, 2 * steps) for k, n in drawn.items()})
    )
    context.invoke(decoder, run=run, steps=steps)
    context.invoke(assemble, run=run, output=output)


@main.command()
@RUN
@click.option("--few-steps", "few", is_flag=True, help="The distilled UNet is the one that was judged.")
@click.option(
    "--figures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Rows of benchmarks/mini_evaluation.py; the last one counts.",
)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def card(run: Path, few: bool, figures: Path, bundle: Path) -> None:
    """Write the figures that the model was judged by into the card of its exported BUNDLE."""
    import json

    from riffusion_train.mini import write_card

    row = json.loads(figures.read_text(encoding="utf-8").splitlines()[-1])
    click.echo(write_card(run, bundle, row, few_steps=few))


def _show(reports: Iterable[Any], measure: str) -> None:
    with tqdm(
        total=1.0, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}", mininterval=5, miniters=0
    ) as bar:
        for report in reports:
            bar.set_postfix_str(f"step {report.step}, {measure} {report.measure:.3f}", refresh=False)
            bar.update(report.fraction - bar.n)


if __name__ == "__main__":
    main()
