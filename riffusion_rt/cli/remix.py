"""A recording and a prompt in, the recording as the prompt would play it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from riffusion_rt.cli.destination import clip_paths, slug
from riffusion_rt.cli.making import Stopwatch, saved, watched
from riffusion_rt.cli.model_options import FILE, ModelChoice, model_choice, output_option, step_options
from riffusion_rt.cli.report import Report, reporting


@click.command("remix", short_help="A recording, as a prompt would play it.")
@click.argument("audio", type=FILE)
@click.argument("prompt", default="")
@output_option("AUDIO-PROMPT-SEED.wav")
@click.option("--to", "to_prompt", metavar="PROMPT", help="What it has become at its end.")
@click.option("--with", "with_audio", type=FILE, metavar="FILE", help="A recording to cross over into.")
@click.option(
    "--strength",
    type=float,
    default=0.75,
    show_default=True,
    help="How far to go from the recording, 0 to 1.",
)
@click.option(
    "--method",
    type=click.Choice(["mix", "redraw"]),
    default="mix",
    show_default=True,
    help="mix: the beat stays and the prompt plays it; redraw: Riffusion's image to image.",
)
@click.option("--negative", "negative_prompt", default="", metavar="TEXT", help="What to stay away from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed is another remix.")
@step_options
@click.option(
    "--guidance",
    type=float,
    help="How strictly to follow the prompt.  [default: the model's for what has a seed]",
)
@model_choice
@reporting
def command(
    audio: Path,
    prompt: str,
    output: Path | None,
    choice: ModelChoice,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Draw AUDIO anew as PROMPT would play it: any length, at its own rate, exactly as long and as loud."""
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.remix import RemixRequest

    request = RemixRequest(audio, prompt, **settings)
    into = prompt or request.to_prompt or Path(request.with_audio or "").stem
    (path,) = clip_paths(output, f"{audio.stem} {slug(into)}", [request.seed])
    watch.imported()
    with choice.opened() as riffusion:
        watch.loaded()
        (clip,) = watched(riffusion.remix(request), "denoising", report)
        made = saved(clip, path, report)
        name, device = riffusion.manifest.name, riffusion.device
    report.document({"model": name, "device": device, "clips": [made], "seconds": watch.seconds()})
