"""A bundle enters; rows leave: what building each engine takes, its size, and how soon the cache has it again.

    python -m venv .venvs/engines && .venvs/engines/bin/pip install -e '.[cpu]'
    .venvs/engines/bin/pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings
    .venvs/engines/bin/python benchmarks/engine_build.py BUNDLE --target sm89 --target sm120

Needs no GPU. Each row is one engine: seconds until it lay in an empty cache, the child process's peak memory, the
plan's bytes, and seconds of a second command's look-up, its hash checked. Says so and ends well without TensorRT-RTX.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record

from riffusion_engine.build_process import BuildProgress, build_engine
from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_library import ENGINE_LIBRARIES, EngineLibrary
from riffusion_engine.engine_plan import EngineRecipe, plan_engine
from riffusion_engine.manifest import Manifest

SUITE = "engine_build"


def measure(bundle: Path, manifest: Manifest, recipe: EngineRecipe, cache: EngineCache) -> dict[str, Any]:
    """The row of one engine: built into ``cache``, then found there."""
    build_s, built = _timed(bundle, manifest, recipe, cache)
    hit_s, found = _timed(bundle, manifest, recipe, cache)
    assert built.header is not None and found.hit and not built.hit
    return {
        "bundle": manifest.name,
        "component": recipe.component,
        "target": recipe.target,
        "library": f"{recipe.library} {recipe.library_version}",
        "weights_dtype": recipe.weights_dtype,
        "compute_dtype": recipe.compute_dtype,
        "batches": recipe.batches,
        "seconds": round(build_s, 2),
        "hit_s": round(hit_s, 3),
        "plan_bytes": built.header.plan_bytes,
        "peak_bytes": built.header.peak_bytes,
    }


def _timed(
    bundle: Path, manifest: Manifest, recipe: EngineRecipe, cache: EngineCache
) -> tuple[float, BuildProgress]:
    began = time.perf_counter()
    *_, last = build_engine(bundle, manifest, recipe, cache=cache)
    return time.perf_counter() - began, last


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", action="append", help="sm75, sm80, sm86, sm89, sm120 or sm121")
    parser.add_argument("--component", action="append", help="by default every graph of the bundle")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cache", type=Path, help="by default a folder that is removed at the end")
    arguments = parser.parse_args()
    library: EngineLibrary = ENGINE_LIBRARIES["trt-rtx"]
    if library.find() is None:
        print(f"skipped: {library.title} is not installed. {library.install_hint}")
        return 0
    manifest = Manifest.read(arguments.bundle)
    version = library.version()
    with tempfile.TemporaryDirectory() as scratch:
        cache = EngineCache(arguments.cache or Path(scratch))
        for target in arguments.target or ["sm89"]:
            for component in arguments.component or manifest.graphs:
                recipe = plan_engine(
                    manifest,
                    component,
                    library,
                    library_version=version,
                    target=target,
                    batches=arguments.batch,
                )
                row = measure(arguments.bundle, manifest, recipe, cache)
                record(SUITE, **row)
                print(
                    f"{row['component']} {target}: {row['seconds']} s, {row['plan_bytes'] / 1e6:,.1f} MB, "
                    f"peak {row['peak_bytes'] / 1e9:.1f} GB, hit {row['hit_s']} s"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
