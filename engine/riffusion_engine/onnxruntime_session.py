"""A graph file in, an ONNX Runtime session on the CPU or on CUDA out; its provider is verified, not assumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.devices import available_cores, import_onnxruntime
from riffusion_engine.errors import BundleError, DeviceError
from riffusion_engine.laned_session import weighs_little
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.mapped_weights import map_weights
from riffusion_engine.session import prepare_feeds

if TYPE_CHECKING:
    from riffusion_engine.denoising_session import WalkPlan
    from riffusion_engine.device_walk import BoundBuffers, OnnxRuntimeWalk
    from riffusion_engine.graph_bytes import Graph

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device name to the provider that must stand first in the session."""

_NOT_CAPTURED = -1  # The CUDA graph id of a run that is neither captured nor replayed.
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_REST_AT_ONCE = "session.force_spinning_stop"
_OWN_LAYOUT = "NchwcTransformer"  # ONNX Runtime's optimizer that lays out a CPU's convolutions anew.
_FATAL_ONLY = 4  # ONNX Runtime's log level: failures arrive as exceptions; the library itself prints nothing.


@dataclass(frozen=True)
class CudaSettings:
    """How ONNX Runtime uses a GPU. Nothing here changes what is computed by more than rounding."""

    replay: bool = False
    """Capture the UNet's kernels at the first steps of a walk and replay them as one CUDA graph. Each batch size and
    prompt length is captured by itself; all of the graph must run on the GPU."""
    channels_last: bool = False
    """Let the provider lay convolutions out as (batch, height, width, channels), which tensor cores want."""
    tune_convolutions: bool = True
    """Try cuDNN's algorithms when a shape is first seen, rather than take its first guess."""
    frugal: bool = False
    """Reserve what is asked for rather than the next power of two, and give cuDNN's algorithms small workspaces."""


