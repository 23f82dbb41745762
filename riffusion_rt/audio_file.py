"""Audio files in, samples out, and back: WAV, FLAC, OGG (Vorbis), MP3, and what each clip was made from.

Metadata is a dictionary of texts. It travels as one line of JSON in the file's comment, where any player
shows it and nothing is lost; title and software are set beside it for people. The same samples and metadata
give the same bytes.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import AudioFileError
from riffusion_engine.whole_file import whole_file
from riffusion_rt import audio_containers

SOFTWARE = "riffusion-rt"

TITLE_CHARACTERS = 200
"""Longer prompts are cut in the title, which players show in one line; the comment keeps them whole."""

MAX_COMMENT_BYTES = 2**20
MAX_WAV_BYTES = 2**32 - 2**22
"""A RIFF file counts its bytes in 32 bits; leave room for its headers and comment."""

FRAMES_PER_WRITE = 16_384
"""libsndfile's Vorbis encoder keeps a whole write on the stack: small ones cannot overflow it."""


@dataclass(frozen=True)
class _Container:
    """How libsndfile names a file type and its sample formats, by bits; a lossy type has only one."""

    name: str
    subtypes: Mapping[int, str]
    lossy: bool = False


_WHOLE_NUMBERS = {16: "PCM_16", 24: "PCM_24"}
_CONTAINERS = {
    ".wav": _Container("WAV", _WHOLE_NUMBERS),
    ".flac": _Container("FLAC", _WHOLE_NUMBERS),
    ".ogg": _Container("OGG", dict.fromkeys(_WHOLE_NUMBERS, "VORBIS"), lossy=True),
    ".mp3": _Container("MP3", dict.fromkeys(_WHOLE_NUMBERS, "MPEG_LAYER_III"), lossy=True),
}

AUDIO_SUFFIXES = tuple(_CONTAINERS)
"""The file types written here; many more are read."""

_CONVERT = "Convert it first, for instance with: ffmpeg -i INPUT output.wav"


