"""Nothing in, the seed images that come with the package out; and the option that takes their names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from riffusion_rt.cli.report import Report, reporting


class SeedImageName(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A seed image's name or a picture's path; ``help`` lists the names and ends."""

    name = "picture"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A name stays one: what is written into a file's origin must mean the same on another machine."""
        if value == "help" and ctx is not None:
            for line in _lines():
                click.echo(line)
            ctx.exit()
        return Path(value)


SEED_IMAGE = SeedImageName()


@click.command("seed-images", short_help="Pictures that come with it to start from, by tempo.")
@reporting
def command(as_json: bool, quiet: bool) -> None:
    """List the seed images that --seed-image takes by name: rhythms that a clip is drawn from and keeps."""
    report = Report(as_json, quiet)
    from riffusion_rt.seed_image_set import ALIASES, seed_images

    for line in _lines():
        report.line(line)
    entries = [{**asdict(each), "path": each.path} for each in seed_images()]
    report.document({"seed_images": entries, "aliases": dict(ALIASES)})


def _lines() -> list[str]:
    from riffusion_rt.seed_image_set import ALIASES, seed_images

    also = {name: alias for alias, name in ALIASES.items()}
    return [
        f"{each.name:13} {each.bpm:6.2f} BPM, {each.beats:2} beats  {each.sounds}"
        + (f" (also {also[each.name]})" if each.name in also else "")
        for each in seed_images()
    ]
