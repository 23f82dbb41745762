"""A bundle in, engines for one or more GPUs out, in the cache that sessions look into."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import EngineError, RequestError
from riffusion_rt.cli.report import Report, reporting

if TYPE_CHECKING:
    from riffusion_engine.build_process import BuildProgress
    from riffusion_engine.engine_plan import EngineRecipe

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


@click.command("build", short_help="A bundle becomes TensorRT engines for a GPU, here or elsewhere.")
@click.argument("bundle")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("native",),
    metavar="GPU",
    help="native, or sm75|sm80|sm86|sm89|sm120|sm121 to build ahead for another GPU; may be given again."
    "  [default: native]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "trt", "trt-rtx"]),
    default="auto",
    show_default=True,
    help="Which library: TensorRT builds on its own GPU, TensorRT-RTX for any of the targets above.",
)
@click.option(
    "--component",
    "components",
    multiple=True,
    metavar="NAME",
    help="One graph of the bundle, such as unet; may be given again.  [default: all]",
)
@click.option(
    "--batch",
    default="1-2",
    show_default=True,
    metavar="SIZES",
    help="Samples at once, such as 1-4 or 1,2,8, each a profile of its own; guidance takes two for a clip.",
)
@click.option(
    "--chunks",
    default="1",
    show_default=True,
    metavar="SIZES",
    help="Lengths of prompts in chunks of 77 tokens, such as 1-2.",
)
@click.option(
    "--width",
    type=int,
    metavar="COLUMNS",
    help="Canvas, where the graph leaves it open.  [default: the bundle's]",
)
@click.option("--tf32", is_flag=True, help="Let float32 products round to 10 bits: faster, and less exact.")
@reporting
def command(
    bundle: str,
    targets: tuple[str, ...],
    device: str,
    components: tuple[str, ...],
    batch: str,
    chunks: str,
    width: int | None,
    tf32: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build the engines of BUNDLE, one graph at a time; what was built before is found in the cache.

    BUNDLE is what `riffusion-rt generate --model` takes. The cache is RIFFUSION_CACHE or the platform's folder for
    caches; `riffusion-rt cache ls` shows it.
    """
    from riffusion_engine.engine_cache import EngineCache
    from riffusion_engine.engine_library import ENGINE_LIBRARIES
    from riffusion_engine.engine_plan import plan_engine
    from riffusion_engine.manifest import Manifest
    from riffusion_rt.models import locate_model

    report = Report(as_json, quiet)
    sizes = {"batches": _sizes("batch", batch), "chunks": _sizes("chunks", chunks)}
    folder = locate_model(bundle)
    manifest = Manifest.read(folder)
    library = ENGINE_LIBRARIES[_device(device, targets)]
    version = library.version()
    recipes = [
        plan_engine(
            manifest,
            component,
            library,
            library_version=version,
            target=target,
            width=width,
            tf32=tf32,
            **sizes,
        )
        for target in dict.fromkeys(targets)
        for component in dict.fromkeys(components or manifest.graphs)
    ]
    cache = EngineCache()
    report.line(f"{manifest.name} with {library.title} {version}, into {cache.engines}")
    engines = [_build(folder, manifest, recipe, cache, report) for recipe in recipes]
    report.document({"bundle": folder, "cache": cache.folder, "library": library.name, "engines": engines})


def _build(folder: Path, manifest: Any, recipe: EngineRecipe, cache: Any, report: Report) -> dict[str, Any]:
    from riffusion_engine.build_process import build_engine

    began = time.monotonic()
    title = f"{recipe.component} {recipe.target}"
    last: BuildProgress | None = None
    with report.progress(title, "%") as advance:
        for last in build_engine(folder, manifest, recipe, cache=cache):
            advance(round(100 * last.fraction), 100, last.stage)
    if last is None or last.header is None:
        raise EngineError(f"{title} was not built", hint="Build it again: riffusion-rt build BUNDLE")
    seconds, header = time.monotonic() - began, last.header
    size = f"{header.plan_bytes / 1e6:,.1f} MB"
    how = "in the cache" if last.hit else f"built, {header.peak_bytes / 1e9:.1f} GB of memory at most"
    report.line(f"  {title}: {size}, {how}, {seconds:.1f} s")
    return {
        "component": recipe.component,
        "target": recipe.target,
        "path": last.path,
        "hit": last.hit,
        "seconds": round(seconds, 3),
        "plan_bytes": header.plan_bytes,
        "plan_sha256": header.plan_sha256,
        "build_s": header.build_s,
        "peak_bytes": header.peak_bytes,
        "batches": recipe.batches,
    }


def _device(wanted: str, targets: tuple[str, ...]) -> str:
    """The library for the targets: ahead of time only TensorRT-RTX builds; for the GPU here, the one that knows it."""
    from riffusion_engine.engine_library import ENGINE_LIBRARIES, NATIVE, RTX_TARGETS, native_target

    if wanted != "auto":
        return wanted
    rtx_is_here = ENGINE_LIBRARIES["trt-rtx"].find() is not None
    if any(target != NATIVE for target in targets):
        return "trt-rtx"
    knows_this_gpu = native_target() in (None, *RTX_TARGETS)
    return "trt-rtx" if knows_this_gpu and (rtx_is_here or ENGINE_LIBRARIES["trt"].find() is None) else "trt"


def _sizes(option: str, text: str) -> tuple[int, ...]:
    """Numbers and ranges between commas, as a tuple: "1-3,8" is 1, 2, 3, 8."""
    sizes: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise RequestError(
                f"--{option} {text} is no size or range", hint=f"For example: --{option} 1-2 or 1,2,8"
            )
        sizes += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(sorted(set(sizes)))
