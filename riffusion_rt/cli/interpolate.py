"""Prompts in, a walk from each to the next out: one joined piece, or a file for every clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.destination import check_writable, clip_paths, slug
from riffusion_rt.cli.making import Stopwatch, saved, watched
from riffusion_rt.cli.model_options import FILE, ModelChoice, model_choice, output_option, step_options
from riffusion_rt.cli.report import Report, reporting
from riffusion_rt.cli.seed_images import SEED_IMAGE

if TYPE_CHECKING:
    from riffusion_rt.interpolation import Waypoint

T = TypeVar("T")

EACH = "once for all prompts, or once for each"


@click.command("interpolate", short_help="A walk from one prompt to another, or through several.")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@output_option("FIRST-to-LAST-SEED.wav")
@click.option("--seed", type=int, multiple=True, help=f"{EACH.capitalize()}.  [default: 0]")
@click.option("--negative", multiple=True, metavar="TEXT", help=f"What to stay away from; {EACH}.")
@click.option("--guidance", type=float, multiple=True, help=f"How strictly to follow; {EACH}.")
@click.option("--strength", type=float, multiple=True, help=f"How far to go from the seed image; {EACH}.")
@click.option("--weight", type=float, multiple=True, help=f"How long the leg from a prompt is; {EACH}.")
@click.option("--count", type=int, default=5, show_default=True, help="Clips, both ends counted.")
@click.option("--curve", default="linear", show_default=True, help="linear, power or smooth.")
@click.option("--power", type=float, default=2.0, show_default=True, help="Exponent of the power curve.")
@click.option(
    "--alpha", type=float, multiple=True, help="A place from 0 to 1, instead of a curve. Repeatable."
)
@step_options
@click.option(
    "--seed-image",
    type=SEED_IMAGE,
    metavar="NAME|FILE",
    help="A picture that all clips start from. `help` lists names.",
)
@click.option("--seed-audio", type=FILE, metavar="FILE", help="A recording that all clips start from.")
@click.option("--mask", type=FILE, metavar="FILE", help="Where the seed image may change: white changes.")
@click.option("--separate", is_flag=True, help="A file for every clip: NAME-0001 and on.")
@click.option("--batch", type=int, metavar="N", help="Clips denoised together.  [default: 4]")
@model_choice
@reporting
def command(
    prompts: tuple[str, ...],
    output: Path | None,
    count: int,
    curve: str,
    power: float,
    alpha: tuple[float, ...],
    separate: bool,
    batch: int | None,
    choice: ModelChoice,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Walk from each PROMPT to the next; one prompt with two seeds walks between these.

    Embeddings, guidance and strength change evenly, noise along the arc between the seeds, as in Riffusion.
    """
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.interpolation import curve_positions
    from riffusion_rt.walk import MAX_CLIPS, WalkRequest, joined_walk

    if not 1 <= count <= MAX_CLIPS or (batch is not None and batch < 1):
        raise RequestError(
            f"A walk of {count} clips, {batch or 4} at a time, cannot be made",
            hint=f"Choose --count from 1 to {MAX_CLIPS} and --batch of 1 or more",
        )
    points = _waypoints(prompts, {name: settings.pop(name) for name in _PER_PROMPT})
    request = WalkRequest(points, alpha or curve_positions(count, curve, power), **settings)
    if any(point.strength is not None for point in points) and not request.has_seed:
        raise RequestError(
            "A strength needs a picture to work on", hint="Add --seed-image FILE or --seed-audio FILE"
        )
    paths = _paths(output, request, separate)
    watch.imported()
    made = []
    with choice.opened() as riffusion:
        watch.loaded()
        title = f"{len(request.alphas)} clips"
        clips = []
        for index, clip in enumerate(watched(riffusion.interpolate(request, batch=batch), title, report)):
            if separate:
                place = f"alpha {request.alphas[index]:g}"
                made.append(saved(clip, paths[index], report, place))
            else:
                clips.append(clip)
        if not separate:
            whole = joined_walk(clips, request.resolved(riffusion.manifest.defaults))
            made.append(saved(whole, paths[0], report, f"{len(clips)} clips"))
        name, device = riffusion.manifest.name, riffusion.device
    report.document({"model": name, "device": device, "clips": made, "seconds": watch.seconds()})


_PER_PROMPT = ("seed", "negative", "guidance", "strength", "weight")


def _waypoints(prompts: Sequence[str], each: dict[str, Sequence[Any]]) -> tuple[Waypoint, ...]:
    from riffusion_rt.interpolation import Waypoint

    if len(prompts) == 1:
        # One prompt: its seeds are the way.
        prompts = list(prompts) * max(1, *(len(values) for values in each.values()))
    columns = {name: _for_each(name, values, len(prompts)) for name, values in each.items()}
    return tuple(
        Waypoint(
            prompt,
            seed=columns["seed"][index] or 0,
            negative_prompt=columns["negative"][index] or "",
            guidance=columns["guidance"][index],
            strength=columns["strength"][index],
            weight=columns["weight"][index] or 1.0,
        )
        for index, prompt in enumerate(prompts)
    )


def _for_each(name: str, values: Sequence[T], count: int) -> list[T | None]:
    if len(values) in (0, 1):
        return [values[0] if values else None] * count
    if len(values) != count:
        raise RequestError(
            f"--{name} was given {len(values)} times for {count} prompts", hint=f"Give it {EACH}"
        )
    return list(values)


def _paths(output: Path | None, request: Any, separate: bool) -> list[Path]:
    first, last = request.waypoints[0], request.waypoints[-1]
    name = f"{slug(first.prompt)}-to-{slug(last.prompt)}-{request.seed}.wav"
    if output is None or output.is_dir():
        output = (output or Path()) / name
    if not separate:
        return clip_paths(output, "", [request.seed])
    numbered = [
        output.with_stem(f"{output.stem}-{number:04}") for number in range(1, len(request.alphas) + 1)
    ]
    for path in numbered:
        clip_paths(path, "", [request.seed])
    check_writable(numbered)
    return numbered
