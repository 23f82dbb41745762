"""The folder of built engines in, what is in it and what is of no more use out."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import EngineError
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    from riffusion_engine.engine_cache import CachedEngine


@click.group("cache", short_help="The engines that were built: list, check, remove.")
def command() -> None:
    """Engines that `riffusion-rt build` made, in RIFFUSION_CACHE or the platform's folder for caches."""


@command.command("ls")
@reporting
def ls(as_json: bool, quiet: bool) -> None:
    """List the engines, the last used first, and say of those that are of no use why."""
    from riffusion_engine.engine_cache import EngineCache, installed_versions

    report, cache = Report(as_json, quiet), EngineCache()
    _tell(report, cache.folder, cache.entries(installed=installed_versions()))


@command.command("verify")
@reporting
def verify(as_json: bool, quiet: bool) -> None:
    """Read every engine whole and compare its SHA-256. Exit code 2 if one is damaged, stale or foreign."""
    from riffusion_engine.engine_cache import EngineCache, installed_versions

    report, cache = Report(as_json, quiet), EngineCache()
    engines = cache.entries(hashes=True, installed=installed_versions())
    _tell(report, cache.folder, engines)
    faulty = [engine for engine in engines if engine.fault]
    if faulty:
        raise EngineError(
            f"{len(faulty)} of {len(engines)} engines are of no use: {faulty[0].path.name} ({faulty[0].fault})",
            hint=faulty[0].mend if len(faulty) == 1 else "Remove them: riffusion-rt cache prune",
        )


@command.command("prune")
@click.option("--all", "everything", is_flag=True, help="Remove sound engines too.")
@click.option(
    "--unused-days", type=click.FloatRange(min=0), metavar="DAYS", help="And those not used for so long."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what would go.")
@reporting
def prune(everything: bool, unused_days: float | None, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Remove engines that are damaged, stale, or of another version of the library, and what dead builds left."""
    from riffusion_engine.engine_cache import EngineCache, installed_versions

    report, cache = Report(as_json, quiet), EngineCache()
    gone = cache.prune(
        everything=everything, unused_days=unused_days, installed=installed_versions(), dry_run=dry_run
    )
    size = sum(engine.size for engine in gone)
    for engine in gone:
        report.line(f"  {engine.path.name}" + (f": {engine.fault}" if engine.fault else ""))
    report.line(f"{'Would remove' if dry_run else 'Removed'} {len(gone)} engines, {size / 1e6:,.1f} MB")
    report.document(
        {
            "cache": cache.folder,
            "dry_run": dry_run,
            "bytes": size,
            "removed": [_facts(engine) for engine in gone],
        }
    )


def _tell(report: Report, folder: Any, engines: list[CachedEngine]) -> None:
    size = sum(engine.size for engine in engines)
    report.line(f"{folder}: {len(engines)} engines, {size / 1e6:,.1f} MB")
    for engine in engines:
        report.line(f"  {engine.path.name}  {engine.size / 1e6:,.1f} MB  {_summary(engine)}")
    report.document({"cache": folder, "bytes": size, "engines": [_facts(engine) for engine in engines]})


def _summary(engine: CachedEngine) -> str:
    if engine.header is None:
        return f"{engine.fault}. {engine.mend}"
    recipe = engine.header.recipe
    batches = ",".join(map(str, recipe.batches))
    used = datetime.fromtimestamp(engine.used, timezone.utc).strftime("%Y-%m-%d")
    told = f"{engine.header.name}, {recipe.compute_dtype}, batch {batches}, {recipe.library} {recipe.library_version}"
    return f"{told}, used {used}" + (f"; {engine.fault}. Mend it: {engine.mend}" if engine.fault else "")


def _facts(engine: CachedEngine) -> dict[str, Any]:
    import msgspec

    return {
        "path": engine.path,
        "bytes": engine.size,
        "used": engine.used,
        "fault": engine.fault,
        "mend": engine.mend,
        "header": msgspec.to_builtins(engine.header),
    }
