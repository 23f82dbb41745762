"""Pictures of a walk's steps in, one animated picture of the spectrogram coming out of the noise out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_engine.errors import OutputError, RequestError
from riffusion_engine.whole_file import whole_file

if TYPE_CHECKING:
    from PIL import Image

FORMATS = {".webp": "WEBP", ".gif": "GIF"}
STEP_MS = 120
"""How long each step is shown."""
LAST_MS = 1500
"""How long the finished picture stays."""
WIDEST = 16_383
"""Columns that a WebP picture may have (RFC 9649)."""


def check_film_suffix(path: Path) -> str:
    """The lower-case suffix of a film to be written.

    Raises:
        OutputError: it is neither .webp nor .gif.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise OutputError(f"Cannot write a film as {path.name}", hint="Use --film FILE.webp or FILE.gif")
    return suffix


def save_film(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write frames of one size as an animation that repeats, whole or not at all.

    Raises:
        OutputError: another suffix than .webp and .gif, or the place cannot be written.
        RequestError: there is no frame, or it is too wide.
    """
    encoded = film_bytes(frames, check_film_suffix(path))
    with whole_file(path) as file:
        file.write(encoded)


def film_bytes(frames: Sequence[Image.Image], suffix: str) -> bytes:
    """The bytes that ``save_film`` writes."""
    if not frames:
        raise RequestError("A film needs a picture", hint="Give at least one step")
    if frames[0].width > WIDEST:
        raise RequestError(
            f"A film of {frames[0].width} columns is too wide", hint=f"Keep the clip under {WIDEST} columns"
        )
    first, *others = (frame.convert("RGB") for frame in frames)
    durations = [STEP_MS] * len(others) + [LAST_MS]
    buffer = io.BytesIO()
    first.save(buffer, FORMATS[suffix], save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()
