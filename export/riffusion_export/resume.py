"""Where a bundle is to be in, a folder to make it in out: kept if the work is interrupted, to go on from there.

The folder is a hidden sibling, ``.NAME.KEY.part``; the key is a hash of everything the bundle is made from, so that
an export with other inputs or options never takes up another's pieces. Finished pieces are noted inside of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from riffusion_engine.errors import ExportError, OutputError
from riffusion_engine.manifest import MANIFEST_NAME

T = TypeVar("T")

_NOTES = ".finished"
_LOCK = ".lock"
_KEY_LENGTH = 16


@dataclass(frozen=True)
class FolderInMaking:
    """The folder ``path`` that will be the bundle, and notes of the pieces in it that are done."""

    path: Path

    def finished(self, piece: str, kind: type[T]) -> T | None:
        """What was noted of ``piece`` when it was finished, or None."""
        try:
            return msgspec.json.decode((self._notes / f"{piece}.json").read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError):
            return None

    def finish(self, piece: str, folders: Iterable[str], note: object) -> None:
        """Note that ``piece`` is done; the files in its ``folders`` are on disk before the note is."""
        for folder in folders:
            for path in (self.path / folder).iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        self._notes.mkdir(exist_ok=True)
        draft = self._notes / f"{piece}.draft"
        draft.write_bytes(msgspec.json.encode(note))
        draft.rename(self._notes / f"{piece}.json")

    @property
    def has_finished_pieces(self) -> bool:
        """Whether there is anything worth keeping."""
        return any(self._notes.glob("*.json"))

    def files(self) -> list[Path]:
        """The files of the bundle so far, in order."""
        found = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path for path in found if path.parent != self._notes and path.name != _LOCK)

    def clear_notes(self) -> None:
        """Take the notes out: what is left is the bundle."""
        shutil.rmtree(self._notes, ignore_errors=True)
        (self.path / _LOCK).unlink(missing_ok=True)

    @property
    def _notes(self) -> Path:
        return self.path / _NOTES


def inputs_key(files: Mapping[str, Path], options: Mapping[str, str]) -> str:
    """A hash of the files a bundle is made from (name, size and time of change of each) and of its options."""
    state = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in sorted(files.items())]
    text = msgspec.json.encode([state, sorted(options.items())])
    return hashlib.sha256(text).hexdigest()[:_KEY_LENGTH]


def check_output(output: Path) -> None:
    """Refuse to replace what is not a bundle.

    Raises:
        ExportError: ``output`` is something else.
    """
    if output.is_dir():
        if (output / MANIFEST_NAME).is_file() or not any(output.iterdir()):
            return
        raise ExportError(
            f"{output} holds files that are not a bundle's", hint="Choose another folder with -o BUNDLE"
        )
    if output.exists() or output.is_symlink():
        raise ExportError(f"{output} is not a folder", hint="Choose another place with -o BUNDLE")


@contextmanager
def folder_in_making(output: Path, key: str) -> Iterator[FolderInMaking]:
    """A sibling of ``output`` that takes its place if the body succeeds.

    If the body raises an error, the sibling vanishes; if it is interrupted or the process dies, finished pieces stay
    for the next export of the same ``key``. What exports with other keys left behind is swept away.

    Raises:
        ExportError: another process makes the same bundle.
        OutputError: ``output`` cannot be written.
    """
    output = output.absolute()
    scratch = output.parent / f".{output.name}.{key}.part"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _sweep(output, scratch)
        scratch.mkdir(exist_ok=True)
        lock = _locked(scratch)
    except OSError as error:
        raise _unwritable(output, error) from error
    if lock is None:
        raise ExportError(
            f"Another export is making {output}", hint="Wait for it, or choose another folder with -o"
        )
    making = FolderInMaking(scratch)
    try:
        yield making
        making.clear_notes()
        _take_place(scratch, output)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise _unwritable(output, error) from error
    except Exception:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    except BaseException:  # Interrupted, or no longer wanted.
        if not making.has_finished_pieces:
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Hold the lock of a folder in making; None if somebody else does. It goes with the process."""
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
    try:
        import fcntl
    except ImportError:  # On Windows two exports of one bundle are not told apart.
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _sweep(output: Path, current: Path) -> None:
    leftover = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{{_KEY_LENGTH}}}\.part")
    for stale in output.parent.iterdir():
        if stale == current or not leftover.fullmatch(stale.name):
            continue
        with suppress(OSError):
            lock = _locked(stale)
            if lock is not None:
                shutil.rmtree(stale, ignore_errors=True)
                os.close(lock)


def _take_place(scratch: Path, output: Path) -> None:
    if not output.exists():
        scratch.rename(output)
        return
    previous = scratch.with_suffix(".old")
    output.rename(previous)
    try:
        scratch.rename(output)
    except OSError:
        previous.rename(output)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _unwritable(output: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"Cannot write {output}: {reason}", hint="Choose a writable place with -o BUNDLE")
