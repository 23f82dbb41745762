"""What the user asked for in, the paths to write out; refused before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from riffusion_engine.errors import OutputError

SLUG_LENGTH = 40
"""Letters of a prompt that its file is named after."""


def slug(prompt: str) -> str:
    """A file name's stem that recalls a prompt: its letters and digits, lower case, joined by dashes."""
    words = "".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split()
    return "-".join(words)[:SLUG_LENGTH].strip("-") or "clip"


def clip_paths(wanted: Path | None, prompt: str, seeds: Sequence[int]) -> list[Path]:
    """The audio file of each seed.

    ``wanted`` is a file (numbered NAME-0001 and on if there are several seeds), a folder that exists, or None
    for the current one. In a folder, clips are named after the prompt and their seed.

    Raises:
        AudioFileError: the suffix is of no audio file written here.
        OutputError: the place cannot be written.
    """
    from riffusion_rt.audio_file import check_audio_suffix

    if wanted is None or wanted.is_dir():
        folder = wanted or Path()
        paths = [folder / f"{slug(prompt)}-{seed}.wav" for seed in seeds]
    else:
        check_audio_suffix(wanted)
        numbered = [wanted.with_stem(f"{wanted.stem}-{number:04}") for number in range(1, len(seeds) + 1)]
        paths = numbered if len(seeds) > 1 else [wanted]
    check_writable(paths)
    return paths


def check_writable(paths: Sequence[Path]) -> None:
    """Find out now what would keep files from being written after minutes of work.

    Raises:
        OutputError: a path is a folder, lies below a file, or in a folder that cannot be written.
    """
    for path in {path.parent: path for path in paths}.values():
        _try_parent(path)
    for path in paths:
        if path.is_dir():
            raise _refused(path, "it is a folder")


def _try_parent(path: Path) -> None:
    import tempfile

    try:
        existing = next(folder for folder in path.parents if folder.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _refused(path: Path, reason: str) -> OutputError:
    return OutputError(f"Cannot write {path}: {reason}", hint="Choose a writable place with -o")
