"""Spectrogram pictures in, sound out: each its own, or all of them one after another in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.batch import PICTURE_SUFFIXES, Job, finish, jobs_option, plan_jobs, run_jobs
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from riffusion_engine.spectrogram_params import SpectrogramParams


@dataclass(frozen=True)
class DecodeSettings:
    """How pictures are to sound. None leaves it to what the picture says of itself."""

    quality: str
    loop: bool | None
    stereo: bool | None
    compress: bool


@click.command("decode", short_help="Spectrogram pictures become sound.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The sound (.wav, .flac, .ogg, .mp3), or a folder. Default: a WAV file beside the picture.",
)
@click.option("--format", "suffix", default="wav", show_default=True, help="What a folder is filled with.")
@click.option(
    "--quality",
    default="balanced",
    show_default=True,
    help="Care for phases: fast (as for clips), balanced, best.",
)
@click.option(
    "--loop/--no-loop",
    default=None,
    help="Whether the end flows into the start.  [default: as `generate` did; else not]",
)
@click.option("--join", is_flag=True, help="One file of all pictures, each flowing into the next.")
@click.option("--compress", is_flag=True, help="Bring loud passages down a little, for a louder whole.")
@click.option("--stereo/--mono", default=None, help="For a picture whose EXIF does not say.")
@jobs_option
@reporting
def command(
    images: tuple[Path, ...],
    output: Path | None,
    suffix: str,
    quality: str,
    loop: bool | None,
    join: bool,
    compress: bool,
    stereo: bool | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn every IMAGE, a spectrogram picture (PNG or JPEG) or a folder of them, into sound."""
    from riffusion_rt.audio_file import check_audio_suffix
    from riffusion_rt.phase import phase_preset

    report = Report(as_json, quiet)
    phase_preset(quality)
    settings = DecodeSettings(quality, loop, stereo, compress)
    dotted = f".{suffix.lstrip('.').lower()}"
    if join:
        planned = [_joint_job(images, output, dotted, loop)]
    else:
        _check_targets(images, output)
        planned = [job for image in images for job in plan_jobs(image, output, dotted, PICTURE_SUFFIXES)]
        _check_distinct(planned)
    for job in planned:
        check_audio_suffix(job.target)
    outcomes = run_jobs(
        planned,
        lambda job: join_files(images, job, settings) if join else decode_file(job, settings),
        title="decode",
        workers=jobs,
        report=report,
        describe=_described,
    )
    finish(outcomes, report)


def decode_file(job: Job, settings: DecodeSettings) -> dict[str, Any]:
    """Read one picture, find its phases, write its sound, and say what was done."""
    from riffusion_rt.audio_file import write_audio
    from riffusion_rt.phase import waveform_from_mel
    from riffusion_rt.spectrogram_image import mel_from_image, text_from_image

    picture, params = _read(job.source, settings)
    text = text_from_image(picture)
    looped = "request" in text if settings.loop is None else settings.loop
    waveform = waveform_from_mel(
        mel_from_image(picture, params), params, preset=settings.quality, loop=looped
    )
    samples = _finished(waveform, params, settings)
    write_audio(job.target, samples, params.sample_rate, text or {"source": job.source.name})
    return {"source": job.source, **_result(job, samples, params), "loop": looped}


def join_files(sources: Sequence[Path], job: Job, settings: DecodeSettings) -> dict[str, Any]:
    """Read pictures, reconstruct across their boundaries, write one file, and say what was done.

    Raises:
        RequestError: the pictures were made with different parameters.
    """
    import numpy as np

    from riffusion_rt.audio_file import write_audio
    from riffusion_rt.joining import join_clips
    from riffusion_rt.spectrogram_image import mel_from_image

    _, params = _read(sources[0], settings)

    def mels() -> Iterator[NDArray[np.float32]]:
        for source in sources:
            picture, own = _read(source, settings)
            if own != params:
                raise RequestError(
                    f"{source} was made with other spectrogram parameters than {sources[0]}",
                    hint="Compare them with riffusion-rt inspect; join pictures of one kind",
                )
            yield mel_from_image(picture, params)

    pieces = list(join_clips(mels(), params, preset=settings.quality))
    samples = _finished(np.concatenate(pieces, axis=1), params, settings)
    names = ", ".join(source.name for source in sources)
    write_audio(job.target, samples, params.sample_rate, {"source": names})
    return {"sources": list(sources), **_result(job, samples, params), "loop": False}


def _joint_job(images: Sequence[Path], output: Path | None, suffix: str, loop: bool | None) -> Job:
    if loop:
        raise RequestError(
            "Joined pictures are a line, not a loop", hint="Leave --loop out, or decode one picture"
        )
    folders = [image for image in images if image.is_dir()]
    if folders:
        raise RequestError(
            f"{folders[0]} is a folder, which says nothing of an order", hint="Name the pictures one by one"
        )
    if output is None:
        raise RequestError("Joined pictures need a file of their own", hint="Add -o FILE to say where")
    return plan_jobs(images[0], output, suffix, PICTURE_SUFFIXES)[0]


def _check_targets(images: Sequence[Path], output: Path | None) -> None:
    if len(images) > 1 and output is not None and not output.is_dir():
        raise RequestError(
            f"{len(images)} pictures do not fit into one file as they are",
            hint="Name a folder that exists with -o, or join them with --join",
        )


def _check_distinct(jobs: Sequence[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        other = sources.setdefault(job.target, job.source)
        if other != job.source:
            raise RequestError(
                f"{other} and {job.source} would both become {job.target}",
                hint="Decode them one by one with -o",
            )


def _read(source: Path, settings: DecodeSettings) -> tuple[Image.Image, SpectrogramParams]:
    from riffusion_rt.spectrogram_image import load_image, params_from_exif

    picture = load_image(source)
    params = params_from_exif(picture)
    return picture, params if settings.stereo is None else replace(params, stereo=settings.stereo)


def _finished(
    waveform: NDArray[np.float32], params: SpectrogramParams, settings: DecodeSettings
) -> NDArray[np.float32]:
    from riffusion_rt.compressor import compress
    from riffusion_rt.loudness import finish_clip, gain_to_rms

    if settings.compress:
        waveform = compress(gain_to_rms(waveform), params.sample_rate)
    return finish_clip(waveform)


def _result(job: Job, samples: NDArray[np.float32], params: SpectrogramParams) -> dict[str, Any]:
    return {
        "audio": job.target,
        "duration_s": samples.shape[1] / params.sample_rate,
        "sample_rate": params.sample_rate,
        "samples": samples.shape[1],
        "channels": samples.shape[0],
    }


def _described(job: Job, result: dict[str, Any]) -> str:
    sources = result.get("sources", [job.source])
    return f"{job.target}: {result['duration_s']:.2f} s from {', '.join(str(source) for source in sources)}"
