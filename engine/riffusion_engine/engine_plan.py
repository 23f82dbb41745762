"""A graph of a bundle in, the recipe of an engine out: what it is built from, for which shapes, and where it may run.

Shapes are static: every batch is a profile of its own, whose smallest, best and largest shapes are one. Engines so
built run 7 to 21 % faster than those with ranges, and the profiles of one engine share its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import msgspec

from riffusion_engine.engine_library import NATIVE, RTX_TARGETS, EngineLibrary, native_target, this_platform
from riffusion_engine.errors import BundleError, DeviceError, RequestError
from riffusion_engine.manifest import FileSpec, GraphSpec, Manifest, TensorSpec
from riffusion_engine.session import BATCH_AXIS, BROADCAST_SUFFIX

BUILDER_VERSION = 1
"""Raised whenever the builder makes another engine of the same inputs."""
DEFAULT_BATCHES: tuple[int, ...] = (1, 2)
"""One clip: two samples with guidance, one without."""
LARGEST_BATCH = 256
MOST_PROFILES = 32
"""Profiles of one engine; every one adds its kernels to the file and its time to the build."""
TOKENS_AXIS = "tokens"

_METADATA_SUFFIX = ".json"
_KEY_LENGTH = 20  # Hexadecimal digits of a file's name: 80 bits.

Shapes = dict[str, tuple[int, ...]]


class EngineRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what an engine is and where it may run; its hash is the engine's key.

    ``target`` is a compute capability ("sm89"), ``sources`` holds the SHA-256 of the graph and of its weights by
    their paths in the bundle, and each of ``profiles`` the shape of every input; ``chunks`` and ``width`` are what
    those shapes were asked for with.
    """

    component: str
    library: str
    library_version: str
    target: str
    system: str
    machine: str
    sources: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights_dtype: str
    compute_dtype: str
    profiles: tuple[Shapes, ...]
    chunks: tuple[int, ...] = (1,)
    width: int | None = None
    tf32: bool = False
    builder_version: int = BUILDER_VERSION

    @property
    def key(self) -> str:
        """Lowercase hexadecimal digits that stand for all fields."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:_KEY_LENGTH]

    @property
    def file_name(self) -> str:
        """What the engine is called in the cache."""
        return f"{self.component}-{self.target}-{self.key}.engine"

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that the profiles serve, each once, ascending."""
        return tuple(sorted({next(iter(shapes.values()))[0] for shapes in self.profiles}))


def plan_engine(
    manifest: Manifest,
    component: str,
    library: EngineLibrary,
    *,
    library_version: str,
    target: str = NATIVE,
    batches: Sequence[int] = DEFAULT_BATCHES,
    chunks: Sequence[int] = (1,),
    width: int | None = None,
    tf32: bool = False,
) -> EngineRecipe:
    """Plan the engine of one graph.

    Args:
        manifest: the bundle's.
        component: name of the graph, e.g. "unet".
        library: what builds and runs the engine.
        library_version: its version.
        target: "sm89", …, or "native" for this machine's GPU.
        batches: sizes of the batch, 1 to 256, a profile for each.
        chunks: lengths of prompts in chunks of the text encoder, a profile for each; for graphs that read tokens.
        width: columns of the canvas, where the graph leaves them open.
        tf32: whether float32 products may be rounded to 10 bits of mantissa.

    Raises:
        BundleError: the bundle has no such graph, or its manifest does not list the graph's files.
        RequestError: a size is out of range, or the graph's shapes do not follow it.
        DeviceError: ``target`` is not one that the library builds for.
    """
    graph = manifest.graph(component)
    _check_sizes(batches, chunks)
    system, machine = this_platform()
    lengths = tuple(sorted(set(chunks))) if _reads_tokens(graph) else (1,)
    profiles = tuple(
        _shapes(manifest, graph, batch=batch, chunks=length, width=width)
        for length in lengths
        for batch in sorted(set(batches))
    )
    return EngineRecipe(
        component=component,
        library=library.name,
        library_version=library_version,
        target=resolve_target(target, library),
        system=system,
        machine=machine,
        sources={path: spec.sha256 for path, spec in source_files(manifest, graph).items()},
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights_dtype=graph.weights_dtype,
        compute_dtype=graph.compute_dtype,
        profiles=profiles,
        chunks=lengths,
        width=width,
        tf32=tf32,
    )


