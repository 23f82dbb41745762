"""A graph whose engines were built in, a session that runs them on the GPU out; arrays at its boundary.

Engines are looked up in the cache by the hashes of graph and weights, by this machine's GPU and the library's version;
what does not fit is refused with the command that builds it, before any of it reaches native code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.device_memory import DeviceMemory
from riffusion_engine.engine_cache import CachedEngine, EngineCache
from riffusion_engine.engine_header import build_command, map_plan, require_current, require_usable
from riffusion_engine.engine_library import ENGINE_LIBRARIES, EngineLibrary, native_target, silent_messages
from riffusion_engine.engine_plan import TOKENS_AXIS, EngineRecipe, Shapes, plan_engine
from riffusion_engine.errors import BundleError, DeviceError, EngineError
from riffusion_engine.manifest import GraphSpec, Manifest
from riffusion_engine.session import BATCH_AXIS, BROADCAST_SUFFIX, prepare_feeds
from riffusion_engine.whole_file import whole_file


class TensorRTSession(Closing):
    """A graph in TensorRT or TensorRT-RTX. See ``riffusion_engine.session.Session`` for the promises.

    An engine serves the batches that it was built for and no others. Several engines of one graph may be in the cache;
    the one that fits is loaded when it is first needed.
    """

    def __init__(
        self, bundle: Path, graph: GraphSpec, *, device: str, cache: EngineCache | None = None
    ) -> None:
        """Find the engines of ``graph`` of the folder ``bundle`` and load the last used one.

        Args:
            bundle: the folder.
            graph: an entry of its manifest.
            device: "trt" or "trt-rtx".
            cache: where engines are; by default the user's.

        Raises:
            EngineError: none was built for this GPU, library and state of the bundle, or it is damaged.
            DeviceError: there is no GPU, or it did not take the engine.
            MissingExtraError: the library or the CUDA bindings are not installed.
        """
        self._graph, self._bundle = graph, bundle
        self._library = ENGINE_LIBRARIES[device]
        self._cache = cache or EngineCache()
        manifest = Manifest.read(bundle)
        self._wanted = plan_engine(
            manifest,
            _component(manifest, graph),
            self._library,
            library_version=self._library.version(),
        )
        self._engines = self._cache.usable(self._wanted)
        if not self._engines:
            raise self._cache.why_missing(self._wanted, bundle)
        self._memory: DeviceMemory | None = DeviceMemory()
        self._loaded: dict[Path, _LoadedEngine] = {}
        try:
            self._load(self._engines[0])
        except BaseException:
            self.close()
            raise

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """The library, and the GPU that its engine is for."""
        return f"{self._library.title} {self._wanted.library_version} ({self._wanted.target})"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``.

        Raises:
            EngineError: no engine was built for feeds of these shapes.
        """
        prepared = _one_entry_each(self._graph, prepare_feeds(self._graph, feeds))
        if self._memory is None:
            raise DeviceError(
                f"The session of {self._graph.path} is closed", hint="Open a new one: open_session(...)"
            )
        shapes = {name: array.shape for name, array in prepared.items()}
        engine, profile = self._serving(shapes)
        return self._load(engine).run(prepared, profile)

    def close(self) -> None:
        """Give the device's memory back."""
        loaded, self._loaded = self._loaded, {}
        memory, self._memory = self._memory, None
        for engine in loaded.values():
            engine.close()
        if memory is not None:
            memory.close()

    def _serving(self, shapes: Shapes) -> tuple[CachedEngine, int]:
        """The engine, loaded ones first, and its profile for inputs of these shapes."""
        for engine in sorted(self._engines, key=lambda one: one.path not in self._loaded):
            assert engine.header is not None
            for index, profile in enumerate(engine.header.recipe.profiles):
                if profile == shapes:
                    return engine, index
        raise self._no_such_shape(shapes)

    def _no_such_shape(self, shapes: Shapes) -> EngineError:
        batches = sorted(
            {batch for one in self._engines if one.header for batch in one.header.recipe.batches}
        )
        chunks = tuple(
            shapes[spec.name][spec.shape.index(TOKENS_AXIS)]
            // self._wanted.profiles[0][spec.name][spec.shape.index(TOKENS_AXIS)]
            for spec in self._graph.inputs
            if TOKENS_AXIS in spec.shape
        )
        recipe = msgspec.structs.replace(self._wanted, profiles=(shapes,), chunks=chunks or (1,))
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        return EngineError(
            f"No engine of {recipe.component} was built for {told}; there are some for batches of "
            f"{', '.join(map(str, batches))}",
            hint=f"Build one: {build_command(self._bundle, recipe)}",
        )

    def _load(self, engine: CachedEngine) -> _LoadedEngine:
        if engine.path not in self._loaded:
            assert self._memory is not None
            self._loaded[engine.path] = _LoadedEngine(
                engine.path, self._library, self._wanted, self._memory, self._cache
            )
        return self._loaded[engine.path]