class OnnxRuntimeSession(Closing):
    """A graph in ONNX Runtime. See ``riffusion_engine.session.Session`` for the promises.

    A UNet's is also a ``riffusion_engine.denoising_session.DenoisingSession``.
    """

    def __init__(
        self,
        bundle: Path,
        graph: GraphSpec,
        *,
        device: str,
        threads: int | None = None,
        fused: bool = False,
        cuda: CudaSettings | None = None,
        rewrite: Callable[[Graph], Graph] | None = None,
        low_memory: bool = False,
    ) -> None:
        """Load ``graph`` of the folder ``bundle`` onto ``device`` ("cpu" or "cuda").

        ``fused`` rewrites it to ONNX Runtime's own operators where the device has kernels for them
        (``riffusion_engine.graph_rewrites``), and on a CPU large convolutions to fewer multiplications
        (``riffusion_engine.winograd``) and a guided UNet's shared layers to one computation
        (``riffusion_engine.shared_guidance``); what it computes stays the same to rounding, and on a CPU it takes
        more memory. ``rewrite`` makes another graph of the file's first, which must take and give what ``graph``
        says. ``low_memory`` leaves a CPU's weights in their files (``riffusion_engine.mapped_weights``) and takes no
        more of a GPU than is used; it is for a graph by itself: not with ``fused`` or ``rewrite``.

        Raises:
            BundleError: the graph or its weights are missing or damaged.
            DeviceError: the provider did not take the graph.
            MissingExtraError: ONNX Runtime is not installed.
        """
        provider = PROVIDERS[device]
        path = bundle / graph.path
        if not path.is_file():
            raise _missing(bundle, graph)
        self._graph, self._device, self._threads = graph, device, threads
        self._cuda = cuda or CudaSettings(tune_convolutions=not low_memory, frugal=low_memory)
        self._walks: dict[tuple[object, ...], BoundBuffers] = {}
        self._fed: dict[str, NDArray[Any]] = {}
        mapped = low_memory and device == "cpu"
        source: Path | bytes = path
        self._shares_guidance = False
        if mapped:
            source, self._fed = map_weights(path)
        elif fused or rewrite:
            source, self._fed, self._shares_guidance = _rewritten(path, device, rewrite, fused=fused)
        self._session = _create(
            source,
            provider,
            threads,
            self._cuda,
            weights=path.parent,
            late_conversions=mapped,
            plain_layout=fused and device == "cpu" and not weighs_little(path),
        )
        active = self._session.get_providers()
        if active[0] != provider:
            raise DeviceError(
                f"ONNX Runtime ran {graph.path} on {active[0]} where {provider} was asked for",
                hint="See what is missing: riffusion-rt doctor",
            )
        self._provider = provider
        self._output_names = [output.name for output in graph.outputs]
        self._check_interface()

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._graph

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what runs it."""
        return self._provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``."""
        prepared: Mapping[str, NDArray[Any]] = prepare_feeds(self._graph, feeds)
        if self._shares_guidance:
            from riffusion_engine.shared_guidance import named_once

            prepared = named_once(prepared)
        session = self._opened()
        try:
            outputs = session.run(
                self._output_names, {**prepared, **self._fed}, self._run_options(_NOT_CAPTURED)
            )
        except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
            raise self._failed(error) from error
        return {name: np.asarray(output) for name, output in zip(self._output_names, outputs, strict=True)}

    @property
    def walks_on_device(self) -> bool:
        """Whether a walk beats one from the host; see ``DenoisingSession.walks_on_device``."""
        return self._provider != PROVIDERS["cpu"]

    def begin_walk(self, plan: WalkPlan) -> OnnxRuntimeWalk:
        """Put a walk's arrays on the device; see ``DenoisingSession.begin_walk``. One walk of a size at a time."""
        from riffusion_engine.denoising_session import UNET_NAMES, element_type
        from riffusion_engine.device_walk import BoundBuffers, OnnxRuntimeWalk

        session, shape, context = self._opened(), plan.latents.shape, plan.prompt.shape
        sample, timestep, embeddings, output = UNET_NAMES
        prepare_feeds(
            self._graph, {sample: plan.latents, timestep: plan.timesteps[:1], embeddings: plan.prompt}
        )
        key = (shape, context)
        try:
            if key not in self._walks:
                dtype = element_type(self, output)
                self._walks[key] = BoundBuffers(session, self._device, shape, context, dtype, self._fed)
            captured = 2 * list(self._walks).index(key) + 1
            return OnnxRuntimeWalk(
                plan,
                self._walks[key],
                lambda binding, kind: self._bound_run(binding, captured + kind),
                self._open_step,
            )
        except RuntimeError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Give the device's memory back."""
        self._session = None
        self._walks.clear()
        self._fed = {}

    def _opened(self) -> Any:
        if self._session is None:
            raise DeviceError(
                f"The session of {self._graph.path} is closed", hint="Open a new one: open_session(...)"
            )
        return self._session

    def _failed(self, error: Exception) -> DeviceError:
        return DeviceError(
            f"{self._provider} could not run {self._graph.path}: {_first_line(error)}",
            hint="Free memory or use a smaller batch; riffusion-rt doctor shows the device",
        )

    def _run_options(self, captured: int) -> Any:
        if not (self._cuda.replay and self.walks_on_device):
            return None
        options = import_onnxruntime().RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(captured))
        return options

    def _bound_run(self, binding: Any, captured: int) -> None:
        try:
            self._opened().run_with_iobinding(binding, self._run_options(captured))
        except DeviceError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
            raise self._failed(error) from error

    def _open_step(self, graph: bytes) -> Any:
        return _create(graph, self._provider, self._threads, CudaSettings(tune_convolutions=False))

    def _check_interface(self) -> None:
        declared = ([spec.name for spec in self._graph.inputs], self._output_names)
        found = (
            [value.name for value in self._session.get_inputs() if value.name not in self._fed],
            [value.name for value in self._session.get_outputs()],
        )
        if set(declared[0]) != set(found[0]) or not set(declared[1]) <= set(found[1]):
            raise BundleError(
                f"{self._graph.path} takes {', '.join(found[0])} and gives {', '.join(found[1])}, "
                "which is not what riffusion.json says",
                hint="Export the bundle again: riffusion-rt export CHECKPOINT -o BUNDLE",
            )


def _default_threads() -> int:
    """CPUs that this process may run on; 0, which is ONNX Runtime's "one for each core", where it may use all."""
    allowed = available_cores()
    return 0 if allowed == os.cpu_count() else allowed


def read_graph(bundle: Path, graph: GraphSpec) -> bytes:
    """A graph's file.

    Raises:
        BundleError: it is missing.
    """
    path = bundle / graph.path
    if not path.is_file():
        raise _missing(bundle, graph)
    return path.read_bytes()


