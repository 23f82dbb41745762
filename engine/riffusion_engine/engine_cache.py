"""A recipe in, the engine of it out if one was built before; a folder of engines that processes share.

An engine's name holds the hash of its recipe, so what was built of other weights, for another GPU or by another version
of the library is another file. It appears whole or not at all, and is built under a lock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_engine.engine_header import EngineHeader, build_command, read_header, verify_engine
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.engine_plan import EngineRecipe, source_files
from riffusion_engine.errors import BundleError, EngineError, MissingExtraError, OutputError
from riffusion_engine.manifest import Manifest

if TYPE_CHECKING:
    from filelock import FileLock

CACHE_VARIABLE = "RIFFUSION_CACHE"
ENGINE_SUFFIX = ".engine"

_APPLICATION = "riffusion-rt"
_SCRATCH_SUFFIX = ".part"
_LOCK_SUFFIX = ".lock"
_ABANDONED_S = 3600.0
"""A scratch file that has not grown for an hour belongs to no living build."""
_POLL_S = 0.2
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class CachedEngine:
    """One file of the cache: its header, or ``fault``, why it is of no use, and ``mend``, the command for that."""

    path: Path
    size: int
    used: float
    header: EngineHeader | None
    fault: str = ""
    mend: str = ""


def cache_folder() -> Path:
    """Where engines are kept: ``$RIFFUSION_CACHE``, or a folder of the platform's own for caches."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / _APPLICATION / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _APPLICATION
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / _APPLICATION