class _LoadedEngine:
    """One engine file on the GPU, with the buffers of its inputs and outputs."""

    def __init__(
        self,
        path: Path,
        library: EngineLibrary,
        wanted: EngineRecipe,
        memory: DeviceMemory,
        cache: EngineCache,
    ) -> None:
        trt = library.load()
        header, mapped, start = map_plan(path)
        self._recipe, self._memory, self._trt = header.recipe, memory, trt
        self._kernels = cache.kernels_path(header.recipe)
        self._messages = silent_messages(trt)
        self._compiled: Any = None
        self._profile = 0
        try:
            require_usable(
                path,
                header,
                library=library.name,
                library_version=wanted.library_version,
                target=native_target(),
            )
            require_current(path, header, wanted.sources)
            self._runtime = trt.Runtime(self._messages)
            with memoryview(mapped) as view, view[start:] as plan:
                self._engine = self._runtime.deserialize_cuda_engine(plan)
        finally:
            mapped.close()
        if self._engine is None:
            raise EngineError(
                f"{library.title} did not load {path}: {self._messages.last()}",
                hint=f"Build it again: {header.build_command}",
            )
        self._context = self._make_context()
        if self._context is None:
            raise DeviceError(
                f"{library.title} has no memory to run {path}",
                hint="Free memory on the GPU, or use --device cuda",
            )

    def run(self, feeds: Mapping[str, NDArray[Any]], profile: int) -> dict[str, NDArray[Any]]:
        """Copy ``feeds`` to the GPU, run with one of the engine's profiles, copy the outputs back."""
        memory, context = self._memory, self._context
        if profile != self._profile:
            self._expect(context.set_optimization_profile_async(profile, memory.stream), "change its profile")
            self._profile = profile
        for name, array in feeds.items():
            self._expect(context.set_input_shape(name, array.shape), f"take {name} of shape {array.shape}")
            address = memory.upload(self._block(name), array)
            self._expect(context.set_tensor_address(name, address), f"place {name}")
        outputs = {}
        for spec in self._recipe.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
            address = memory.reserve(self._block(spec.name), size)
            self._expect(context.set_tensor_address(spec.name, address), f"place {spec.name}")
            outputs[spec.name] = (shape, np.dtype(spec.dtype))
        self._expect(context.execute_async_v3(memory.stream), "run")
        results = {
            name: memory.download(self._block(name), shape, dtype) for name, (shape, dtype) in outputs.items()
        }
        memory.synchronize()
        return results

    def close(self) -> None:
        """Keep the kernels that were compiled while running, and let go of the engine."""
        self._keep_kernels()
        self._context = self._engine = self._runtime = None

    def _make_context(self) -> Any:
        """The execution context; TensorRT-RTX's captures runs as CUDA graphs and compiles kernels for this very GPU."""
        if not hasattr(self._trt, "IRuntimeConfig"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        if hasattr(self._trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if hasattr(config, "create_runtime_cache"):
            self._compiled = config.create_runtime_cache()
            if self._kernels.is_file():
                self._compiled.deserialize(
                    self._kernels.read_bytes()
                )  # Refuses what does not fit this GPU and driver.
            config.set_runtime_cache(self._compiled)
        return self._engine.create_execution_context(config)

    def _keep_kernels(self) -> None:
        if self._compiled is None:
            return
        with memoryview(self._compiled.serialize()) as kernels:
            kept = self._kernels.stat().st_size if self._kernels.is_file() else 0
            if kernels.nbytes > kept:
                with whole_file(self._kernels) as file:
                    file.write(kernels)
        self._compiled = None

    def _block(self, tensor: str) -> str:
        return f"{self._recipe.key}/{tensor}"

    def _expect(self, done: bool, what: str) -> None:
        if not done:
            raise DeviceError(
                f"The engine of {self._recipe.component} could not {what}: {self._messages.last()}",
                hint="Free memory on the GPU or use a smaller batch; riffusion-rt doctor shows the device",
            )


def _component(manifest: Manifest, graph: GraphSpec) -> str:
    for name, known in manifest.graphs.items():
        if known.path == graph.path:
            return name
    raise BundleError(
        f"Bundle {manifest.name} has no graph {graph.path}",
        hint="Pass an entry of Manifest.read(bundle).graphs",
    )


def _one_entry_each(graph: GraphSpec, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Spread a lone entry that serves the whole batch over it: a profile fixes that axis to the batch's size."""
    batch = next(
        (
            feeds[spec.name].shape[spec.shape.index(BATCH_AXIS)]
            for spec in graph.inputs
            if BATCH_AXIS in spec.shape
        ),
        1,
    )
    return {
        spec.name: np.repeat(feeds[spec.name], batch, axis=0)
        if isinstance(spec.shape[0], str)
        and spec.shape[0].endswith(BROADCAST_SUFFIX)
        and len(feeds[spec.name]) == 1
        else feeds[spec.name]
        for spec in graph.inputs
    }
