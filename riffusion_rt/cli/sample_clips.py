"""Recordings in, short clips from random places in them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.batch import RECORDING_SUFFIXES, Job, finish, jobs_option, plan_jobs, run_jobs
from riffusion_rt.cli.report import Report, reporting

MAX_CLIPS = 9999
"""Clips of one recording: their numbers have four digits."""


@click.command("sample-clips", short_help="Random clips are cut out of recordings.")
@click.argument("audio", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Where the clips go, as NAME-0001-at-12340ms.wav.",
)
@click.option("--count", type=int, default=1, show_default=True, help="Clips of each recording.")
@click.option("--duration", "duration_s", type=float, default=5.12, show_default=True, metavar="SECONDS")
@click.option("--mono", is_flag=True, help="Mix the channels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed takes other places.")
@click.option("--format", "suffix", default="wav", show_default=True, help="wav, flac, ogg or mp3.")
@jobs_option
@reporting
def command(
    audio: Path,
    output: Path,
    count: int,
    duration_s: float,
    mono: bool,
    seed: int,
    suffix: str,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Cut clips out of AUDIO, a recording or a folder of them, at random places."""
    from riffusion_rt.audio_file import check_audio_suffix

    report = Report(as_json, quiet)
    suffix = f".{suffix.lstrip('.').lower()}"
    check_audio_suffix(Path(f"clip{suffix}"))
    if not 1 <= count <= MAX_CLIPS:
        raise RequestError(
            f"count must be from 1 to {MAX_CLIPS}, not {count}", hint="Choose --count within its range"
        )
    if seed < 0:
        raise RequestError(f"seed must be 0 or more, not {seed}", hint="Choose another --seed")
    single = not audio.is_dir()
    target = output / f"{audio.stem}{suffix}" if single else output
    planned = plan_jobs(audio, target, suffix, RECORDING_SUFFIXES)

    def cut(job: Job) -> dict[str, Any]:
        import zlib

        # Recordings of a folder get places of their own, and keep them when others come or go.
        places = seed if single else zlib.crc32(f"{seed} {job.source.relative_to(audio).as_posix()}".encode())
        return cut_file(job, count=count, duration_s=duration_s, mono=mono, seed=places)

    outcomes = run_jobs(
        planned,
        cut,
        title="sample",
        workers=jobs,
        report=report,
        describe=lambda job, result: f"{len(result['clips'])} clips of {job.source} in {job.target.parent}",
    )
    finish(outcomes, report)


def cut_file(job: Job, *, count: int, duration_s: float, mono: bool, seed: int) -> dict[str, Any]:
    """Cut one recording, write its clips named after ``job.target``, and say what was done."""
    from riffusion_rt.audio_file import read_audio, write_audio
    from riffusion_rt.clip_sampling import sample_clips

    samples, rate = read_audio(job.source)
    clips = []
    for clip in sample_clips(samples, rate, count=count, duration_s=duration_s, mono=mono, seed=seed):
        start_ms = round(clip.start / rate * 1000)
        path = job.target.with_stem(f"{job.target.stem}-{clip.index + 1:04}-at-{start_ms}ms")
        write_audio(path, clip.samples, rate, {"source": job.source.name, "start_ms": str(start_ms)})
        clips.append({"audio": path, "start_s": clip.start / rate, "duration_s": duration_s})
    return {"source": job.source, "sample_rate": rate, "clips": clips}
