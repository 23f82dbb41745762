"""One graph of a bundle in, something that runs it out; named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.devices import choose_device
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.manifest import GraphSpec, TensorSpec

if TYPE_CHECKING:
    from riffusion_engine.onnxruntime_session import CudaSettings

BATCH_AXIS = "batch"
"""The axis that every tensor of a graph shares."""
BROADCAST_SUFFIX = f"_{BATCH_AXIS}"
"""An axis so named has the batch's size, or one entry that serves the whole batch (the UNet's timestep)."""


class Session(Protocol):
    """A graph on a device, ready to run."""

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        ...

    @property
    def provider(self) -> str:
        """What really runs it, e.g. ``"CPUExecutionProvider"``."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once. Floating-point feeds are cast to the declared type; a lone timestep serves the whole batch.

        Raises:
            RequestError: a feed is missing, unknown, or of the wrong type or shape.
            DeviceError: the device refused the work.
        """
        ...

    def close(self) -> None:
        """Give the device's memory back; the session is of no use afterwards."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(
    bundle: Path,
    graph: GraphSpec,
    *,
    device: str = "auto",
    threads: int | None = None,
    fused: bool = False,
    reuse: int = 1,
    cuda: CudaSettings | None = None,
    low_memory: bool = False,
) -> Session:
    """Load one graph of the folder ``bundle`` onto a device.

    Args:
        bundle: the folder that ``graph.path`` is relative to.
        graph: an entry of ``Manifest.graphs``.
        device: "auto", "cpu", "cuda", ...; a named device is honoured or refused, never replaced.
        threads: CPU threads for one run, at least 1; by default all that this process may use.
        fused: have ONNX Runtime compute with its own operators, and on a CPU with fewer multiplications.
        reuse: a UNet's deep features are computed at every ``reuse``-th step of a walk, 1 to 10; see
            ``riffusion_engine.reusing_session``.
        cuda: how ONNX Runtime uses a GPU.
        low_memory: have ONNX Runtime leave weights in their files. Not with ``fused`` or ``reuse``.

    A small graph on a CPU runs batches by rows, a core for each; see ``riffusion_engine.laned_session``.

    Raises:
        DeviceError: the device is unknown, absent, or did not take the graph.
        MissingExtraError: the package that runs graphs there is not installed.
        BundleError: the graph's files are missing or damaged.
        EngineError: a device that runs engines has none of this graph; the hint is the command that builds it.
        RequestError: ``threads`` or ``reuse`` is out of range.
    """
    if threads is not None and threads < 1:
        raise RequestError(
            f"threads must be at least 1, not {threads}", hint="Leave --threads out to use all cores"
        )
    chosen = choose_device(device)
    if reuse != 1:
        from riffusion_engine.reusing_session import ReusingSession

        return ReusingSession(
            bundle, graph, device=chosen.name, every=reuse, threads=threads, fused=fused, cuda=cuda
        )
    if chosen.name in ENGINE_LIBRARIES:
        from riffusion_engine.tensorrt_session import TensorRTSession

        return TensorRTSession(bundle, graph, device=chosen.name)
    if chosen.name == "openvino":
        from riffusion_engine.openvino_session import OpenVinoSession

        return OpenVinoSession(bundle, graph, threads=threads)
    from riffusion_engine.onnxruntime_session import OnnxRuntimeSession

    whole = OnnxRuntimeSession(
        bundle,
        graph,
        device=chosen.name,
        threads=threads,
        fused=fused,
        cuda=cuda,
        low_memory=low_memory,
    )
    if chosen.name != "cpu" or low_memory:
        return whole
    from riffusion_engine.laned_session import LanedSession, lane_count

    lanes = lane_count(bundle, graph, threads)
    if lanes == 1:
        return whole
    return LanedSession(
        whole,
        lambda form: OnnxRuntimeSession(bundle, graph, device="cpu", threads=1, fused=fused or form.fused),
        lanes,
    )


def prepare_feeds(graph: GraphSpec, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Check arrays against a graph's inputs before native code sees them, and cast them to the declared types.

    Raises:
        RequestError: a feed is missing, unknown, of another kind of type, or of another shape.
    """
    expected = [spec.name for spec in graph.inputs]
    if set(feeds) != set(expected):
        raise RequestError(
            f"{graph.path} takes {', '.join(expected)}, but was fed {', '.join(sorted(feeds)) or 'nothing'}",
            hint="Feed exactly the inputs that riffusion.json lists for this graph",
        )
    axes: dict[str, int] = {}
    prepared = {spec.name: _prepare_feed(graph, spec, feeds[spec.name], axes) for spec in graph.inputs}
    batch = axes.get(BATCH_AXIS)
    for axis, size in axes.items():
        if axis.endswith(BROADCAST_SUFFIX) and batch is not None and size not in (1, batch):
            raise RequestError(
                f"{graph.path}: {size} values along {axis} do not fit a batch of {batch}",
                hint=f"Feed one value, or {batch}",
            )
    return prepared


def require_finite(array: NDArray[Any], what: str) -> NDArray[Any]:
    """Return ``array`` if it holds neither NaN nor infinity. ``what`` names it in the error.

    One pass without a temporary of the array's size: a sum is finite exactly when no entry is NaN or infinite, but
    for overflow, which a second look then settles.

    Raises:
        NumericsError: it holds NaN or infinity.
    """
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.sum(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)
        if not np.isfinite(total) and not np.isfinite(array).all():
            broken = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise NumericsError(
                f"{what} holds {broken:,} values of {array.size:,} that are NaN or infinite",
                hint="Use a float32 bundle: riffusion-rt export CHECKPOINT -o BUNDLE --precision float32",
            )
    return array


def _prepare_feed(
    graph: GraphSpec, spec: TensorSpec, feed: NDArray[Any], axes: dict[str, int]
) -> NDArray[Any]:
    array = np.asarray(feed)
    wanted = np.dtype(spec.dtype)
    fits = np.can_cast(array.dtype, wanted, casting="same_kind")
    if not fits or array.dtype == np.bool_:
        raise RequestError(
            f"{graph.path}: {spec.name} must be {spec.dtype}, not {array.dtype}",
            hint=f"Convert it: {spec.name}.astype({spec.dtype!r})",
        )
    if array.ndim == 0 and len(spec.shape) == 1:
        array = array.reshape(1)
    if array.ndim != len(spec.shape) or not all(
        _axis_fits(size, want, axes) for size, want in zip(array.shape, spec.shape, strict=True)
    ):
        wanted_shape = ", ".join(str(size) for size in spec.shape)
        raise RequestError(
            f"{graph.path}: {spec.name} must have shape ({wanted_shape}), not {array.shape}",
            hint="Check the bundle's geometry in riffusion.json; axes of one name must have one size",
        )
    return np.ascontiguousarray(array, dtype=wanted)


def _axis_fits(size: int, want: int | str, axes: dict[str, int]) -> bool:
    if isinstance(want, int):
        return size == want
    return size > 0 and axes.setdefault(want, size) == size
