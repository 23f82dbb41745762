"""Blocks of samples in, sound out: a file, the standard output, or the speakers."""

from __future__ import annotations

import json
import queue
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import AudioFileError, DeviceError, MissingExtraError
from riffusion_engine.whole_file import whole_file
from riffusion_rt import audio_containers
from riffusion_rt.audio_file import MAX_WAV_BYTES, SOFTWARE, TITLE_CHARACTERS

STREAM_FORMATS = ("wav", "s16le")
RAW_SUFFIXES = (".pcm", ".raw", ".s16le")
"""Files of bare samples: 16-bit, little-endian, channels interleaved."""

_WAV_HEADER_BYTES = 44
_BYTES_A_SAMPLE = 2
_FULL_SCALE = 2**15
_UNKNOWN_LENGTH = 0xFFFFFFFF
"""What players take a WAV file's length for that is still being written."""


class Output(Protocol):
    """Where a stream goes."""

    def write(self, samples: NDArray[np.float32]) -> None:
        """Samples (channels, n) in ±1 that follow those before."""
        ...


def pcm16(samples: NDArray[np.floating]) -> bytes:
    """(channels, n) in ±1 as interleaved 16-bit samples, rounded as ``audio_file`` rounds them."""
    levels = np.clip(np.rint(samples.T.astype(np.float64) * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
    return levels.astype("<i2").tobytes()


def wav_header(channels: int, rate: int, data_bytes: int = _UNKNOWN_LENGTH) -> bytes:
    """The 44 bytes before a WAV file's 16-bit samples."""
    whole = min(data_bytes + _WAV_HEADER_BYTES - 8, _UNKNOWN_LENGTH)
    frame = channels * _BYTES_A_SAMPLE
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame, frame, 8 * _BYTES_A_SAMPLE)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", whole, b"WAVE", b"fmt ", len(form))
        + form
        + struct.pack("<4sI", b"data", data_bytes)
    )


class SampleFile:
    """A WAV file, or one of bare samples, that is written as it is made; what it is of is said at its end."""

    def __init__(self, file: IO[bytes], channels: int, rate: int, *, wav: bool) -> None:
        self._file = file
        self._channels = channels
        self._rate = rate
        self._wav = wav
        self.frames = 0
        """Samples written so far, in each channel."""
        if wav:
            file.write(wav_header(channels, rate, 0))

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append (channels, n).

        Raises:
            AudioFileError: the file would be longer than WAV can say.
        """
        size = (self.frames + samples.shape[1]) * self._channels * _BYTES_A_SAMPLE
        if self._wav and size > MAX_WAV_BYTES:
            raise AudioFileError("The stream is too long for a WAV file", hint="Write it as .pcm")
        self._file.write(pcm16(samples))
        self.frames += samples.shape[1]

    def end(self, metadata: Mapping[str, str]) -> None:
        """State length and origin. Half a block, left by an interruption, is cut off."""
        size = self.frames * self._channels * _BYTES_A_SAMPLE
        start = _WAV_HEADER_BYTES if self._wav else 0
        self._file.truncate(start + size)
        if not self._wav:
            return
        # A tag can only be appended to what is in memory: to a header without its samples.
        tags = {
            audio_containers.RIFF_TITLE: metadata.get("title", "")[:TITLE_CHARACTERS],
            audio_containers.RIFF_COMMENT: json.dumps(dict(metadata)),
            audio_containers.RIFF_SOFTWARE: SOFTWARE,
        }
        tail = audio_containers.with_riff_info(wav_header(self._channels, self._rate, 0), tags)
        self._file.seek(start + size)
        self._file.write(tail[_WAV_HEADER_BYTES:])
        self._file.seek(0)
        header = wav_header(self._channels, self._rate, size)
        length = start + size + len(tail) - _WAV_HEADER_BYTES - 8
        self._file.write(header[:4] + struct.pack("<I", length) + header[8:])


class PipeOutput:
    """The standard output or another pipe: every block at once."""

    def __init__(self, pipe: IO[bytes], channels: int, rate: int, *, wav: bool) -> None:
        self._pipe = pipe
        if wav:
            pipe.write(wav_header(channels, rate))

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append (channels, n)."""
        self._pipe.write(pcm16(samples))
        self._pipe.flush()


