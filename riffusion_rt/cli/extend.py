"""A recording in, the recording and music that follows it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from riffusion_rt.cli.destination import clip_paths
from riffusion_rt.cli.making import Stopwatch, saved, watched
from riffusion_rt.cli.model_options import FILE, ModelChoice, model_choice, output_option, step_options
from riffusion_rt.cli.report import Report, reporting


@click.command("extend", short_help="Music that goes on where a recording ends.")
@click.argument("audio", type=FILE)
@click.argument("prompt", default="")
@output_option("AUDIO-extended-SEED.wav")
@click.option("--duration", "duration_s", type=float, default=5.12, show_default=True, help="Seconds to add.")
@click.option("--negative", "negative_prompt", default="", metavar="TEXT", help="What to stay away from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed goes on another way.")
@step_options
@click.option("--guidance", type=float, help="How strictly to follow the prompt.  [default: the model's]")
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
    """Keep AUDIO as it is and go on from its end, as PROMPT says or as it began."""
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.extend import ExtendRequest

    request = ExtendRequest(audio, prompt, **settings)
    (path,) = clip_paths(output, f"{audio.stem} extended", [request.seed])
    watch.imported()
    with choice.opened() as riffusion:
        watch.loaded()
        (clip,) = watched(riffusion.extend(request), "denoising", report)
        made = saved(clip, path, report, f"{request.duration_s:g} s of it new")
        name, device = riffusion.manifest.name, riffusion.device
    report.document({"model": name, "device": device, "clips": [made], "seconds": watch.seconds()})
