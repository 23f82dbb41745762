"""A file of prompts in, a folder with one clip of each and a manifest of them all out, however often it was begun.

The manifest is the truth: ``manifest.jsonl`` holds one JSON line for every clip whose files are there, written after
them. A run makes what has no line yet. Only one run at a time may write a folder, and in it one process: whoever
makes the clips hands them over as bytes. So a clip is there once, whatever is killed when, and at the end the
lines are put in the file's order.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import OutputError, RequestError, RiffusionError
from riffusion_engine.whole_file import whole_file
from riffusion_rt.request import ClipRequest

if TYPE_CHECKING:
    from riffusion_rt.pipeline import Riffusion

MANIFEST = "manifest.jsonl"
LOCK = ".manifest.lock"

MOST_PROMPTS = 1_000_000

SLUG_LETTERS = 40
"""Of a prompt, in its file's name."""

FROM_FILES = ("seed_image", "mask", "seed_audio", "repaint_s", "repaint_hz")
"""Settings that a line of a prompt file cannot have: they belong to a picture or recording of one machine."""


@dataclass(frozen=True)
class Entry:
    """One clip that is wanted."""

    number: int
    """From 1, in the file's order."""
    request: ClipRequest
    stem: str
    """Of its files' names."""
    digest: str
    """Of what makes it: another digest is another clip."""


@dataclass(frozen=True)
class MadeClip:
    """A clip as bytes, or why there is none."""

    number: int
    sound: bytes = b""
    picture: bytes = b""
    facts: Mapping[str, Any] | None = None
    """Its line of the manifest, but for what the writer knows."""
    error: RiffusionError | None = None


Maker = Callable[[Sequence[Entry]], Iterator[MadeClip]]
"""Makes entries, in any order; each comes once, or is left out when its maker is killed."""


