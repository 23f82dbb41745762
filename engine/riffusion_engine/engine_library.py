"""A device's name in, the TensorRT library that builds and runs its engines out, and the GPU that is here.

TensorRT (data centres, Jetson) builds on the GPU that will run the engine. TensorRT-RTX (RTX workstations, GB10) builds
ahead of time for any of `RTX_TARGETS`, on a machine without a GPU as well. Their Python interfaces are nearly one.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from riffusion_engine.errors import MissingExtraError

NATIVE = "native"
"""The target that stands for the GPU of this machine."""
RTX_TARGETS: tuple[str, ...] = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX 1.7 compiles for."""

_DRIVER = "libcuda.so.1" if os.name == "posix" else "nvcuda.dll"
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR (cuda.h)
_MESSAGES_KEPT = 3
_MESSAGE_LENGTH = 400
_ARCHITECTURES: Mapping[str, str] = MappingProxyType({"amd64": "x86_64", "arm64": "aarch64"})


@dataclass(frozen=True)
class EngineLibrary:
    """One of the two libraries: ``device`` is its name here, ``modules`` are those it may be installed as."""

    device: str
    name: str
    title: str
    modules: tuple[str, ...]
    needs_gpu_to_build: bool

    def find(self) -> str | None:
        """The module that is installed; None if there is none. Nothing is imported."""
        return next((module for module in self.modules if importlib.util.find_spec(module)), None)

    def load(self) -> Any:
        """Import it.

        Raises:
            MissingExtraError: it is not installed, or its native part does not load.
        """
        module = self.find()
        if module is None:
            raise MissingExtraError(f"{self.title} is not installed", hint=self.install_hint)
        try:
            return importlib.import_module(module)
        except (ImportError, OSError) as error:
            raise MissingExtraError(
                f"{self.title} is installed but does not load: {error}",
                hint=f"Reinstall it: pip install --force-reinstall 'riffusion-rt[{self.device}]'",
            ) from error

    def version(self) -> str:
        """The version that is installed.

        Raises:
            MissingExtraError: see `load`.
        """
        return str(self.load().__version__)

    @property
    def install_hint(self) -> str:
        """The command that installs it."""
        return f"Install it: pip install 'riffusion-rt[{self.device}]'"


ENGINE_LIBRARIES: Mapping[str, EngineLibrary] = MappingProxyType(
    {
        "trt": EngineLibrary("trt", "tensorrt", "TensorRT", ("tensorrt",), True),
        "trt-rtx": EngineLibrary(
            # The meta-package installs the first module; the binding wheels alone install the second.
            "trt-rtx",
            "tensorrt_rtx",
            "TensorRT-RTX",
            ("tensorrt_rtx", "tensorrt_rtx_bindings"),
            False,
        ),
    }
)
"""Device name to the library behind it."""


def native_target() -> str | None:
    """The first GPU's compute capability as a target, ``"sm89"``; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL(_DRIVER)
        device = ctypes.c_int()
        if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
            return None
        parts = []
        for attribute in _COMPUTE_CAPABILITY:
            value = ctypes.c_int()
            if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
                return None
            parts.append(str(value.value))
    except (OSError, AttributeError):
        return None
    return "sm" + "".join(parts)


def this_platform() -> tuple[str, str]:
    """Operating system and processor as engine headers name them: ``("linux", "x86_64")``."""
    machine = platform.machine().lower()
    return platform.system().lower(), _ARCHITECTURES.get(machine, machine)


def silent_messages(trt: Any) -> Any:
    """A logger for the library that prints nothing; its ``last()`` tells the last errors on one line."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self._errors.append(text)

        def last(self) -> str:
            return one_line(self._errors) or "it gave no reason"

    return Messages()


def one_line(messages: list[str]) -> str:
    """The last few messages of a library, cut to a readable length."""
    return "; ".join(" ".join(message.split())[:_MESSAGE_LENGTH] for message in messages[-_MESSAGES_KEPT:])
