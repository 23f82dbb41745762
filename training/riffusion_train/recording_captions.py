"""A recording and what is said of it in, its caption out: from a list, its own tags, or the folders it lies in."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from riffusion_engine.errors import AudioFileError, RequestError

NAME_COLUMNS = ("file_name", "file", "path", "audio", "filename", "name")
TEXT_COLUMNS = ("text", "caption", "prompt", "description")
"""What a list of captions may call its two columns; the first found counts."""

LONGEST_CAPTION = 300
"""Characters: some four times what the text encoders of this class read (77 tokens)."""

TAGS: tuple[tuple[str, ...], ...] = (
    ("genre", "TCON", "\xa9gen"),
    ("mood", "TMOO", "TXXX:MOOD"),
    ("title", "TIT2", "\xa9nam"),
    ("description", "comment", "COMM", "\xa9cmt", "desc"),
)
"""Tags that tell how a recording sounds, as Vorbis, ID3 and MP4 name them, in the order of the caption. Who made it is
left out on purpose: a caption that names an artist teaches imitation of that artist."""

_MACHINE_TALK = re.compile(
    r"^[\W\d_]*$|^(iTun|https?://|www\.)|\b(encoded|ripped|lame|lavf?)\b", re.IGNORECASE
)
"""Comments that programs leave: numbers, addresses, names of encoders."""
_NUMBERING = re.compile(r"^(?:track|titel|piste)?[\s_#.-]*\d+[\s_.)-]*", re.IGNORECASE)
"""What a title or folder begins with when it is merely numbered."""

ORIGINS = ("list", "tags", "folder", "default")
"""Where a caption may come from, in the order in which they are asked."""


@dataclass(frozen=True)
class CaptionSources:
    """What may be asked for a caption.

    ``listed`` maps names of recordings (below ``root``, with or without folder and suffix) to captions; ``default`` is
    for recordings of which nothing else is known.
    """

    root: Path
    listed: Mapping[str, str] = field(default_factory=dict)
    tags: bool = True
    folders: bool = True
    default: str | None = None

    def caption_of(self, recording: Path) -> tuple[str, str] | None:
        """The caption and its origin: the list's, else the tags', else the folders', else the default (`ORIGINS`).

        A recording that a list names with an empty text is asked no further: it has no caption, and None is returned.
        """
        relative = recording.relative_to(self.root)
        names = (relative.as_posix(), relative.with_suffix("").as_posix(), recording.name, recording.stem)
        listed = next((self.listed[name] for name in names if name in self.listed), None)
        if listed is not None:
            return (listed, "list") if listed else None
        if self.tags and (text := caption_from_tags(read_tags(recording))):
            return text, "tags"
        if self.folders and (text := caption_from_folders(relative.parent.parts)):
            return text, "folder"
        return (tidy(self.default), "default") if self.default else None


def read_caption_list(path: Path) -> dict[str, str]:
    """Read names and captions from a CSV file with a header, or from JSON lines.

    Raises:
        RequestError: it cannot be read, or has no column of names or none of texts.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"Cannot read the captions in {path}: {error}", hint="Name a UTF-8 file"
        ) from error
    rows = list(
        _json_rows(path, text) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv_rows(text)
    )
    columns = list(rows[0]) if rows else []
    name = next((column for column in NAME_COLUMNS if column in columns), None)
    caption = next((column for column in TEXT_COLUMNS if column in columns), None)
    if name is None or caption is None:
        raise RequestError(
            f"{path} needs a column of file names and one of texts; it has {', '.join(map(str, columns)) or 'none'}",
            hint="Call them file_name and text",
        )
    return {
        Path(str(row[name]).strip()).as_posix(): tidy(str(row.get(caption) or ""))
        for row in rows
        if row.get(name)
    }


def _csv_rows(text: str) -> Iterable[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    return [{str(key).strip().lower(): value for key, value in row.items()} for row in rows]


def _json_rows(path: Path, text: str) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RequestError(
                f"Line {number} of {path} is no JSON object",
                hint='Write {"file_name": …, "text": …} on each line',
            )
        yield row


def read_tags(recording: Path) -> dict[str, str]:
    """The texts of a recording's own tags, by the first name of each of `TAGS`; "prompt" if this program made it.

    Without the package mutagen only what riffusion-rt itself writes is read. A file whose tags are damaged has none.
    """
    from riffusion_rt.audio_file import read_metadata

    found: dict[str, str] = {}
    try:
        own = read_metadata(recording)
        found |= {name: own[name] for name in ("prompt", "title", "comment") if own.get(name)}
    except AudioFileError:  # Whether it is audio at all is found out where it is read.
        pass
    if "comment" in found:
        found["description"] = found.pop("comment")
    if find_spec("mutagen") is None:
        return found
    import mutagen

    try:
        opened = mutagen.File(recording)
        tags = dict(opened.tags or {}) if opened is not None else {}
    except Exception:  # mutagen raises whatever a damaged file leads it to.
        return found
    named = {
        str(key).split(":", 1)[0] if str(key).startswith("COMM") else str(key): tags[key] for key in tags
    }
    lower = {key.lower(): value for key, value in named.items()}
    for names in TAGS:
        value = next((lower[name.lower()] for name in names if name.lower() in lower), None)
        if value is not None and (text := _text_of(value)):
            found[names[0]] = text
    return found


def caption_from_tags(tags: Mapping[str, str]) -> str:
    """The prompt that made a recording, else genre, mood, title and description; what says nothing is left out."""
    if tags.get("prompt"):
        return tidy(tags["prompt"])
    parts: list[str] = []
    for names in TAGS:
        text = tidy(tags.get(names[0], ""))
        if names[0] == "title":
            text = _NUMBERING.sub("", text)
        known = " ".join(parts).lower()
        if text and not _MACHINE_TALK.search(text) and not text.startswith("{") and text.lower() not in known:
            parts.append(text)
    return tidy(", ".join(parts))


def caption_from_folders(parts: Iterable[str]) -> str:
    """``("Rock", "02_slow-ballads")`` becomes "Rock, slow ballads"."""
    words = (_NUMBERING.sub("", re.sub(r"[_-]+", " ", part)).strip() for part in parts)
    return tidy(", ".join(word for word in words if word))


def tidy(text: str) -> str:
    """One line of printable letters, not longer than `LONGEST_CAPTION`, cut between words."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(line) <= LONGEST_CAPTION:
        return line
    return line[:LONGEST_CAPTION].rsplit(" ", 1)[0]


def _text_of(value: Any) -> str:
    """A tag's value as one text, whatever container mutagen gives it in."""
    value = getattr(value, "text", value)
    if isinstance(value, list | tuple):
        value = ", ".join(str(each) for each in value)
    return str(value).strip()
