"""A prompt in, one clip or a series of seeds out: audio files and their spectrogram pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.destination import clip_paths
from riffusion_rt.cli.report import Report, reporting
from riffusion_rt.cli.stopwatch import process_age_s

if TYPE_CHECKING:
    from riffusion_rt.clip import Clip
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.request import ClipRequest

MAX_COUNT = 9999
"""Clips of one run: their numbers have four digits."""


@click.command("generate", short_help="A prompt becomes music: audio and its spectrogram.")
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to: .wav, .flac, .ogg, .mp3 or a folder; the picture beside it.  [default: PROMPT-SEED.wav]",
)
@click.option("--negative", default="", metavar="TEXT", help="What to stay away from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed is another clip.")
@click.option("--count", type=int, default=1, show_default=True, help="Clips: this seed and the next.")
@click.option("--steps", type=int, help="Denoising steps; more take longer.  [default: the model's]")
@click.option("--guidance", type=float, help="How strictly to follow the prompt.  [default: the model's]")
@click.option("--sampler", metavar="NAME", help="How steps are taken.  [default: the model's]")
@click.option(
    "--seed-image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A picture to start from.",
)
@click.option("--strength", type=float, help="How far to go from the seed image, 0 to 1.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the seed image may change: white changes, black stays.",
)
@click.option(
    "--model",
    default="riffusion-mini",
    show_default=True,
    metavar="NAME",
    help="A short name, a bundle's folder, or a hub id.",
)
@click.option("--device", default="auto", show_default=True, help="cpu or cuda; see `riffusion-rt doctor`.")
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: as many as help]")
@reporting
def command(
    prompt: str,
    output: Path | None,
    negative: str,
    seed: int,
    count: int,
    model: str,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Make music from PROMPT.

    Words can be stressed, (piano) or (piano:1.5), and softened, [drums]. The same prompt, seed and settings
    give the same files.
    """
    report = Report(as_json, quiet)
    started = process_age_s()
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.request import ClipRequest

    if not 1 <= count <= MAX_COUNT:
        raise RequestError(
            f"count must be from 1 to {MAX_COUNT}, not {count}", hint="Choose --count within its range"
        )
    if threads is not None and threads < 1:
        raise RequestError(f"threads must be 1 or more, not {threads}", hint="Leave --threads out")
    requests = [
        ClipRequest(prompt, negative_prompt=negative, seed=number, **settings)
        for number in range(seed, seed + count)
    ]
    paths = clip_paths(output, prompt, [request.seed for request in requests])
    imported = process_age_s()
    clips = []
    with Riffusion(model, device=device, threads=threads) as riffusion:
        loaded = process_age_s()
        for number, (request, path) in enumerate(zip(requests, paths, strict=True), 1):
            title = f"clip {number}/{count}" if count > 1 else "denoising"
            clips.append(_make(riffusion, request, path, title, report))
        name, device = riffusion.manifest.name, riffusion.device
    seconds = {
        "start": started,
        "import": imported - started,
        "load": loaded - imported,
        "total": process_age_s(),
    }
    report.document({"model": name, "device": device, "clips": clips, "seconds": _rounded(seconds)})


def _make(
    riffusion: Riffusion, request: ClipRequest, path: Path, title: str, report: Report
) -> dict[str, Any]:
    from riffusion_rt.clip import Clip

    clip: Clip | None = None
    with report.progress(title, "step") as advance:
        for event in riffusion.iterate(request):
            if isinstance(event, Clip):
                clip = event
            else:
                advance(event.step, event.steps)
    assert clip is not None
    started = time.perf_counter()
    audio, image = clip.save(path)
    written = time.perf_counter() - started
    report.line(f"{audio} and {image.name}: {clip.duration_s:.2f} s, seed {request.seed}")
    return {
        "audio": audio,
        "image": image,
        "seed": request.seed,
        "duration_s": clip.duration_s,
        "sample_rate": clip.sample_rate,
        "samples": clip.samples.shape[1],
        "request": clip.request.settings(),
        "seconds": _rounded({**clip.timings, "write": written}),
    }


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in seconds.items()}
