"""What can run graphs on this machine, and for what cannot: why not, and the command that mends it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from riffusion_engine.device_memory import cuda_bindings_installed
from riffusion_engine.engine_library import ENGINE_LIBRARIES, RTX_TARGETS, native_target
from riffusion_engine.errors import DeviceError, MissingExtraError

AUTO = "auto"
DEVICES: tuple[str, ...] = ("cpu", "openvino", "cuda", "trt", "trt-rtx")
HOST_DEVICES = frozenset({"cpu", "openvino"})
"""Devices that compute on the CPU, where numpy's arrays lie."""
_BEST_FIRST: tuple[str, ...] = ("cuda", "cpu")

INSTALL_OPENVINO = "Install it: pip install 'riffusion-rt[openvino]'"
_INSTALL_CPU = "Install it: pip install 'riffusion-rt[cpu]'"
_INSTALL_CUDA = (
    "Install the CUDA build alone: pip uninstall -y onnxruntime && pip install 'riffusion-rt[cuda]'"
)
_DRIVER = "libcuda.so.1" if os.name == "posix" else "nvcuda.dll"
_CUDA_LIBRARIES: tuple[str, ...] = ("libcudart.so", "libcublasLt.so", "libcudnn.so")


@dataclass(frozen=True)
class DeviceReport:
    """One kind of device. ``reason`` says what was found, ``hint`` what to do if it is not available."""

    name: str
    available: bool
    reason: str
    hint: str = ""


def probe_devices() -> list[DeviceReport]:
    """Look at every kind of device that riffusion-rt knows, the CPU first. Nothing is loaded onto a device."""
    return [_probe(name) for name in DEVICES]


def choose_device(wanted: str) -> DeviceReport:
    """The device to use: the one named, or with "auto" the best that is available.

    Raises:
        DeviceError: there is no such device, or the one named is not available here.
        MissingExtraError: nothing that runs graphs is installed.
    """
    if wanted == AUTO:
        for name in _BEST_FIRST:
            report = _probe(name)
            if report.available:
                return report
        raise _no_runtime()
    if wanted not in DEVICES:
        raise DeviceError(
            f"There is no device {wanted!r}", hint=f"Choose one of: {', '.join((AUTO, *DEVICES))}"
        )
    report = _probe(wanted)
    if report.available:
        return report
    if wanted == "cpu":
        raise _no_runtime()
    raise DeviceError(f"Device {wanted} is not available: {report.reason}", hint=report.hint)


def import_onnxruntime() -> Any:
    """The ``onnxruntime`` module.

    Raises:
        MissingExtraError: it is not installed, or its native library does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        if importlib.util.find_spec("onnxruntime") is None:
            raise _no_runtime() from error
        raise MissingExtraError(
            f"onnxruntime is installed but does not load: {error}",
            hint="Reinstall it: pip install --force-reinstall 'riffusion-rt[cpu]'",
        ) from error
    return onnxruntime


def available_cores() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _no_runtime() -> MissingExtraError:
    return MissingExtraError("ONNX Runtime, which runs the model, is not installed", hint=_INSTALL_CPU)


def _probe(name: str) -> DeviceReport:
    if name == "cpu":
        return _probe_cpu()
    if name == "openvino":
        return _probe_openvino()
    if name == "cuda":
        return _probe_cuda()
    return _probe_engines(name)


def _probe_cpu() -> DeviceReport:
    if importlib.util.find_spec("onnxruntime") is None:
        return DeviceReport("cpu", available=False, reason="onnxruntime is not installed", hint=_INSTALL_CPU)
    return DeviceReport("cpu", available=True, reason=f"ONNX Runtime {_onnxruntime_version()}")


def _probe_openvino() -> DeviceReport:
    """Never chosen by "auto": its bfloat16 is quicker but gives other bytes than the CPU's float32."""
    if importlib.util.find_spec("openvino") is None:
        return DeviceReport("openvino", False, "OpenVINO is not installed", INSTALL_OPENVINO)
    version = _distribution_version("openvino") or "of unknown version"
    return DeviceReport("openvino", True, f"OpenVINO {version}, on the CPU")