def _missing(bundle: Path, graph: GraphSpec) -> BundleError:
    return BundleError(
        f"{graph.path} is missing from bundle {bundle}",
        hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
    )


def _rewritten(
    path: Path, device: str, rewrite: Callable[[Graph], Graph] | None, *, fused: bool
) -> tuple[bytes, dict[str, NDArray[Any]], bool]:
    """A graph's file rewritten, weights to feed it, and whether it takes guidance's samples once."""
    from riffusion_engine.graph_bytes import Graph
    from riffusion_engine.graph_rewrites import fuse_attention, fuse_group_norms, split_gated_units
    from riffusion_engine.mapped_weights import views
    from riffusion_engine.shared_guidance import share_guidance
    from riffusion_engine.winograd import LARGE_GRAPHS_LEAST, SMALL_GRAPHS_LEAST, filter_minimally

    graph, shares = Graph.read(path.read_bytes()), False
    fed: dict[str, NDArray[Any]] = {}
    if rewrite is not None:
        graph = rewrite(graph)
    if fused:
        fuse_attention(graph)
        if device == "cuda":
            fuse_group_norms(graph)
        else:
            split_gated_units(graph)
            least = SMALL_GRAPHS_LEAST if weighs_little(path) else LARGE_GRAPHS_LEAST
            stored = views(graph.external(), path.parent)
            conversions = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op_type == "Cast"}
            fed = {**filter_minimally(graph, lambda name: stored.get(conversions.get(name, name)), least)}
            shares = rewrite is None and share_guidance(graph)
    return graph.write(), fed, shares


def _create(
    graph: Path | bytes,
    provider: str,
    threads: int | None,
    cuda: CudaSettings,
    weights: Path | None = None,
    *,
    late_conversions: bool = False,
    plain_layout: bool = False,
) -> Any:
    """Open a file, or the bytes of a graph whose weights lie in files of the folder ``weights``.

    ``late_conversions`` converts each of the weights that are fed right before the node that needs it. ``plain_layout``
    keeps convolutions from a layout of their own, which must be converted to and from: where most of them are matrix
    products anyway, that costs more than it saves; in a small graph, most are not.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads or _default_threads()
    options.inter_op_num_threads = 1
    # Threads that go on waiting busily for a next run take the cores from whatever comes between two runs.
    options.add_session_config_entry(_REST_AT_ONCE, "1")
    # The planner that shares buffers between values takes quadratic time: it was two thirds of what it took to open a
    # UNet of 2,000 nodes. Without it runs are as fast and take no more memory: the arena recycles freed buffers.
    options.enable_mem_reuse = False
    if late_conversions:
        # In the ordinary order most weights of a UNet are converted before its first layer runs, and wait.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if provider == PROVIDERS["cpu"]:
        # A plan of one run's memory is a second copy of it: the arena keeps both, and a run takes as long without.
        options.enable_mem_pattern = False
    if weights is not None and isinstance(graph, bytes):
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    kept_off = {"disabled_optimizers": [_OWN_LAYOUT]} if plain_layout else {}
    try:
        source = graph if isinstance(graph, bytes) else str(graph)
        return onnxruntime.InferenceSession(
            source, options, providers=_provider_list(provider, cuda), **kept_off
        )
    except Exception as error:  # ONNX Runtime's exceptions share no narrower ancestor.
        reason = _first_line(error)
        path = Path("The rewritten graph") if isinstance(graph, bytes) else graph
        if provider != PROVIDERS["cpu"] and "memory" in reason.lower():
            raise DeviceError(
                f"{provider} could not load {path.name}: {reason}",
                hint="Free memory on the device, or use --device cpu",
            ) from error
        raise BundleError(
            f"{path} cannot be loaded: {reason}",
            hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
        ) from error


def _provider_list(provider: str, cuda: CudaSettings) -> list[Any]:
    if provider == PROVIDERS["cuda"]:
        options = {
            # TF32 rounds float32 products to 10 bits: a float32 bundle was measured without it.
            "use_tf32": "0",
            "enable_cuda_graph": str(int(cuda.replay)),
            "prefer_nhwc": str(int(cuda.channels_last)),
            "cudnn_conv_algo_search": "EXHAUSTIVE" if cuda.tune_convolutions else "HEURISTIC",
        }
        if cuda.frugal:
            options |= {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_use_max_workspace": "0"}
        return [(provider, options)]
    return [provider]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