class EngineCache:
    """A folder of ``engines``, ``timing`` (of kernels, while building) and ``kernels`` (compiled while running)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        self.engines = self.folder / "engines"

    def path(self, recipe: EngineRecipe) -> Path:
        """Where the engine of ``recipe`` lies or would lie."""
        return self.engines / recipe.file_name

    def timing_path(self, recipe: EngineRecipe) -> Path:
        """Where the timings of kernels are kept that builds for one GPU share."""
        return self.folder / "timing" / f"{recipe.library}-{recipe.library_version}-{recipe.target}.timing"

    def kernels_path(self, recipe: EngineRecipe) -> Path:
        """Where the kernels are kept that the library compiled while the engine ran."""
        return self.folder / "kernels" / f"{recipe.key}.kernels"

    def look_up(self, recipe: EngineRecipe) -> EngineHeader | None:
        """The header of the engine of ``recipe``; None if it was not built yet.

        Raises:
            EngineError: there is a file of that name, but it is damaged or not what its name says.
        """
        path = self.path(recipe)
        if not path.exists():
            return None
        header = verify_engine(path)
        if header.recipe != recipe:
            raise EngineError(
                f"{path} is not the engine that its name says",
                hint=f"Build it again: {build_command(header.bundle, recipe)}",
            )
        _mark_used(path)
        return header

    @contextmanager
    def locked(self, recipe: EngineRecipe) -> Iterator[Iterator[float]]:
        """Hold the right to build ``recipe``'s engine, for as long as the body runs.

        The body must first exhaust the iterator that it is given: it yields the seconds waited so far while another
        process builds that engine, and ends when the lock is held.

        Raises:
            OutputError: the cache's folder cannot be written.
        """
        from filelock import FileLock

        path = self.path(recipe)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Cannot write the cache {self.folder}: {error.strerror or error}",
                hint=f"Choose a writable folder: export {CACHE_VARIABLE}=FOLDER",
            ) from error
        # A generator may be closed by another thread than began it.
        lock = FileLock(path.with_suffix(_LOCK_SUFFIX), thread_local=False)

        def acquiring() -> Iterator[float]:
            began = time.monotonic()
            while not _acquire(lock):
                yield time.monotonic() - began
                time.sleep(_POLL_S)

        try:
            yield acquiring()
        finally:
            lock.release()

    def entries(self, *, hashes: bool = False, installed: dict[str, str] | None = None) -> list[CachedEngine]:
        """All engines, the last used first, each judged by its header and its size, and with ``hashes`` by its plan.

        Args:
            hashes: read every plan whole and check its SHA-256.
            installed: versions of the libraries that are installed here, by name; engines of others are faulty.
        """
        found = [_judged(path, hashes, installed) for path in self.engines.glob(f"*{ENGINE_SUFFIX}")]
        return sorted(found, key=lambda engine: engine.used, reverse=True)

    def prune(
        self,
        *,
        everything: bool = False,
        unused_days: float | None = None,
        installed: dict[str, str] | None = None,
        dry_run: bool = False,
    ) -> list[CachedEngine]:
        """Remove what is of no use: damaged, stale and other libraries' engines, and what dead builds left.

        Args:
            everything: remove sound engines as well.
            unused_days: remove engines that were not opened for so many days.
            installed: see `entries`.
            dry_run: remove nothing, only tell.

        Returns:
            The engines that were removed.
        """
        oldest = None if unused_days is None else time.time() - unused_days * _SECONDS_A_DAY
        doomed = [
            engine
            for engine in self.entries(installed=installed)
            if everything or engine.fault or (oldest is not None and engine.used < oldest)
        ]
        if dry_run:
            return doomed
        for engine in doomed:
            _remove(engine.path)
            if engine.header is not None:
                _remove(self.kernels_path(engine.header.recipe))
        self._sweep()
        return doomed

    def _sweep(self) -> None:
        """Remove scratch files of builds that died, and locks that nobody holds."""
        now = time.time()
        for path in self.engines.glob(f".*{_SCRATCH_SUFFIX}"):
            if now - path.stat().st_mtime > _ABANDONED_S:
                _remove(path)
        for path in self.engines.glob(f"*{_LOCK_SUFFIX}"):
            _remove_if_free(path)

    def usable(self, wanted: EngineRecipe) -> list[CachedEngine]:
        """Sound engines of the graph and weights that ``wanted`` names, for its GPU and library, whatever their shapes.

        The last used comes first.
        """
        return [
            engine
            for engine in self.entries()
            if engine.header is not None
            and not engine.fault
            and _same_graph(engine.header.recipe, wanted)
            and not _differences(engine.header.recipe, wanted)
        ]

    def why_missing(self, wanted: EngineRecipe, bundle: Path) -> EngineError:
        """Why nothing is `usable`: what the nearest engine differs in, and the command that builds one."""
        entries = self.entries()
        near = [
            engine.header.recipe
            for engine in entries
            if engine.header is not None and _same_graph(engine.header.recipe, wanted)
        ]
        # What was built of other weights only is nearer than what is for another GPU as well.
        reasons = min((_differences(other, wanted) for other in near), key=len, default=[])
        reasons += [
            engine.fault
            for engine in entries
            if engine.header is None and engine.path.name.startswith(f"{wanted.component}-")
        ]
        return EngineError(
            f"The cache {self.folder} has no engine of {wanted.component} that runs here"
            + "".join(f"; {reason}" for reason in reasons[:1]),
            hint=f"Build it: {build_command(bundle, wanted)}",
        )


def _same_graph(other: EngineRecipe, wanted: EngineRecipe) -> bool:
    return (other.component, other.library) == (wanted.component, wanted.library)


def _differences(other: EngineRecipe, wanted: EngineRecipe) -> list[str]:
    """What keeps an engine of the cache from being the one wanted, whatever its shapes."""
    found = [
        f"there is one for another {what}: {theirs}, here is {ours}"
        for what, theirs, ours in (
            ("GPU", other.target, wanted.target),
            ("library version", other.library_version, wanted.library_version),
            ("operating system", other.system, wanted.system),
            ("processor", other.machine, wanted.machine),
        )
        if theirs != ours
    ]
    if other.sources != wanted.sources:
        found.append("there is one of other weights, or of an earlier state of this bundle")
    return found


def _judged(path: Path, hashes: bool, installed: dict[str, str] | None) -> CachedEngine:
    status = path.stat()
    used = status.st_mtime  # set anew whenever the engine is found
    try:
        header = verify_engine(path) if hashes else read_header(path)
    except EngineError as error:
        return CachedEngine(path, status.st_size, used, None, error.message, error.hint)
    recipe = header.recipe
    fault, mend = "", ""
    if path.name != recipe.file_name:
        fault, mend = "its name is not that of what it holds", "riffusion-rt cache prune"
    elif (
        installed is not None
        and installed.get(recipe.library, recipe.library_version) != recipe.library_version
    ):
        fault = (
            f"built by {recipe.library} {recipe.library_version}, installed is {installed[recipe.library]}"
        )
        mend = header.build_command
    elif changed := _changed_sources(header):
        fault, mend = f"stale: {', '.join(changed)} changed after it was built", header.build_command
    return CachedEngine(path, status.st_size, used, header, fault, mend)


def _changed_sources(header: EngineHeader) -> list[str]:
    """Files of the bundle that changed since; none if the bundle is not here, as for engines built elsewhere."""
    bundle = Path(header.bundle)
    if not bundle.is_dir():
        return []
    try:
        manifest = Manifest.read(bundle)
        now = {
            path: spec.sha256
            for path, spec in source_files(manifest, manifest.graph(header.recipe.component)).items()
        }
    except BundleError:
        return []
    built = header.recipe.sources
    return sorted(path for path in built.keys() | now.keys() if built.get(path) != now.get(path))


def installed_versions() -> dict[str, str]:
    """Versions of the TensorRT libraries that load here, by name."""
    found = {}
    for library in ENGINE_LIBRARIES.values():
        with suppress(MissingExtraError):
            found[library.name] = library.version()
    return found


def _mark_used(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        return  # A cache that cannot be written, in an image for instance, serves all the same.


def _acquire(lock: FileLock) -> bool:
    """Take the lock if nobody holds it."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError as error:
        raise OutputError(
            f"Cannot lock {lock.lock_file}: {error.strerror or error}",
            hint=f"Choose a writable folder: export {CACHE_VARIABLE}=FOLDER",
        ) from error
    return True


def _remove_if_free(lock: Path) -> None:
    from filelock import FileLock, Timeout

    with suppress(Timeout, OSError), FileLock(lock).acquire(timeout=0):
        lock.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot remove {path}: {error.strerror or error}",
            hint="Close what runs the engine, and check the folder's owner",
        ) from error
