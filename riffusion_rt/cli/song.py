"""A plan in, a song out, with the plan and the picture of the whole beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_rt.cli.destination import check_writable, slug
from riffusion_rt.cli.making import Stopwatch
from riffusion_rt.cli.model_options import FILE, ModelChoice, model_choice, step_options
from riffusion_rt.cli.report import Report, reporting
from riffusion_rt.cli.seed_images import SEED_IMAGE

if TYPE_CHECKING:
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.song_plan import SongPlan


@click.command("song", short_help="A plan of sections becomes a song: verses, choruses, bars.")
@click.argument("plan")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Where to: .wav, .flac, .ogg, .mp3; the plan and a picture beside it.  [default: song-SEED.wav]",
)
@click.option("--title", help="What players show.")
@click.option("--style", help="Words added to every prompt.")
@click.option("--negative", metavar="TEXT", help="What to stay away from.")
@click.option("--seed", type=int, help="Another seed is another song.")
@step_options
@click.option("--guidance", type=float, help="How strictly to follow the prompts.  [default: the model's]")
@click.option(
    "--seed-image",
    type=SEED_IMAGE,
    metavar="NAME|FILE",
    help='The beat of all sections; "" for none; `help` lists.',
)
@click.option("--strength", type=float, help="How far to go from the seed image, 0 to 1.")
@click.option("--movement", type=float, help="How far a section's clips depart from its first, 0 to 1.")
@click.option("--transition", type=int, metavar="BARS", help="Bars that walk over to the next section.")
@model_choice
@reporting
def command(
    plan: str,
    output: Path | None,
    choice: ModelChoice,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Play PLAN: sections divided by |, or a TOML file. A section says its bars and its prompt once, then comes back.

    \b
      riffusion-rt song 'intro 4 | verse 8 "jazz piano" | chorus 8 "electronic beats" | verse | chorus | outro'

    After a prompt: seed=N, level=DECIBELS, fade=in, fade=out, variation=0.3, transition=BARS.
    """
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.audio_file import check_audio_suffix
    from riffusion_rt.song_plan import read_plan, with_settings

    settings["seed_image"] = None if settings["seed_image"] is None else _name(settings["seed_image"])
    whole = with_settings(read_plan(plan), {k: v for k, v in settings.items() if v is not None})
    path = output or Path(f"{slug(whole.title) if whole.title else 'song'}-{whole.seed}.wav")
    path = path / f"song-{whole.seed}.wav" if path.is_dir() else path
    check_audio_suffix(path)
    beside = {"plan": path.with_suffix(".toml"), "sheet": path.with_suffix(".png")}
    check_writable([path, *beside.values()])
    watch.imported()
    with choice.opened() as riffusion:
        watch.loaded()
        made = _make(riffusion, whole, path, beside, report)
        name, device = riffusion.manifest.name, riffusion.device
    report.line(f"{path}: {made['duration_s']:.2f} s, {whole.bars} bars, {made['clips']} clips")
    report.line(f"{beside['plan']}, {beside['sheet']}")
    for section in made["sections"]:
        report.line(
            f"  {section['start_s']:7.2f} s  {section['name']:10} {section['bars']:3} bars  {section['prompt']}"
        )
    report.document({"model": name, "device": device, **made, "seconds": watch.seconds()})


def _make(
    riffusion: Riffusion, plan: SongPlan, path: Path, beside: dict[str, Path], report: Report
) -> dict[str, Any]:
    """Write the song, its plan and its picture: all of them or none."""
    import json

    from riffusion_engine.whole_file import whole_file
    from riffusion_rt import __version__
    from riffusion_rt.bar_grid import BarGrid
    from riffusion_rt.contact_sheet import ContactSheet
    from riffusion_rt.song import SongProgress, SongRequest, iterate_song
    from riffusion_rt.song_plan import plan_as_toml
    from riffusion_rt.stream_output import SongFile

    grid, params = BarGrid.of(riffusion.manifest), riffusion.manifest.spectrogram
    request = SongRequest(plan)
    metadata = {
        "software": f"riffusion-rt {__version__}",
        "title": request.prompt,
        "model": riffusion.manifest.name,
        "request": json.dumps(request.settings(), ensure_ascii=False, sort_keys=True),
    }
    sheet, sections, frames, clips = ContactSheet(grid.columns, params.bands), [], 0, 0
    with (
        whole_file(path) as audio,
        whole_file(beside["plan"]) as plan_file,
        whole_file(beside["sheet"]) as sheet_file,
        report.progress("bars", "bar") as advance,
    ):
        song = SongFile(audio, path.suffix.lower(), params.channels, params.sample_rate, metadata)
        for event in iterate_song(riffusion.model, plan):
            if isinstance(event, SongProgress):
                clips = event.clips
                advance(len(sheet), plan.bars, f"{event.section}: clip {event.drawn} of {clips}")
                continue
            section = plan.sections[event.section]
            if event.begins:
                start = event.bar * grid.bar_samples
                sections.append(
                    {
                        "name": section.name,
                        "bars": section.bars,
                        "prompt": section.prompt,
                        "start_s": start / grid.rate,
                        "start": start,
                    }
                )
            song.write(event.samples)
            frames += event.samples.shape[1]
            sheet.add(event.pixels, f"{section.name}: {section.prompt}" if event.begins else "")
            advance(event.bar + 1, event.bars, section.name)
        song.end()
        plan_file.write(plan_as_toml(plan).encode())
        sheet_file.write(_sheet_bytes(sheet, metadata))
    return {
        "audio": path,
        **beside,
        "duration_s": frames / grid.rate,
        "sample_rate": grid.rate,
        "samples": frames,
        "bars": plan.bars,
        "bpm": grid.bpm(),
        "clips": clips,
        "sections": sections,
        "request": request.settings(),
    }


def _sheet_bytes(sheet: Any, metadata: dict[str, str]) -> bytes:
    """A picture that says what it is of; it is no spectrogram to be decoded, and has no EXIF that says so."""
    import io

    from PIL.PngImagePlugin import PngInfo

    chunks, buffer = PngInfo(), io.BytesIO()
    for name, value in metadata.items():
        chunks.add_itxt(name, value)
    sheet.picture().save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def _name(seed_image: Path) -> str:
    """A path as it was typed; that of nothing is a dot."""
    return "" if seed_image == Path() else str(seed_image)
