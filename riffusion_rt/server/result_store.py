"""Finished clips in, their files out, in any format, until they are too old or too many; same request, same bytes."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from riffusion_engine.errors import OutputError, RequestError
from riffusion_engine.whole_file import whole_file

if TYPE_CHECKING:
    from riffusion_rt.clip import Clip

AUDIO_TYPES: Mapping[str, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp3": "audio/mpeg",
}
"""Formats that results are given in, and their media types."""

_SAMPLES, _PICTURE = "f32", "png"


@dataclass(frozen=True, eq=False)
class Result:
    """What a job made. Its files lie in a store."""

    id: str
    key: str
    """Digest of what it was made from: the same request finds it again."""
    seed: int
    sample_rate: int
    channels: int
    samples: int
    compute_s: float
    """Seconds from the start of the work to its end."""
    metadata: Mapping[str, str]
    plan: str | None = None
    """A song's complete plan, as TOML."""
    columns: int = 0
    """Width of the picture."""

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return self.samples / self.sample_rate


@dataclass(eq=False)
class _Kept:
    result: Result
    size: int
    since: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class ResultStore:
    """Results on the disk. Every method may be called from any thread.

    Args:
        folder: where the files lie; it belongs to the store.
        most_bytes: with more, the results that were not asked for the longest time go.
        kept_s: older results go too.
    """

    def __init__(self, folder: Path, *, most_bytes: int, kept_s: float) -> None:
        self._folder, self._most_bytes, self._kept_s = folder, most_bytes, kept_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._by_key: dict[str, str] = {}
        self._bytes = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes on the disk."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def put(
        self, key: str, clip: Clip, *, metadata: Mapping[str, str], compute_s: float, plan: str | None = None
    ) -> Result:
        """Keep a clip.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        from riffusion_rt.spectrogram_image import png_bytes

        samples = np.ascontiguousarray(clip.samples, np.float32)
        identity = secrets.token_urlsafe(12)
        result = Result(
            identity,
            key,
            clip.request.seed,
            clip.sample_rate,
            samples.shape[0],
            samples.shape[1],
            round(compute_s, 3),
            metadata,
            plan,
            clip.image.width,
        )
        picture = png_bytes(clip.image, clip.params, clip.max_value, metadata)
        try:
            self._write(identity, _PICTURE, picture)
            self._write(identity, _SAMPLES, samples.tobytes())
        except OutputError as error:
            self._remove_files(identity)
            raise _disk_full() from error
        with self._lock:
            size = len(picture) + samples.nbytes
            self._kept[identity] = _Kept(result, size, time.monotonic())
            self._by_key[key] = identity
            self._bytes += size
        self.tidy()
        return result

    def find(self, key: str) -> Result | None:
        """What the same request made before, if it is still there."""
        with self._lock:
            kept = self._kept.get(self._by_key.get(key, ""))
            if kept is None:
                return None
            self._kept.move_to_end(kept.result.id)
            return kept.result

    def picture(self, result: Result) -> bytes:
        """The PNG.

        Raises:
            RequestError: it is no longer kept.
        """
        return self._read(result, _PICTURE)

    def audio(self, result: Result, form: str) -> bytes:
        """The sound as ``wav``, ``flac``, ``ogg`` or ``mp3``; always the same bytes.

        Raises:
            RequestError: it is no longer kept.
            AudioFileError: the format cannot hold it.
        """
        from riffusion_rt.audio_file import encode_audio

        kept = self._found(result)
        with kept.lock:
            with suppress(FileNotFoundError):
                return self._path(result.id, form).read_bytes()
            flat = np.frombuffer(self._read(result, _SAMPLES), np.float32)
            encoded = encode_audio(
                flat.reshape(result.channels, result.samples), result.sample_rate, f".{form}", result.metadata
            )
            with suppress(OutputError):  # Without room on the disk it is encoded anew each time.
                self._write(result.id, form, encoded)
                with self._lock:
                    kept.size += len(encoded)
                    self._bytes += len(encoded)
        self.tidy()
        return encoded

    def tidy(self) -> None:
        """Drop what is too old, and the least asked for of what is too much; the newest is always kept."""
        with self._lock:
            now = time.monotonic()
            old = [each for each in self._kept.values() if now - each.since > self._kept_s]
            for kept in old:
                self._drop(kept)
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept.values())))

    def _drop(self, kept: _Kept) -> None:
        identity = kept.result.id
        del self._kept[identity]
        if self._by_key.get(kept.result.key) == identity:
            del self._by_key[kept.result.key]
        self._bytes -= kept.size
        self._remove_files(identity)

    def _found(self, result: Result) -> _Kept:
        with self._lock:
            kept = self._kept.get(result.id)
            if kept is None:
                raise gone()
            self._kept.move_to_end(result.id)
            return kept

    def _read(self, result: Result, suffix: str) -> bytes:
        self._found(result)
        try:
            return self._path(result.id, suffix).read_bytes()
        except FileNotFoundError as error:
            raise gone() from error

    def _write(self, identity: str, suffix: str, content: bytes) -> None:
        with whole_file(self._path(identity, suffix)) as file:
            file.write(content)

    def _remove_files(self, identity: str) -> None:
        for suffix in (_SAMPLES, _PICTURE, *AUDIO_TYPES):
            with suppress(OSError):
                self._path(identity, suffix).unlink()

    def _path(self, identity: str, suffix: str) -> Path:
        return self._folder / f"{identity}.{suffix}"


class ResultGone(RequestError):
    """A result was there, and is not kept any more."""


def gone() -> ResultGone:
    """The error for what is no longer kept."""
    return ResultGone("This result is no longer kept", hint="Send the request again")


def readable_metadata(clip: Clip, hidden: Mapping[str, str]) -> dict[str, str]:
    """A clip's metadata with values of its request replaced that say something of the server, such as its paths."""
    metadata = clip.metadata()
    request = {**clip.request.settings(), **{name: text for name, text in hidden.items() if text}}
    return {**metadata, "request": json.dumps(request, ensure_ascii=False, sort_keys=True)}


def _disk_full() -> OutputError:
    return OutputError("The server has no room to keep the result", hint="Try again later")
