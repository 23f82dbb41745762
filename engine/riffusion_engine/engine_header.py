"""An engine file in, what it is out, read and checked before anything of it reaches native code.

An engine file is the magic word, the length of the header (unsigned, 64 bits, little-endian), the header as JSON padded
with blanks, and the plan: the bytes that TensorRT deserializes. The plan begins on a page, so that it can be mapped
into memory rather than read.
"""

from __future__ import annotations

import hashlib
import mmap
import shlex
import struct
from pathlib import Path

import msgspec

from riffusion_engine.engine_library import ENGINE_LIBRARIES, this_platform
from riffusion_engine.engine_plan import EngineRecipe
from riffusion_engine.errors import EngineError
from riffusion_engine.manifest import Sha256
from riffusion_engine.whole_file import whole_file

FORMAT_VERSION = 1
MAGIC = b"RIFFENG\n"
PAGE = 4096
LARGEST_HEADER = 1 << 20

_LENGTH = struct.Struct("<Q")
_HASH_BLOCK = 1 << 24


class EngineHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine file says of itself.

    ``bundle`` is the folder it was built from, ``recipe`` what it was built of; then the plan's SHA-256 and size, and
    what building cost: seconds, and the most memory that the building process held, in bytes.
    """

    format_version: int = FORMAT_VERSION
    name: str
    bundle: str
    recipe: EngineRecipe
    plan_sha256: Sha256
    plan_bytes: int
    build_s: float
    peak_bytes: int

    @property
    def build_command(self) -> str:
        """The command that builds this engine anew."""
        return build_command(self.bundle, self.recipe)


class _Version(msgspec.Struct):
    format_version: int


def build_command(bundle: str | Path, recipe: EngineRecipe) -> str:
    """The command that builds an engine by ``recipe`` from the folder ``bundle``."""
    device = next(name for name, library in ENGINE_LIBRARIES.items() if library.name == recipe.library)
    options = [f"--device {device}", f"--target {recipe.target}", f"--component {recipe.component}"]
    options.append(f"--batch {','.join(map(str, recipe.batches))}")
    if recipe.chunks != (1,):
        options.append(f"--chunks {','.join(map(str, recipe.chunks))}")
    if recipe.width is not None:
        options.append(f"--width {recipe.width}")
    if recipe.tf32:
        options.append("--tf32")
    return f"riffusion-rt build {shlex.quote(str(bundle))} {' '.join(options)}"


def sha256_of(plan: bytes | memoryview | mmap.mmap) -> str:
    """SHA-256 of a plan, in blocks, so that a mapped one need not fit into memory."""
    digest = hashlib.sha256()
    with memoryview(plan) as view:
        for start in range(0, len(view), _HASH_BLOCK):
            digest.update(view[start : start + _HASH_BLOCK])
    return digest.hexdigest()


def write_engine(path: Path, header: EngineHeader, plan: bytes | memoryview) -> None:
    """Write an engine file, whole or not at all. ``header`` must already hold the plan's size and hash.

    Raises:
        OutputError: the file cannot be written.
    """
    text = msgspec.json.encode(header)
    start = _plan_start(len(text))
    with whole_file(path) as file:
        file.write(MAGIC + _LENGTH.pack(start - len(MAGIC) - _LENGTH.size))
        file.write(text.ljust(start - len(MAGIC) - _LENGTH.size))
        file.write(plan)


def read_header(path: Path) -> EngineHeader:
    """Read an engine's header and check it against the file's size; the plan is left alone.

    Raises:
        EngineError: it is no engine file, it is cut off, or it is of another format version.
    """
    header, start = _read(path)
    size = path.stat().st_size
    if size != start + header.plan_bytes:
        what = "cut off" if size < start + header.plan_bytes else "longer than it should be"
        raise EngineError(
            f"{path} is {what}: {size:,} bytes of {start + header.plan_bytes:,}",
            hint=f"Build it again: {header.build_command}",
        )
    return header


def map_plan(path: Path) -> tuple[EngineHeader, mmap.mmap, int]:
    """Check an engine file with its plan's hash, and map it: the header, the whole file, and where the plan begins.

    Raises:
        EngineError: it is no engine file, or it is damaged.
    """
    header = read_header(path)
    start = _read(path)[1]
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with memoryview(mapped) as view, view[start:] as plan:
        found = sha256_of(plan)
    if found != header.plan_sha256:
        mapped.close()
        raise EngineError(
            f"{path} is damaged: the SHA-256 of its plan differs",
            hint=f"Build it again: {header.build_command}",
        )
    return header, mapped, start


def verify_engine(path: Path) -> EngineHeader:
    """Check an engine file with its plan's hash.

    Raises:
        EngineError: it is no engine file, or it is damaged.
    """
    header, mapped, _ = map_plan(path)
    mapped.close()
    return header


def require_usable(
    path: Path, header: EngineHeader, *, library: str, library_version: str, target: str | None
) -> None:
    """Refuse an engine that may not run here: another library or version, GPU, operating system or processor.

    Args:
        path: names the engine in the error.
        header: what it says of itself.
        library: the library that would run it, and ``library_version`` that one's version.
        target: this GPU's compute capability, None where there is none.

    Raises:
        EngineError: it is foreign; the message says in what.
    """
    recipe = header.recipe
    system, machine = this_platform()
    for what, built, here in (
        ("library", recipe.library, library),
        ("library version", recipe.library_version, library_version),
        ("GPU", recipe.target, target or "none"),
        ("operating system", recipe.system, system),
        ("processor", recipe.machine, machine),
    ):
        if built != here:
            raise EngineError(
                f"{path} was built for another {what}: {built}, here is {here}",
                hint=f"Build one for this machine: riffusion-rt build {shlex.quote(header.bundle)} --target native",
            )


def require_current(path: Path, header: EngineHeader, sources: dict[str, str]) -> None:
    """Refuse an engine whose graph or weights are not those of the bundle as it is now.

    Raises:
        EngineError: it is stale; the message names the file that changed.
    """
    built = header.recipe.sources
    changed = sorted(file for file in built.keys() | sources.keys() if built.get(file) != sources.get(file))
    if changed:
        raise EngineError(
            f"{path} is stale: {', '.join(changed)} of the bundle changed after it was built",
            hint=f"Build it again: {header.build_command}",
        )


def _read(path: Path) -> tuple[EngineHeader, int]:
    clear = "Remove it and build again: riffusion-rt cache prune && riffusion-rt build BUNDLE"
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            raw = file.read(_LENGTH.size)
            length = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else 0
            text = file.read(length) if magic == MAGIC and length <= LARGEST_HEADER else b""
    except OSError as error:
        raise EngineError(
            f"Cannot read {path}: {error.strerror or error}", hint="Build it: riffusion-rt build BUNDLE"
        ) from error
    if not text or len(text) != length:
        raise EngineError(f"{path} is no engine file, or its header is cut off", hint=clear)
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise EngineError(
                f"{path} has format version {version}; this riffusion-rt reads version {FORMAT_VERSION}",
                hint=clear,
            )
        header = msgspec.json.decode(text, type=EngineHeader)
    except msgspec.DecodeError as error:
        raise EngineError(f"{path} has a damaged header: {error}", hint=clear) from error
    return header, len(MAGIC) + _LENGTH.size + length


def _plan_start(length: int) -> int:
    unpadded = len(MAGIC) + _LENGTH.size + length
    return -(-unpadded // PAGE) * PAGE
