"""Encoded audio in, the same audio with tags and without chance out: the container work libsndfile leaves
undone.

libsndfile 1.2 writes FLAC and Ogg comments well, but reads a WAV comment back only up to a kilobyte or two,
writes no UTF-8 into MP3, and stamps Ogg streams with a random serial number.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

RIFF_TITLE, RIFF_COMMENT, RIFF_SOFTWARE = "INAM", "ICMT", "ISFT"
"""Chunks of a WAV file's ``LIST INFO`` (Microsoft's RIFF specification)."""

ID3_TITLE, ID3_COMMENT, ID3_SOFTWARE = "TIT2", "COMM", "TSSE"
"""Frames of an MP3 file's ID3v2 tag (id3.org, ID3v2.4.0 native frames)."""

MAX_TAG_BYTES = 2**24
"""Larger tags are not read: nothing that describes a clip needs 16 MiB, and a broken size field may claim
more."""

_ID3_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
_ID3_UTF8 = b"\x03"
_ID3_NO_LANGUAGE = b"XXX"
_ID3_UNSYNCHRONISED = 0x80
_ID3_HEADER_BYTES = 10

_OGG_PAGE_HEADER_BYTES = 27
_OGG_SERIAL = slice(14, 18)
_OGG_CHECKSUM = slice(22, 26)
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ALL_ONES = 0xFFFFFFFF


def with_riff_info(wav: bytes, tags: Mapping[str, str]) -> bytes:
    """Append a ``LIST INFO`` chunk (four-letter name to text, stored as UTF-8) to a WAV file's bytes."""
    info = b"INFO"
    for name, text in tags.items():
        value = text.encode() + b"\0"
        info += struct.pack("<4sI", name.encode(), len(value)) + value + b"\0" * (len(value) % 2)
    body = wav[8:] + b"\0" * (len(wav) % 2) + struct.pack("<4sI", b"LIST", len(info)) + info
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def riff_info(file: IO[bytes]) -> dict[str, str]:
    """Read every ``LIST INFO`` text of an open WAV file; empty if it has none or is no WAV file."""
    file.seek(0)
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return {}
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"LIST" and size <= MAX_TAG_BYTES:
            body = file.read(size + size % 2)
            if body[:4] == b"INFO":
                return dict(_riff_texts(body[4:size]))
        else:
            file.seek(size + size % 2, 1)
    return {}


def _riff_texts(body: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        text = body[at + 8 : at + 8 + size].split(b"\0", 1)[0]
        yield name.decode("latin-1"), text.decode("utf-8", "replace")
        at += 8 + size + size % 2


def with_id3(mp3: bytes, tags: Mapping[str, str]) -> bytes:
    """Put an ID3v2.4 tag (frame name to text, stored as UTF-8) before an MP3 stream's bytes."""
    frames = b""
    for name, text in tags.items():
        value = _ID3_UTF8 + (_ID3_NO_LANGUAGE + b"\0" if name == ID3_COMMENT else b"") + text.encode()
        frames += struct.pack(">4s4sH", name.encode(), _syncsafe(len(value)), 0) + value
    return struct.pack(">3sBBB4s", b"ID3", 4, 0, 0, _syncsafe(len(frames))) + frames + mp3


def id3_tags(file: IO[bytes]) -> dict[str, str]:
    """Read the text and comment frames of an open file's ID3v2.3 or 2.4 tag; empty if there is none."""
    file.seek(0)
    header = file.read(_ID3_HEADER_BYTES)
    if len(header) < _ID3_HEADER_BYTES or header[:3] != b"ID3" or header[3] not in (3, 4):
        return {}
    size = _unsyncsafe(header[6:])
    if header[5] & _ID3_UNSYNCHRONISED or size > MAX_TAG_BYTES:
        return {}
    return dict(_id3_texts(file.read(size), version=header[3]))


def _id3_texts(body: bytes, *, version: int) -> Iterator[tuple[str, str]]:
    at = 0
    while at + _ID3_HEADER_BYTES <= len(body) and body[at] != 0:
        name = body[at : at + 4].decode("latin-1")
        length = body[at + 4 : at + 8]
        size = _unsyncsafe(length) if version == 4 else int.from_bytes(length, "big")
        at += _ID3_HEADER_BYTES + size
        value = body[at - size : at]
        encoding = _ID3_ENCODINGS.get(value[0]) if value else None
        if encoding is None or not (name == ID3_COMMENT or name.startswith("T")):
            continue
        text = value[4 if name == ID3_COMMENT else 1 :].decode(encoding, "replace")
        if name == ID3_COMMENT:
            text = text.partition("\0")[2].lstrip("\ufeff")
        yield name, text.rstrip("\0")


def _syncsafe(size: int) -> bytes:
    """Seven bits a byte, so that no length looks like the start of an MP3 frame."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def _unsyncsafe(data: bytes) -> int:
    size = 0
    for byte in data:
        size = size << 7 | byte & 0x7F
    return size


def with_ogg_serial(ogg: bytes, serial: int) -> bytes:
    """Give every page of an Ogg stream the same serial number, and its checksum anew (RFC 3533)."""
    pages = bytearray(ogg)
    at = 0
    while pages[at : at + 4] == b"OggS":
        segments = pages[at + _OGG_PAGE_HEADER_BYTES - 1]
        lengths = pages[at + _OGG_PAGE_HEADER_BYTES : at + _OGG_PAGE_HEADER_BYTES + segments]
        end = at + _OGG_PAGE_HEADER_BYTES + segments + sum(lengths)
        page = pages[at:end]
        page[_OGG_SERIAL] = serial.to_bytes(4, "little")
        page[_OGG_CHECKSUM] = bytes(4)
        page[_OGG_CHECKSUM] = _ogg_checksum(page).to_bytes(4, "little")
        pages[at:end] = page
        at = end
    return bytes(pages)


def _ogg_checksum(page: bytes | bytearray) -> int:
    # Ogg's CRC is zlib's polynomial with the bits of bytes and result the other way round, and no inversions.
    mirrored = zlib.crc32(page.translate(_REVERSED_BITS), _ALL_ONES) ^ _ALL_ONES
    return int(f"{mirrored:032b}"[::-1], 2)
