"""A name in, the seed image of that name out: rhythms of several tempi that come with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from riffusion_engine.errors import RequestError

if TYPE_CHECKING:
    from riffusion_rt.request import Picture

FOLDER = Path(__file__).parent / "seed_images"
LISTING = "seed_images.json"

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "og_beat": "beat-94",
        "agile": "agile-94",
        "marim": "marimba-94",
        "motorway": "motorway-94",
        "vibes": "vibes-94",
    }
)
"""Identifiers that Riffusion's server knows, and which of our pictures plays their part."""


@dataclass(frozen=True)
class SeedImage:
    """A picture to start from, which gives clips its beat."""

    name: str
    bpm: float
    """Beats a minute of a picture that plays for 5.12 s."""
    beats: int
    """Beats in the picture."""
    sounds: str
    """What is heard in it."""

    @property
    def path(self) -> Path:
        """The picture's file."""
        return FOLDER / f"{self.name}.png"


@cache
def seed_images() -> tuple[SeedImage, ...]:
    """All that come with the package, by tempo."""
    entries = json.loads((FOLDER / LISTING).read_text(encoding="utf-8"))
    return tuple(SeedImage(**entry) for entry in entries)


def seed_image(name: str) -> SeedImage:
    """The one of that name, or of that name in Riffusion.

    Raises:
        RequestError: there is none.
    """
    wanted = ALIASES.get(name, name)
    for each in seed_images():
        if each.name == wanted:
            return each
    names = ", ".join(each.name for each in seed_images())
    raise RequestError(f"There is no seed image {name!r}", hint=f"Give a picture's path, or one of: {names}")


def seed_image_path(picture: Picture) -> Picture:
    """A name's path; a path or a picture in memory is left as it is, and so is a name that is no seed image's."""
    if not isinstance(picture, str | Path) or Path(picture).exists():
        return picture
    wanted = ALIASES.get(str(picture), str(picture))
    return next((each.path for each in seed_images() if each.name == wanted), picture)
