"""A build in, its progress and the engine's header out; the building itself happens in a child process.

A process of its own gives all memory back between components, and if native code dies there, that is an error here
rather than the end of the program. The child is ``python -m riffusion_engine.build_process``: it reads a `BuildOrder`
from its standard input and writes events, a JSON line each, to its standard output; whatever libraries print goes to
its standard error, which is kept for the error's message.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_header import EngineHeader, build_command, sha256_of, write_engine
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.engine_plan import EngineRecipe, source_files
from riffusion_engine.errors import DeviceError, EngineError, MissingExtraError, RiffusionError
from riffusion_engine.manifest import Manifest, verify_file

WAITING = "another process builds it"
"""The stage that is reported while the engine's lock is held elsewhere."""
CHECKING = "checking the bundle"

_LAST_WORDS = 300
_KINDS: dict[str, type[RiffusionError]] = {
    kind.__name__: kind for kind in (EngineError, DeviceError, MissingExtraError)
}


class BuildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process is to build, from which graph file, and where the engine and the timings go."""

    name: str
    bundle: str
    graph: str
    recipe: EngineRecipe
    output: str
    timing: str


class _Event(msgspec.Struct, omit_defaults=True):
    """A line from the child: progress, or ``error`` with its kind and hint, or ``done``."""

    fraction: float = 0.0
    stage: str = ""
    done: bool = False
    error: str = ""
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True)
class BuildProgress:
    """How far one engine is: ``fraction`` of 0 to 1, what is being done, and at the end its header and file.

    ``hit`` says that the cache had it.
    """

    component: str
    fraction: float
    stage: str
    header: EngineHeader | None = None
    path: Path | None = None
    hit: bool = False


def build_engine(
    bundle: Path, manifest: Manifest, recipe: EngineRecipe, *, cache: EngineCache
) -> Iterator[BuildProgress]:
    """Find the engine of ``recipe`` in the cache, or build it there. The last progress bears its header.

    Of two processes that want the same engine one builds, the other waits and finds it. A damaged engine is built
    anew. Closing the iterator ends the child.

    Raises:
        BundleError: a file of the graph is missing or altered.
        EngineError: the library refused the graph, or its process died.
        OutputError: the cache cannot be written.
        MissingExtraError: the library does not load.
    """
    component, path = recipe.component, cache.path(recipe)
    graph = manifest.graph(component)
    sources = source_files(manifest, graph)
    for file, spec in sources.items():
        verify_file(bundle, file, spec, hashes=False)
    with cache.locked(recipe) as acquiring:
        for _ in acquiring:
            yield BuildProgress(component, 0.0, WAITING)
        header = _sound(cache, recipe)
        if header is not None:
            yield BuildProgress(component, 1.0, "in the cache", header, path, hit=True)
            return
        yield BuildProgress(component, 0.0, CHECKING)
        for file, spec in sources.items():
            verify_file(bundle, file, spec)
        order = BuildOrder(
            name=manifest.name,
            bundle=str(bundle.resolve()),
            graph=str(bundle / graph.path),
            recipe=recipe,
            output=str(path),
            timing=str(cache.timing_path(recipe)),
        )
        for event in _run_child(order):
            yield BuildProgress(component, event.fraction, event.stage)
        header = cache.look_up(recipe)
        if header is None:
            raise EngineError(
                f"The build of {component} left no engine", hint="Build again with --json and report it"
            )
        yield BuildProgress(component, 1.0, "built", header, path)


def _sound(cache: EngineCache, recipe: EngineRecipe) -> EngineHeader | None:
    try:
        return cache.look_up(recipe)
    except EngineError:
        return None  # Damaged: the build replaces it.


def _run_child(order: BuildOrder) -> Iterator[_Event]:
    command = [sys.executable, "-m", "riffusion_engine.build_process"]
    with tempfile.TemporaryFile() as spoken:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=spoken)
        assert child.stdin is not None and child.stdout is not None
        try:
            with suppress(BrokenPipeError), child.stdin as orders:
                orders.write(msgspec.json.encode(order))
            last = _Event()
            for line in child.stdout:
                last = msgspec.json.decode(line, type=_Event)
                if last.error:
                    raise _KINDS.get(last.kind, EngineError)(last.error, hint=last.hint)
                if not last.done:
                    yield last
            code = child.wait()
            if code != 0 or not last.done:
                raise _death(order, code, spoken)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def _death(order: BuildOrder, code: int, spoken: IO[bytes]) -> EngineError:
    """The error for a child that ended without a word: by which signal, and what it said last."""
    how = f"with exit code {code}"
    if code < 0:
        with suppress(ValueError):
            how = f"by {signal.Signals(-code).name}"
    spoken.seek(0)
    lines = spoken.read().decode(errors="replace").split("\n")
    words = " ".join(next((line for line in reversed(lines) if line.strip()), "").split())[:_LAST_WORDS]
    out_of_memory = code == -getattr(signal, "SIGKILL", 9)
    hint = (
        "Free memory, or build smaller shapes (--batch 1)"
        if out_of_memory
        else "Report it with the bundle's name"
    )
    command = build_command(order.bundle, order.recipe)
    return EngineError(
        f"The build of {order.recipe.component} ended {how}" + (f": {words}" if words else ""),
        hint=f"{hint}; the command was: {command}",
    )


def _main() -> int:
    """Be the child."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What native code prints is no event.
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=BuildOrder)

    def tell(event: _Event) -> bool:
        try:
            events.write(msgspec.json.encode(event) + b"\n")
        except OSError:
            return False  # The parent has gone: nobody waits for this engine.
        return True

    try:
        _build(order, tell)
    except RiffusionError as error:
        tell(_Event(error=error.message, hint=error.hint, kind=type(error).__name__))
        return 2
    tell(_Event(done=True, fraction=1.0))
    return 0


def _build(order: BuildOrder, tell: Any) -> None:
    from riffusion_engine.engine_builder import build_plan

    began = time.monotonic()
    recipe = order.recipe
    library = next(found for found in ENGINE_LIBRARIES.values() if found.name == recipe.library)
    shown = -1

    def watch(fraction: float, stage: str) -> bool:
        nonlocal shown
        percent = int(100 * fraction)
        if percent == shown:
            return True
        shown = percent
        return bool(tell(_Event(fraction=fraction, stage=stage)))

    plan = build_plan(library.load(), Path(order.graph), recipe, timing=Path(order.timing), watch=watch)
    with memoryview(plan) as content:
        header = EngineHeader(
            name=order.name,
            bundle=order.bundle,
            recipe=recipe,
            plan_sha256=sha256_of(content),
            plan_bytes=content.nbytes,
            build_s=round(time.monotonic() - began, 2),
            peak_bytes=_peak_bytes(),
        )
        write_engine(Path(order.output), header, content)


def _peak_bytes() -> int:
    """The most memory that this process held; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows.
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(_main())
