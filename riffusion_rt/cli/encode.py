"""Recordings in, spectrogram pictures out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import OutputError, RequestError
from riffusion_rt.cli.batch import RECORDING_SUFFIXES, Job, finish, jobs_option, plan_jobs, run_jobs
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    from riffusion_engine.spectrogram_params import SpectrogramParams


@click.command("encode", short_help="Recordings become spectrogram pictures.")
@click.argument("audio", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="The picture, or a folder of them. Default: beside the recording.",
)
@click.option("--stereo", is_flag=True, help="Two channels, 10 to 20,000 Hz, for checkpoints trained on it.")
@click.option("--f-min", type=int, metavar="HZ", help="Lowest frequency.  [default: 0; 10 with --stereo]")
@click.option("--f-max", type=int, metavar="HZ", help="Highest.  [default: 10000; 20000 with --stereo]")
@click.option("--bands", type=int, help="Mel bands, the picture's height.  [default: 512]")
@click.option("--step-ms", type=int, metavar="MS", help="Time from a column to the next.  [default: 10]")
@jobs_option
@reporting
def command(
    audio: Path,
    output: Path | None,
    stereo: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
    **changes: int | None,
) -> None:
    """Draw the spectrogram picture of AUDIO, a recording or a folder of them.

    The picture's EXIF holds what `riffusion-rt decode` needs to turn it back into sound.
    """
    report = Report(as_json, quiet)
    planned = plan_jobs(audio, output, ".png", RECORDING_SUFFIXES)
    for job in planned:
        if job.target.suffix.lower() != ".png":
            raise OutputError(
                f"A spectrogram picture is a PNG file, not {job.target.name}", hint="Name it with -o FILE.png"
            )
    params = _params(stereo, changes)

    outcomes = run_jobs(
        planned,
        lambda job: encode_file(job, params),
        title="encode",
        workers=jobs,
        report=report,
        describe=lambda job, result: f"{job.target}: {result['columns']} columns of {job.source}",
    )
    finish(outcomes, report)


def encode_file(job: Job, params: SpectrogramParams) -> dict[str, Any]:
    """Read one recording, draw it, and say what was done."""
    from riffusion_rt.audio_file import read_audio
    from riffusion_rt.resampling import resample, with_channels
    from riffusion_rt.spectrogram import column_count, mel_spectrogram
    from riffusion_rt.spectrogram_image import MAX_PIXELS, image_from_mel, loudest_magnitude, save_png

    samples, rate = read_audio(job.source)
    at_rate = resample(with_channels(samples, params.channels), rate, params.sample_rate)
    columns = column_count(at_rate.shape[1], params)
    if columns * params.bands > MAX_PIXELS:
        longest_s = MAX_PIXELS // params.bands * params.step_ms / 1000
        raise RequestError(
            f"{job.source} lasts {samples.shape[1] / rate / 60:.0f} minutes; "
            f"a picture holds {longest_s / 60:.0f}",
            hint=f"Cut it into clips: riffusion-rt sample-clips {job.source} -o FOLDER",
        )
    mel = mel_spectrogram(at_rate, params)
    loudest = loudest_magnitude(mel)
    image = image_from_mel(mel, params, max_value=loudest)
    save_png(image, job.target, params, loudest, {"source": job.source.name})
    return {
        "source": job.source,
        "image": job.target,
        "columns": image.width,
        "bands": image.height,
        "duration_s": samples.shape[1] / rate,
        "max_value": loudest,
    }


def _params(stereo: bool, changes: dict[str, int | None]) -> SpectrogramParams:
    from riffusion_rt.spectrogram_image import MONO_PARAMS, STEREO_PARAMS

    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    params = replace(STEREO_PARAMS if stereo else MONO_PARAMS, **given)
    highest = params.sample_rate // 2
    if not 0 <= params.f_min < params.f_max <= highest:
        raise RequestError(
            f"Frequencies from {params.f_min} to {params.f_max} Hz are no range within 0 to {highest} Hz",
            hint="Choose --f-min below --f-max",
        )
    if not (1 <= params.bands <= 4096 and 1 <= params.step_ms <= params.window_ms):
        raise RequestError(
            f"{params.bands} bands of {params.step_ms} ms make no spectrogram",
            hint=f"Choose --bands from 1 to 4096 and --step-ms from 1 to {params.window_ms}",
        )
    return params
