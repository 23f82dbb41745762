"""A prompt in, one clip or a series of seeds out: audio files and their spectrogram pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.destination import check_writable, clip_paths
from riffusion_rt.cli.making import Stopwatch, saved, watched
from riffusion_rt.cli.model_options import FILE, ModelChoice, model_choice, output_option, step_options
from riffusion_rt.cli.report import Report, reporting
from riffusion_rt.cli.seed_images import SEED_IMAGE

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_rt.clip import Clip
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.request import ClipRequest

MAX_COUNT = 9999
"""Clips of one run: their numbers have four digits."""


@click.command("generate", short_help="A prompt becomes music: audio and its spectrogram.")
@click.argument("prompt")
@output_option("PROMPT-SEED.wav")
@click.option("--negative", default="", metavar="TEXT", help="What to stay away from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed is another clip.")
@click.option("--count", type=int, default=1, show_default=True, help="Clips: this seed and the next.")
@click.option("--duration", type=float, metavar="SECONDS", help="Any length.  [default: the model's]")
@click.option("--loop", is_flag=True, help="The end meets the start, in the picture too.")
@step_options
@click.option("--guidance", type=float, help="How strictly to follow the prompt.  [default: the model's]")
@click.option(
    "--seed-image", type=SEED_IMAGE, metavar="NAME|FILE", help="A picture to start from. `help` lists names."
)
@click.option("--seed-audio", type=FILE, metavar="FILE", help="A recording to start from.")
@click.option("--strength", type=float, help="How far to go from the seed image, 0 to 1.")
@click.option(
    "--mask",
    type=FILE,
    metavar="FILE",
    help="Where the seed image may change: white changes, black stays.",
)
@click.option("--repaint", multiple=True, metavar="S-S", help="Seconds that may change: 1.5-3. Repeatable.")
@click.option(
    "--repaint-band", multiple=True, metavar="HZ-HZ", help="Frequencies that may change: 0-500. Repeatable."
)
@click.option(
    "--film", type=FILE, metavar="FILE", help="Also the picture coming out of the noise: .webp, .gif."
)
@model_choice
@reporting
def command(
    prompt: str,
    output: Path | None,
    negative: str,
    seed: int,
    count: int,
    duration: float | None,
    repaint: tuple[str, ...],
    repaint_band: tuple[str, ...],
    film: Path | None,
    choice: ModelChoice,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Make music from PROMPT.

    Words can be stressed, (piano) or (piano:1.5), and softened, [drums]. The same prompt, seed and settings
    give the same files.
    """
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.request import ClipRequest, parse_range

    if not 1 <= count <= MAX_COUNT:
        raise RequestError(
            f"count must be from 1 to {MAX_COUNT}, not {count}", hint="Choose --count within its range"
        )
    requests = [
        ClipRequest(
            prompt,
            negative_prompt=negative,
            seed=number,
            duration_s=duration,
            repaint_s=tuple(parse_range(text, "s") for text in repaint),
            repaint_hz=tuple(parse_range(text, "Hz") for text in repaint_band),
            **settings,
        )
        for number in range(seed, seed + count)
    ]
    paths = clip_paths(output, prompt, [request.seed for request in requests])
    _check_film(film, count)
    watch.imported()
    clips = []
    with choice.opened() as riffusion:
        watch.loaded()
        for number, (request, path) in enumerate(zip(requests, paths, strict=True), 1):
            title = f"clip {number}/{count}" if count > 1 else "denoising"
            clips.append(_make(riffusion, request, path, title, report, film))
        name, device = riffusion.manifest.name, riffusion.device
    report.document({"model": name, "device": device, "clips": clips, "seconds": watch.seconds()})


def _make(
    riffusion: Riffusion, request: ClipRequest, path: Path, title: str, report: Report, film: Path | None
) -> dict[str, Any]:
    frames: list[Image.Image] | None = None if film is None else []
    (clip,) = watched(riffusion.iterate(request), title, report, frames)
    if film is None or frames is None:
        return saved(clip, path, report, _length_note(request, clip))
    from riffusion_rt.preview_film import save_film

    save_film(film, [*frames, clip.image])
    made = saved(clip, path, report, _length_note(request, clip))
    report.line(f"{film}: {len(frames)} steps")
    return {**made, "film": film}


def _length_note(request: ClipRequest, clip: Clip) -> str:
    """What a duration was rounded to, if it was."""
    if request.duration_s is None or abs(clip.duration_s - request.duration_s) < 1 / clip.sample_rate:
        return ""
    reason = "whole cells of a loop" if request.loop else "whole columns"
    return f"rounded from {request.duration_s:g} s to {reason}"


def _check_film(film: Path | None, count: int) -> None:
    if film is None:
        return
    from riffusion_rt.preview_film import check_film_suffix

    check_film_suffix(film)
    check_writable([film])
    if count > 1:
        raise RequestError("A film shows one clip", hint="Leave --count out, or --film")
