"""Host arrays in, named memory on the GPU and a stream to work on it out, through the ``cuda.bindings`` package."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import DeviceError, MissingExtraError

CUDA_BINDINGS = "cuda.bindings.runtime"

_NON_BLOCKING = 1  # cudaStreamNonBlocking (driver_types.h)


def cuda_bindings_installed() -> bool:
    """Whether the bindings are there; nothing is imported but the namespace package ``cuda``."""
    try:
        return importlib.util.find_spec(CUDA_BINDINGS) is not None
    except ModuleNotFoundError:
        return False


class DeviceMemory:
    """Blocks of memory on one GPU by name, and the stream that all copies and runs are ordered on.

    A block keeps its address until a larger one is asked for under its name, so that a captured CUDA graph stays valid.
    """

    def __init__(self, device: int = 0) -> None:
        """Select a GPU and make a stream there.

        Raises:
            MissingExtraError: the CUDA bindings are not installed.
            DeviceError: CUDA does not start.
        """
        try:
            self._cuda: Any = importlib.import_module(CUDA_BINDINGS)
        except ImportError as error:
            raise MissingExtraError(
                f"The CUDA bindings for Python do not load: {error}",
                hint="Install them: pip install cuda-bindings",
            ) from error
        self._blocks: dict[str, tuple[int, int]] = {}
        self._call("cudaSetDevice", device)
        (self._stream,) = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def reserve(self, name: str, size: int) -> int:
        """The address of at least ``size`` bytes under ``name``.

        Raises:
            DeviceError: the GPU's memory is full.
        """
        address, held = self._blocks.get(name, (0, 0))
        if held < size:
            if address:
                self.synchronize()
                del self._blocks[name]
                self._call("cudaFree", address)
            (address,) = self._call("cudaMalloc", size)
            self._blocks[name] = (int(address), size)
        return self._blocks[name][0]

    def upload(self, name: str, array: NDArray[Any]) -> int:
        """Copy a contiguous array into the block ``name`` and return its address."""
        address = self.reserve(name, array.nbytes)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)
        return address

    def download(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Copy the block ``name`` into a new array, which holds the values after the next `synchronize`."""
        array = np.empty(shape, dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(
            "cudaMemcpyAsync", array.ctypes.data, self._blocks[name][0], array.nbytes, kind, self._stream
        )
        return array

    def synchronize(self) -> None:
        """Wait until all that was asked for is done.

        Raises:
            DeviceError: something failed on the GPU.
        """
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back."""
        if self._stream is None:
            return
        self.synchronize()
        blocks, self._blocks = self._blocks, {}
        for address, _ in blocks.values():
            self._call("cudaFree", address)
        self._call("cudaStreamDestroy", self._stream)
        self._stream = None

    def _call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            said = text.decode() if isinstance(text, bytes) else str(text)
            raise DeviceError(
                f"{function} failed: {said}",
                hint="Free memory on the GPU; riffusion-rt doctor shows the device",
            )
        return tuple(results)