def check_audio_suffix(path: Path) -> str:
    """The lower-case suffix of a file to be written, so that a wrong one is refused before any work is done.

    Raises:
        AudioFileError: the suffix is none of ``AUDIO_SUFFIXES``.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        named = f"as {suffix}" if suffix else "without a suffix"
        raise AudioFileError(
            f"Cannot write audio {named}: {path}", hint=f"Use one of {', '.join(AUDIO_SUFFIXES)}"
        )
    return suffix


def read_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """Read any recording libsndfile knows: WAV, FLAC, OGG, MP3, AIFF and others.

    Returns:
        Samples ``(channels, n)``, float32 in ±1 (a lossy decoder may overshoot a little), and the sample
        rate.

    Raises:
        AudioFileError: no such file, not audio, cut off beyond reading, empty, or with NaN or infinite
        samples.
    """
    import soundfile

    path = Path(path)
    _check_is_file(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = int(file.samplerate)
            frames = file.read(dtype="float32", always_2d=True)
    # Raw formats lack a header and raise TypeError; a damaged one may promise more than memory holds.
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise AudioFileError(f"Cannot read {path} as audio", hint=_CONVERT) from error
    samples = np.ascontiguousarray(frames.T)
    if samples.size == 0:
        raise AudioFileError(f"{path} holds no sound", hint="Give a recording that is not empty")
    if not np.isfinite(samples).all():
        raise AudioFileError(f"{path} holds NaN or infinite samples", hint=_CONVERT)
    return samples, rate


def read_metadata(path: Path) -> dict[str, str]:
    """Read what ``write_audio`` was told of a clip.

    A file of another origin gives its ``title`` and ``comment``, as far as it has them.

    Raises:
        AudioFileError: no such file, or not audio.
    """
    import soundfile

    path = Path(path)
    _check_is_file(path)
    try:
        with path.open("rb") as file:
            riff, id3 = audio_containers.riff_info(file), audio_containers.id3_tags(file)
        if riff:
            title, comment = riff.get(audio_containers.RIFF_TITLE), riff.get(audio_containers.RIFF_COMMENT)
        elif id3:
            title, comment = id3.get(audio_containers.ID3_TITLE), id3.get(audio_containers.ID3_COMMENT)
        else:
            with soundfile.SoundFile(str(path)) as sound:
                title, comment = sound.title, sound.comment
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise AudioFileError(f"Cannot read {path} as audio", hint=_CONVERT) from error
    found = {"title": title or "", "comment": comment or ""}
    return _parsed(comment or "") or {name: text for name, text in found.items() if text}


def write_audio(
    path: Path,
    samples: NDArray[np.floating],
    sample_rate: int,
    metadata: Mapping[str, str] | None = None,
    *,
    bits: int = 16,
) -> None:
    """Write a recording, whole or not at all; the suffix chooses the file type.

    Args:
        path: ends in one of ``AUDIO_SUFFIXES``; folders are made as needed.
        samples: ``(channels, n)`` or ``(n,)``, in ±1; louder ones are clipped. WAV and FLAC hold exactly
            ``n``.
        sample_rate: samples a second; a lossy type may allow only some.
        metadata: texts to find again with ``read_metadata``; the title shown is ``title``, else ``prompt``.
        bits: 16 or 24 for WAV and FLAC; lossy types have no such width.

    Raises:
        AudioFileError: unsupported suffix, rate, width or channel count; empty; NaN; metadata over a
        mebibyte.
        OutputError: the place cannot be written.
    """
    path = Path(path)
    encoded = encode_audio(samples, sample_rate, check_audio_suffix(path), metadata, bits=bits)
    with whole_file(path) as file:
        file.write(encoded)


def encode_audio(
    samples: NDArray[np.floating],
    sample_rate: int,
    suffix: str,
    metadata: Mapping[str, str] | None = None,
    *,
    bits: int = 16,
) -> bytes:
    """The bytes that ``write_audio`` writes to a file of that suffix (``".wav"``), with the same errors."""
    container = _CONTAINERS[check_audio_suffix(Path("audio" + suffix))]
    if bits not in container.subtypes:
        raise AudioFileError(f"No file here holds samples of {bits} bits", hint="Use 16 or 24 bits")
    frames = _interleaved(_checked(samples), container, bits)
    if container.name == "WAV" and frames.nbytes > MAX_WAV_BYTES:
        raise AudioFileError("The recording is too long for a WAV file", hint="Write it as .flac")
    title, comment = _described(metadata or {})
    encoded = _encoded(frames, sample_rate, container, bits, title, comment)
    if container.name == "WAV":
        names = (
            audio_containers.RIFF_TITLE,
            audio_containers.RIFF_COMMENT,
            audio_containers.RIFF_SOFTWARE,
        )
        return audio_containers.with_riff_info(encoded, _filled(names, (title, comment, SOFTWARE)))
    if container.name == "MP3":
        names = (audio_containers.ID3_TITLE, audio_containers.ID3_COMMENT, audio_containers.ID3_SOFTWARE)
        return audio_containers.with_id3(encoded, _filled(names, (title, comment, SOFTWARE)))
    if container.name == "OGG":
        # Streams that are joined need different serial numbers: take them from the sound.
        return audio_containers.with_ogg_serial(encoded, zlib.crc32(frames.tobytes()))
    return encoded


def _encoded(
    frames: NDArray[np.generic],
    sample_rate: int,
    container: _Container,
    bits: int,
    title: str,
    comment: str,
) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer,
            "w",
            samplerate=sample_rate,
            channels=frames.shape[1],
            format=container.name,
            subtype=container.subtypes[bits],
        ) as file:
            if container.name in ("FLAC", "OGG"):
                file.software = SOFTWARE
                # libsndfile refuses an empty text.
                if title:
                    file.title = title
                if comment:
                    file.comment = comment
            for start in range(0, len(frames), FRAMES_PER_WRITE):
                file.write(frames[start : start + FRAMES_PER_WRITE])
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise AudioFileError(
            f"{container.name} holds no {frames.shape[1]} channel(s) at {sample_rate} Hz",
            hint="Write it as .wav, or at 44100 Hz with one or two channels",
        ) from error
    return buffer.getvalue()


def _checked(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    signal = np.atleast_2d(np.asarray(samples))
    if signal.ndim != 2 or signal.size == 0:
        raise AudioFileError(
            f"There is no sound in an array of shape {np.shape(samples)}",
            hint="Give samples as (channels, n)",
        )
    if not np.isfinite(signal).all():
        raise AudioFileError(
            "The samples hold NaN or infinity", hint="Nothing was written; repair them first"
        )
    return signal


def _interleaved(signal: NDArray[np.floating], container: _Container, bits: int) -> NDArray[np.generic]:
    """``(channels, n)`` in ±1 to what libsndfile is given, ``(n, channels)``."""
    if container.lossy:
        # libsndfile 1.2 spoils stereo 16-bit integers on their way into MP3 (its pull request 1106).
        return np.ascontiguousarray(np.clip(signal.T, -1, 1), dtype=np.float32)
    # Rounded here: libsndfile's own conversion cuts, half a level too low.
    full_scale = 2 ** (bits - 1)
    levels = np.empty(signal.shape[::-1], np.int16 if bits == 16 else np.int32)
    # In blocks: at once, a long sound would be held three times in double precision.
    for first in range(0, len(levels), FRAMES_PER_WRITE):
        block = np.rint(signal[:, first : first + FRAMES_PER_WRITE].T.astype(np.float64) * full_scale)
        levels[first : first + FRAMES_PER_WRITE] = np.clip(block, -full_scale, full_scale - 1)
    return levels if bits == 16 else levels << np.int32(32 - bits)


def _described(metadata: Mapping[str, str]) -> tuple[str, str]:
    # ASCII JSON: every code point, a lone surrogate or NUL among them, survives any tag's text encoding.
    comment = json.dumps(dict(metadata), ensure_ascii=True) if metadata else ""
    if len(comment) > MAX_COMMENT_BYTES:
        raise AudioFileError(
            f"{len(comment):,} bytes of metadata are too many", hint="Shorten the prompt or drop entries"
        )
    wanted = metadata.get("title") or metadata.get("prompt") or ""
    printable = "".join(letter if letter.isprintable() else " " for letter in wanted)
    return printable[:TITLE_CHARACTERS].strip(), comment


def _filled(names: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, str]:
    return {name: text for name, text in zip(names, texts, strict=True) if text}


def _parsed(comment: str) -> dict[str, str]:
    try:
        entries = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {name: text if isinstance(text, str) else json.dumps(text) for name, text in entries.items()}


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise AudioFileError(f"There is no file {path}", hint="Check the path")
    if not path.is_file():
        raise AudioFileError(f"{path} is not a file", hint="Give one recording")
