"""A graph's file in, a graph whose weights are inputs and those weights as mapped files out: nothing is loaded.

ONNX Runtime on a CPU computes in float32. It reads a float16 graph's weights into memory, converts them there, and
holds what it converted for as long as the session is open: for Stable Diffusion's UNet twice what the file has, and
more while it opens. Weights that are fed like any other input can be none of that. They stay in their file, which the
system maps page by page and may drop again; each is converted for the one node that needs it, and freed after it.

A graph that was exported to compute in float32 has its conversions as nodes of its own. Those come before the nodes
that ONNX Runtime makes of group norms, so most are done early and wait: it saves what opening costs, and less besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError
from riffusion_engine.graph_bytes import ExternalTensor, Graph
from riffusion_engine.graph_rewrites import fuse_attention


def map_weights(path: Path) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Rewrite a graph so that the weights outside of its file are fed.

    Attention becomes ONNX Runtime's own, which never writes out the scores: at 512 x 512 pixels these would be a
    gigabyte for two samples.

    Args:
        path: the graph's file. Weights inside it stay there.

    Returns:
        The graph's bytes, and by input name the weights: read-only arrays that map their files.

    Raises:
        BundleError: the graph cannot be read, or a file of weights is missing or too short.
    """
    graph = Graph.read(path.read_bytes())
    fuse_attention(graph)
    weights = views(graph.take_external(), path.parent)
    return graph.write(), weights


def views(tensors: Mapping[str, ExternalTensor], folder: Path) -> dict[str, NDArray[Any]]:
    """Initializers that lie in files of ``folder``, as read-only arrays that map them.

    Raises:
        BundleError: a file is missing or too short.
    """
    locations = sorted({tensor.location for tensor in tensors.values()})
    files = {location: _mapped(folder / location) for location in locations}
    return {name: _view(files[tensor.location], tensor) for name, tensor in tensors.items()}


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        return np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: the file is empty.
        raise _damaged(path.name, str(error)) from error


def _view(file: NDArray[np.uint8], tensor: ExternalTensor) -> NDArray[Any]:
    dtype, end = np.dtype(tensor.dtype), tensor.offset + tensor.length
    wanted = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
    if not 0 <= tensor.offset <= end <= len(file) or tensor.length != wanted:
        raise _damaged(tensor.location, f"{end:,} bytes are expected, {len(file):,} are there")
    return file[tensor.offset : end].view(dtype).reshape(tensor.shape)


def _damaged(name: str, reason: str) -> BundleError:
    return BundleError(
        f"The weights in {name} cannot be read: {reason}",
        hint="Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE",
    )
