"""Spectrogram pictures in, sound out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from riffusion_rt.cli.batch import PICTURE_SUFFIXES, Job, finish, jobs_option, plan_jobs, run_jobs
from riffusion_rt.cli.report import Report, reporting


@click.command("decode", short_help="Spectrogram pictures become sound.")
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The sound (.wav, .flac, .ogg, .mp3), or a folder. Default: a WAV file beside the picture.",
)
@click.option("--format", "suffix", default="wav", show_default=True, help="What a folder is filled with.")
@click.option(
    "--preset", default="balanced", show_default=True, help="Care for phases: fast, balanced, best."
)
@click.option(
    "--loop/--no-loop",
    default=None,
    help="Whether the end flows into the start.  [default: as `generate` did; else not]",
)
@click.option("--stereo/--mono", default=None, help="For a picture whose EXIF does not say.")
@jobs_option
@reporting
def command(
    image: Path,
    output: Path | None,
    suffix: str,
    preset: str,
    loop: bool | None,
    stereo: bool | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn IMAGE, a spectrogram picture (PNG or JPEG) or a folder of them, into sound."""
    from riffusion_rt.audio_file import check_audio_suffix
    from riffusion_rt.phase import phase_preset

    report = Report(as_json, quiet)
    phase_preset(preset)
    planned = plan_jobs(image, output, f".{suffix.lstrip('.').lower()}", PICTURE_SUFFIXES)
    for job in planned:
        check_audio_suffix(job.target)
    outcomes = run_jobs(
        planned,
        lambda job: decode_file(job, preset=preset, loop=loop, stereo=stereo),
        title="decode",
        workers=jobs,
        report=report,
        describe=lambda job, result: f"{job.target}: {result['duration_s']:.2f} s from {job.source}",
    )
    finish(outcomes, report)


def decode_file(job: Job, *, preset: str, loop: bool | None, stereo: bool | None) -> dict[str, Any]:
    """Read one picture, find its phases, write its sound, and say what was done."""
    from riffusion_rt.audio_file import write_audio
    from riffusion_rt.loudness import finish_clip
    from riffusion_rt.phase import waveform_from_mel
    from riffusion_rt.spectrogram_image import (
        load_image,
        mel_from_image,
        params_from_exif,
        text_from_image,
    )

    picture = load_image(job.source)
    params, text = params_from_exif(picture), text_from_image(picture)
    if stereo is not None:
        params = replace(params, stereo=stereo)
    looped = "request" in text if loop is None else loop
    samples = finish_clip(
        waveform_from_mel(mel_from_image(picture, params), params, preset=preset, loop=looped)
    )
    write_audio(job.target, samples, params.sample_rate, text or {"source": job.source.name})
    return {
        "source": job.source,
        "audio": job.target,
        "duration_s": samples.shape[1] / params.sample_rate,
        "sample_rate": params.sample_rate,
        "samples": samples.shape[1],
        "channels": samples.shape[0],
        "loop": looped,
    }