class Speakers(AbstractContextManager["Speakers"]):
    """The sound card, fed from a queue that a live stream's look-ahead bounds.

    Raises:
        MissingExtraError: the library for it is not installed.
        DeviceError: there is no sound card, or it refuses the format.
    """

    def __init__(self, channels: int, rate: int) -> None:
        try:
            import sounddevice  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise MissingExtraError(
                "Playing through the speakers needs a library that is not installed",
                hint="Run: pip install 'riffusion-rt[play]', or write to a file with -o FILE",
            ) from error
        except OSError as error:
            raise DeviceError(
                f"The sound library does not load: {error}",
                hint="Run: apt-get install libportaudio2, or write to a file with -o FILE",
            ) from error
        self._waiting: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        self._rest = np.zeros((0, channels), np.float32)
        try:
            self._device: Any = sounddevice.OutputStream(
                samplerate=rate, channels=channels, dtype="float32", callback=self._play
            )
            self._device.start()
        except sounddevice.PortAudioError as error:
            raise DeviceError(
                f"The speakers cannot be used: {error}", hint="Write to a file with -o FILE"
            ) from error

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append (channels, n)."""
        self._waiting.put(np.ascontiguousarray(samples.T))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Play what is left, unless interrupted."""
        if kind is None:
            while len(self._rest) or not self._waiting.empty():
                import time

                time.sleep(0.05)
        self._device.close()

    def _play(self, out: NDArray[np.float32], frames: int, *_: object) -> None:
        filled = 0
        while filled < frames:
            if not len(self._rest):
                try:
                    self._rest = self._waiting.get_nowait()
                except queue.Empty:
                    break
            part = self._rest[: frames - filled]
            out[filled : filled + len(part)] = part
            self._rest, filled = self._rest[len(part) :], filled + len(part)
        out[filled:] = 0


@contextmanager
def sample_file(path: Path, channels: int, rate: int) -> Iterator[SampleFile]:
    """A file for a stream, which appears whole when the block is left: WAV, or bare samples by its suffix.

    Raises:
        AudioFileError: another suffix.
        OutputError: the place cannot be written.
    """
    wav = check_stream_suffix(path)
    with whole_file(path) as file:
        yield SampleFile(file, channels, rate, wav=wav)


def check_stream_suffix(path: Path) -> bool:
    """Whether the file is a WAV file; else it is one of bare samples.

    Raises:
        AudioFileError: it is neither.
    """
    suffix = path.suffix.lower()
    if suffix != ".wav" and suffix not in RAW_SUFFIXES:
        raise AudioFileError(
            f"A stream cannot be written as {suffix or 'a file without a suffix'}: {path}",
            hint=f"Use .wav or one of {', '.join(RAW_SUFFIXES)}; - is the standard output",
        )
    return suffix == ".wav"


class SongFile:
    """An audio file of any type that is written piece by piece, its origin known before its first sample.

    A WAV file goes to the disk as it grows; for other types all samples are kept until the end, 10 MB a minute.
    """

    def __init__(
        self, file: IO[bytes], suffix: str, channels: int, rate: int, metadata: Mapping[str, str]
    ) -> None:
        """``suffix`` is one of ``audio_file.AUDIO_SUFFIXES``."""
        self._file = file
        self._suffix = suffix
        self._metadata = dict(metadata)
        self._wav = SampleFile(file, channels, rate, wav=True) if suffix == ".wav" else None
        self._pieces: list[NDArray[np.float32]] = []
        self._rate = rate

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append (channels, n)."""
        if self._wav is not None:
            self._wav.write(samples)
        else:
            self._pieces.append(samples)

    def end(self) -> None:
        """Finish the file."""
        from riffusion_rt.audio_file import encode_audio

        if self._wav is not None:
            self._wav.end(self._metadata)
        else:
            whole = np.concatenate(self._pieces, axis=1)
            self._file.write(encode_audio(whole, self._rate, self._suffix, self._metadata))