def _probe_cuda() -> DeviceReport:
    if importlib.util.find_spec("onnxruntime") is None:
        return _absent("onnxruntime-gpu is not installed", "Install it: pip install 'riffusion-rt[cuda]'")
    if _distribution_version("onnxruntime") and _distribution_version("onnxruntime-gpu"):
        both = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'riffusion-rt[cuda]'"
        return _absent(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other", f"Mend it: {both}"
        )
    if "CUDAExecutionProvider" not in import_onnxruntime().get_available_providers():
        return _absent("the onnxruntime installed here is built without CUDA", _INSTALL_CUDA)
    gpus = _count_gpus()
    if gpus is None:
        return _absent("no NVIDIA driver was found", "Install the NVIDIA driver; nvidia-smi must list a GPU")
    if gpus == 0:
        return _absent("the NVIDIA driver sees no GPU", "Check nvidia-smi, and --gpus all if in a container")
    missing = [library for library in _CUDA_LIBRARIES if not _find_library(library)]
    if missing:
        return _absent(
            f"CUDA libraries are missing: {', '.join(missing)}",
            "Install them: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return DeviceReport(
        "cuda", available=True, reason=f"ONNX Runtime {_onnxruntime_version()}, {gpus} GPU(s)"
    )


def _probe_engines(name: str) -> DeviceReport:
    """TensorRT or TensorRT-RTX: the library, a GPU that it knows, and the bindings that move memory there."""
    library = ENGINE_LIBRARIES[name]
    if library.find() is None:
        return DeviceReport(name, False, f"{library.title} is not installed", library.install_hint)
    try:
        version = library.version()
    except MissingExtraError as error:
        return DeviceReport(name, False, error.message, error.hint)
    target = native_target()
    if target is None:
        hint = (
            ""
            if library.needs_gpu_to_build
            else "; engines for another machine build here: riffusion-rt build"
        )
        return DeviceReport(
            name, False, f"{library.title} {version} finds no GPU", f"Check nvidia-smi and the driver{hint}"
        )
    if not library.needs_gpu_to_build and target not in RTX_TARGETS:
        reason = f"{library.title} {version} has no kernels for this GPU, {target}"
        return DeviceReport(name, False, reason, "Use --device trt or --device cuda")
    if not cuda_bindings_installed():
        reason = "the CUDA bindings for Python are not installed"
        return DeviceReport(name, False, reason, "Install them: pip install cuda-bindings")
    return DeviceReport(
        name, True, f"{library.title} {version}, {target}; engines come from riffusion-rt build"
    )


def _absent(reason: str, hint: str) -> DeviceReport:
    return DeviceReport("cuda", available=False, reason=reason, hint=hint)


def _count_gpus() -> int | None:
    """GPUs that the driver lists; None without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVER)
        count = ctypes.c_int()
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except (OSError, AttributeError):
        return None
    return count.value


def _find_library(stem: str) -> bool:
    """Whether a CUDA library is in a pip wheel (nvidia/*/lib) or on the loader's path, in any version."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (nvidia.submodule_search_locations or [])] if nvidia else []
    if any(next(folder.glob(f"**/{stem}*"), None) for folder in folders):
        return True
    search = [*os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep), "/usr/local/cuda/lib64"]
    if any(next(Path(folder).glob(f"{stem}*"), None) for folder in search if folder):
        return True
    return any(_loads(f"{stem}.{version}") for version in ("13", "12", "9"))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _onnxruntime_version() -> str:
    return (
        _distribution_version("onnxruntime")
        or _distribution_version("onnxruntime-gpu")
        or "of unknown version"
    )


def _distribution_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