def read_prompts(path: Path, *, model: str, seed: int = 0, settings: Mapping[str, Any]) -> list[Entry]:
    """The clips that a file asks for.

    Args:
        path: text with one prompt a line, or ``.jsonl`` with an object of ``ClipRequest``'s settings a line. Empty
            lines are skipped.
        model: what they will be made with, as ``Riffusion`` takes it.
        seed: of the first prompt; each further one has the next, unless its line says another.
        settings: of all clips, unless their line says otherwise.

    Raises:
        RequestError: there is no such file, nothing in it, or a line that is no request; it says which.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Cannot read {path}: {error}", hint="Give a text file of prompts") from error
    wanted = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(wanted) <= MOST_PROMPTS:
        raise RequestError(
            f"{path} has {len(wanted)} prompts", hint=f"Give a file with 1 to {MOST_PROMPTS:,} lines"
        )
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    entries = []
    for number, (line, text) in enumerate(wanted, 1):
        values = {"seed": seed + number - 1, **settings, **(_object(text) if as_json else {"prompt": text})}
        try:
            request = ClipRequest(**values)
        except RequestError as error:
            raise RequestError(f"{path}, line {line}: {error.message}", hint=error.hint) from error
        except TypeError as error:
            raise RequestError(
                f"{path}, line {line}: {error}", hint='Give lines like {"prompt": "church bells", "seed": 7}'
            ) from error
        entries.append(_entry(number, request, model))
    return entries


class BulkFolder:
    """Where the clips go. Use it as a context: meanwhile nobody else may write it.

    Args:
        folder: is made if it is not there.
        entries: all clips that are wanted.
        suffix: ``.wav``, ``.flac``, ``.ogg`` or ``.mp3``.

    Raises:
        OutputError: another run writes the folder, or it cannot be written.
        RequestError: it holds the clips of other prompts.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self._entries = {entry.number: entry for entry in entries}
        self._rows: dict[int, dict[str, Any]] = {}
        self._stack: Any = None

    def __enter__(self) -> BulkFolder:
        from contextlib import ExitStack

        with ExitStack() as stack:
            stack.enter_context(_alone(self.folder))
            self._rows = self._kept_rows()
            for scrap in self.folder.glob(".*.part"):
                scrap.unlink(missing_ok=True)  # Of a run that was killed while it wrote.
            # Whole lines only: one that was being written when its run was killed is gone for good.
            self._write_all()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OutputError):
            self._write_all()
        self._stack.close()

    @property
    def missing(self) -> list[Entry]:
        """What is still to be made."""
        return [entry for number, entry in self._entries.items() if number not in self._rows]

    @property
    def made(self) -> int:
        """Clips that are there."""
        return len(self._rows)

    def put(self, clip: MadeClip) -> dict[str, Any]:
        """Write a clip and its line; returns that.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        entry = self._entries[clip.number]
        sound, picture = self._paths(entry)
        with whole_file(picture) as file:
            file.write(clip.picture)
        with whole_file(sound) as file:
            file.write(clip.sound)
        row = {
            "number": entry.number,
            "audio": sound.name,
            "image": picture.name,
            "sha256": hashlib.sha256(clip.sound).hexdigest(),
            "digest": entry.digest,
            **(clip.facts or {}),
        }
        self._rows[entry.number] = row
        try:
            with (self.folder / MANIFEST).open("a", encoding="utf-8") as manifest:
                manifest.write(_line(row))
                manifest.flush()
                os.fsync(manifest.fileno())
        except OSError as error:
            raise OutputError(f"Cannot write {self.folder / MANIFEST}: {error}", hint="Make room") from error
        return row

    def _paths(self, entry: Entry) -> tuple[Path, Path]:
        return self.folder / f"{entry.stem}{self.suffix}", self.folder / f"{entry.stem}.png"

    def _kept_rows(self) -> dict[int, dict[str, Any]]:
        rows = {}
        with suppress(FileNotFoundError):
            for line in (self.folder / MANIFEST).read_text("utf-8", errors="replace").splitlines():
                row = _row(line)
                if row is None:
                    continue
                entry = self._entries.get(row["number"])
                if entry is None or entry.digest != row.get("digest"):
                    raise RequestError(
                        f"{self.folder} holds the clips of other prompts, settings or another model",
                        hint="Choose another folder with -o",
                    )
                sound, picture = self._paths(entry)
                if row.get("audio") == sound.name and sound.is_file() and picture.is_file():
                    rows[entry.number] = row
        return rows

    def _write_all(self) -> None:
        with whole_file(self.folder / MANIFEST) as file:
            for number in sorted(self._rows):
                file.write(_line(self._rows[number]).encode())


def made_here(riffusion: Riffusion, suffix: str) -> Maker:
    """A maker in this process, one clip after another."""

    def make(entries: Sequence[Entry]) -> Iterator[MadeClip]:
        for entry in entries:
            yield made_clip(riffusion, entry, suffix)

    return make


def made_clip(riffusion: Riffusion, entry: Entry, suffix: str) -> MadeClip:
    """One clip as bytes; an error that another clip need not have becomes part of it."""
    from riffusion_rt.clip import Clip

    try:
        clip = next(event for event in riffusion.iterate(entry.request) if isinstance(event, Clip))
        with tempfile.TemporaryDirectory(prefix="riffusion-rt-") as folder:
            sound, picture = clip.save(Path(folder) / f"{entry.stem}{suffix}")
            content = sound.read_bytes(), picture.read_bytes()
    except RiffusionError as error:
        return MadeClip(entry.number, error=error)
    facts = {
        "model": clip.model,
        "prompt": clip.request.prompt,
        "seed": clip.request.seed,
        "duration_s": round(clip.duration_s, 6),
        "sample_rate": clip.sample_rate,
        "request": clip.request.settings(),
    }
    return MadeClip(entry.number, *content, facts)


def make_all(folder: BulkFolder, maker: Maker) -> Iterator[MadeClip]:
    """Make what is missing of a folder, write it, and yield each clip, without its bytes, once it is there."""
    for clip in maker(folder.missing):
        if clip.error is None:
            folder.put(clip)
        yield replace(clip, sound=b"", picture=b"")


def _entry(number: int, request: ClipRequest, model: str) -> Entry:
    words = "".join(letter if letter.isalnum() else " " for letter in request.prompt.lower()).split()
    slug = "-".join(words)[:SLUG_LETTERS].strip("-") or "clip"
    facts = json.dumps([model, request.settings()], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:32]
    return Entry(number, request, f"{number:06}-{slug}-{request.seed}", digest)


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict) or "prompt" not in values:
        # Told with the number of its line by whoever reads the file.
        return {"no request": text[:80]}
    for name in FROM_FILES:
        if name in values:
            return {f"{name} in a prompt file": None}
    return values


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("number"), int) else None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise OutputError(
            f"Another run is writing {folder}", hint="Wait until it is done, or choose another folder with -o"
        ) from error
    except OSError as error:
        raise OutputError(
            f"Cannot write {folder}: {error}", hint="Choose a writable place with -o"
        ) from error


def check_distinct(entries: Iterable[Entry]) -> None:
    """Refuse a file that asks for the same clip twice.

    Raises:
        RequestError: two lines have the same prompt, seed and settings.
    """
    seen: dict[str, int] = {}
    for entry in entries:
        if entry.digest in seen:
            raise RequestError(
                f"Prompts {seen[entry.digest]} and {entry.number} ask for the same clip",
                hint="Give one of them another seed",
            )
        seen[entry.digest] = entry.number