def resolve_target(target: str, library: EngineLibrary) -> str:
    """The compute capability that ``target`` stands for.

    Raises:
        DeviceError: there is no GPU to be native to, or the library does not build for it.
    """
    known = ", ".join(RTX_TARGETS)
    here = native_target() if target == NATIVE or library.needs_gpu_to_build else None
    if here is None and (target == NATIVE or library.needs_gpu_to_build):
        hint = (
            "Build on the machine that will play"
            if library.needs_gpu_to_build
            else f"Name the GPU that will run it: --target {'|'.join(RTX_TARGETS)}"
        )
        raise DeviceError(f"{library.title} finds no GPU here to build for", hint=hint)
    wanted = here if target == NATIVE else target
    assert wanted is not None
    if library.needs_gpu_to_build and wanted != here:
        raise DeviceError(
            f"{library.title} builds on the GPU that runs the engine: this one is {here}, not {wanted}",
            hint="Build there with --target native; TensorRT-RTX builds ahead of time: --device trt-rtx",
        )
    if not library.needs_gpu_to_build and wanted not in RTX_TARGETS:
        raise DeviceError(
            f"{library.title} does not build for {wanted}, only for {known}",
            hint="For other GPUs use --device trt or --device cuda",
        )
    return wanted


def source_files(manifest: Manifest, graph: GraphSpec) -> dict[str, FileSpec]:
    """The files of a bundle that an engine of ``graph`` is made from: the graph, and the weights in its folder.

    Raises:
        BundleError: the manifest does not list the graph's file.
    """
    folder = PurePosixPath(graph.path).parent
    found = {
        path: spec
        for path, spec in sorted(manifest.files.items())
        if PurePosixPath(path).is_relative_to(folder) and not path.endswith(_METADATA_SUFFIX)
    }
    if graph.path not in found:
        raise BundleError(
            f"The manifest of {manifest.name} lists no hash of {graph.path}",
            hint="Export it again: riffusion-rt export CHECKPOINT -o BUNDLE",
        )
    return found


def _shapes(manifest: Manifest, graph: GraphSpec, *, batch: int, chunks: int, width: int | None) -> Shapes:
    latent = manifest.latent
    columns = width or latent.width * latent.vae_factor
    sizes = {BATCH_AXIS: batch, "width": columns, "latent_width": columns // latent.vae_factor}
    if _reads_tokens(graph):
        sizes[TOKENS_AXIS] = chunks * _tokens_of_a_chunk(manifest)
    # A graph whose canvas is fixed has one width: the bundle's.
    open_axes = {axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)}
    if not open_axes & {"width", "latent_width"} and columns != latent.width * latent.vae_factor:
        raise RequestError(
            f"{graph.path} has a canvas of {latent.width * latent.vae_factor} columns, not {columns}",
            hint="Leave --width out: longer clips are windows of that width, blended, and need no wider engine",
        )
    if columns % latent.vae_factor:
        raise RequestError(
            f"A canvas of {columns} columns is no multiple of {latent.vae_factor}",
            hint=f"Use --width {columns // latent.vae_factor * latent.vae_factor or latent.vae_factor}",
        )
    return {spec.name: tuple(_size(graph, axis, sizes) for axis in spec.shape) for spec in graph.inputs}


def _size(graph: GraphSpec, axis: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(axis, int):
        return axis
    if axis.endswith(BROADCAST_SUFFIX):
        return sizes[BATCH_AXIS]
    if axis not in sizes:
        raise BundleError(
            f"{graph.path} has an axis {axis!r} that no engine's profile can fix",
            hint="Export it again: riffusion-rt export CHECKPOINT -o BUNDLE",
        )
    return sizes[axis]


def _reads_tokens(graph: GraphSpec) -> bool:
    return any(TOKENS_AXIS in spec.shape for spec in graph.inputs)


def _tokens_of_a_chunk(manifest: Manifest) -> int:
    tokens = manifest.graph("text_encoder").inputs[0].shape[1]
    if not isinstance(tokens, int):
        raise BundleError(
            "The text encoder's graph does not fix the length of a prompt",
            hint="Export it again: riffusion-rt export CHECKPOINT -o BUNDLE",
        )
    return tokens


def _check_sizes(batches: Sequence[int], chunks: Sequence[int]) -> None:
    for what, sizes, largest in (("batch", batches, LARGEST_BATCH), ("chunks", chunks, MOST_PROFILES)):
        if not sizes or not all(1 <= size <= largest for size in sizes):
            raise RequestError(
                f"--{what} is from 1 to {largest}, not {', '.join(map(str, sizes)) or 'nothing'}",
                hint=f"For example: --{what} 1-2",
            )
    if len(set(batches)) * len(set(chunks)) > MOST_PROFILES:
        raise RequestError(
            f"{len(set(batches)) * len(set(chunks))} shapes are more than the {MOST_PROFILES} that one engine holds",
            hint="Name the batches that you play with: --batch 1,2,8",
        )
