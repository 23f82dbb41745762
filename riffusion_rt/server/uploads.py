"""Pictures and recordings from outside in; out what a request may use, checked by what they are, not by their names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_engine.errors import AudioFileError, ImageFileError, RequestError

if TYPE_CHECKING:
    from PIL import Image

DATA_URL = "data:"

READABLE_AUDIO = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "MPEG", "AIFF")
"""Containers that are taken, as libsndfile names them after looking inside."""

MOST_CHANNELS = 8
LOWEST_RATE, HIGHEST_RATE = 4000, 192_000

_GIVE_AUDIO = "Send a recording as WAV, FLAC, OGG, MP3 or AIFF"


def picture_source(text: str, *, max_pixels: int) -> tuple[Image.Image | str, str]:
    """What a request starts from: the name of a seed image, or a picture in a data URL. Never a path.

    Returns:
        The name or the picture, and a text that is the same for the same picture.

    Raises:
        RequestError: no such seed image, or no data URL of a picture.
        ImageFileError: the picture cannot be read, or is too large.
    """
    if not text.startswith(DATA_URL):
        from riffusion_rt.seed_image_set import seed_image

        name = seed_image(text).name
        return name, name
    content = decoded_data_url(text)
    from riffusion_rt.spectrogram_image import read_image

    picture = read_image(io.BytesIO(content), "the picture sent", max_pixels=max_pixels)
    return picture, hashlib.sha256(content).hexdigest()


def decoded_data_url(text: str) -> bytes:
    """The bytes of a base64 data URL.

    Raises:
        ImageFileError: it is none.
    """
    head, comma, body = text.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ImageFileError(
            "The picture is no base64 data URL", hint="Send it as data:image/png;base64,…"
        ) from error


def checked_recording(path: Path, *, most_s: float) -> str:
    """Look into a recording before it is read whole.

    Returns:
        A digest of its bytes.

    Raises:
        AudioFileError: it is no recording of a kind that is taken.
        RequestError: it is too long, or of impossible rate or channels.
    """
    import soundfile

    try:
        with soundfile.SoundFile(str(path)) as file:
            frames, rate, channels, form = file.frames, file.samplerate, file.channels, file.format
    except Exception as error:  # libsndfile's binding raises many kinds for damaged files.
        raise AudioFileError("What was sent is no recording", hint=_GIVE_AUDIO) from error
    if form not in READABLE_AUDIO:
        raise AudioFileError(f"A recording of type {form} is not taken", hint=_GIVE_AUDIO)
    if not 1 <= channels <= MOST_CHANNELS or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioFileError(
            f"A recording of {channels} channels at {rate} Hz is not taken", hint="Send stereo at 44100 Hz"
        )
    # Of some files the header promises years: nothing is read before this.
    if not 0 < frames <= most_s * rate:
        raise RequestError(
            f"The recording is empty or longer than {most_s:g} s", hint="Send a shorter part of it"
        )
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
