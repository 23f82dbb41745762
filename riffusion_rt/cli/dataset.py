"""Recordings in, a data set to train on out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.batch import RECORDING_SUFFIXES, files_in, jobs_option
from riffusion_rt.cli.failure import USER_ERROR, OneLineError
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    from riffusion_train.cutting import CuttingRecipe


@click.command("dataset", short_help="Recordings become a data set to train on.")
@click.argument("audio", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="The data set's folder.",
)
@click.option(
    "--captions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV or JSONL with file_name and text.",
)
@click.option("--caption", metavar="TEXT", help="For recordings of which nothing else is known.")
@click.option("--no-tags", is_flag=True, help="Do not ask the files' own tags.")
@click.option("--no-folders", is_flag=True, help="Do not ask the names of folders.")
@click.option(
    "--bars", type=int, metavar="N", help="Cut N whole bars, begun on a downbeat, for each picture."
)
@click.option("--bpm", type=float, help="The tempo of all recordings.  [default: found in each]")
@click.option("--beats-per-bar", "beats_a_bar", type=int, default=4, show_default=True)
@click.option("--loops", is_flag=True, help="Every recording is one loop: take it whole.")
@click.option(
    "--max-stretch",
    type=float,
    default=0.25,
    show_default=True,
    metavar="SHARE",
    help="How far the tempo may give way so that bars or loops fill the picture.",
)
@click.option("--shifts", type=int, default=0, show_default=True, help="Copies of each loop, turned in time.")
@click.option(
    "--held-out", type=float, default=0.1, show_default=True, help="Share of recordings kept for judging."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed holds out others.")
@click.option("--stereo", is_flag=True, help="Two channels, 10 to 20,000 Hz.")
@click.option("--columns", type=int, default=512, show_default=True, help="The picture's width.")
@click.option("--bands", type=int, default=512, show_default=True, help="The picture's height.")
@click.option(
    "--silence",
    "silence_db",
    type=float,
    default=-45.0,
    show_default=True,
    metavar="DB",
    help="Where silence ends.",
)
@jobs_option
@reporting
def command(
    audio: Path,
    output: Path,
    captions: Path | None,
    caption: str | None,
    no_tags: bool,
    no_folders: bool,
    bars: int | None,
    bpm: float | None,
    beats_a_bar: int,
    loops: bool,
    max_stretch: float,
    shifts: int,
    held_out: float,
    seed: int,
    stereo: bool,
    columns: int,
    bands: int,
    silence_db: float,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a data set of the recordings in the folder AUDIO: spectrogram pictures and captions.

    A caption is taken from the first of these that has one: the list in --captions; the file's own tags (the prompt, if
    riffusion-rt made it, else genre, mood, title and comment; to read all kinds: pip install mutagen); the names of
    the folders it lies in; --caption. An interrupted run goes on where it was. The folder reads with Hugging
    Face's `load_dataset("imagefolder", data_dir=FOLDER)`, and with `riffusion-rt finetune FOLDER`.
    """
    from riffusion_rt.spectrogram_image import MONO_PARAMS, STEREO_PARAMS
    from riffusion_train.audio_dataset import DatasetRecipe, DatasetSummary, make_dataset
    from riffusion_train.cutting import CuttingRecipe
    from riffusion_train.recording_captions import CaptionSources, read_caption_list

    report = Report(as_json, quiet)
    recordings = files_in(audio, RECORDING_SUFFIXES)
    listed = read_caption_list(captions) if captions is not None else {}
    params = replace(STEREO_PARAMS if stereo else MONO_PARAMS, bands=bands)
    if not 1 <= bands <= 4096:
        raise RequestError(f"{bands} bands make no spectrogram", hint="Choose --bands from 1 to 4096")
    cutting = CuttingRecipe(params, columns, bars, bpm, beats_a_bar, loops, max_stretch, shifts, silence_db)
    sources = CaptionSources(audio, listed, tags=not no_tags, folders=not no_folders, default=caption)
    summary = DatasetSummary()
    steps = make_dataset(recordings, output, sources, DatasetRecipe(cutting, held_out, seed), workers=jobs)
    with report.progress("dataset", "recording") as advance:
        advance(0, len(recordings))
        for number, done in enumerate(steps, 1):
            summary.add(done)
            if done.error is not None:
                OneLineError(str(done.error), USER_ERROR).show()
            advance(number, len(recordings))
    _tell(report, output, cutting, summary)


def _tell(report: Report, output: Path, cutting: CuttingRecipe, summary: object) -> None:
    from riffusion_train.audio_dataset import DatasetSummary

    assert isinstance(summary, DatasetSummary)
    total, sources = sum(summary.pictures.values()), sum(summary.recordings.values())
    report.line(
        f"{output}: {total} pictures of {sources} recordings, {summary.kept} of them kept from before"
    )
    report.line(
        f"  train {summary.pictures['train']}, held out {summary.pictures['test']} "
        f"({summary.recordings['test']} recordings)"
    )
    report.line(
        "  captions: " + ", ".join(f"{count} from {origin}" for origin, count in summary.captions.items())
    )
    if summary.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.skipped.most_common())
        report.line(f"  left out: {reasons}")
    if summary.failed:
        report.line(f"  could not be read: {len(summary.failed)}")
    report.line(f"Train on it: riffusion-rt finetune {output} -o RUN")
    report.document(
        {
            "dataset": output,
            "pictures": dict(summary.pictures),
            "recordings": dict(summary.recordings),
            "captions": dict(summary.captions),
            "skipped": dict(summary.skipped),
            "kept": summary.kept,
            "columns": cutting.columns,
            "failed": [
                {"source": source, "error": error.message, "hint": error.hint}
                for source, error in summary.failed
            ],
        }
    )
