"""Devices are probed with reasons; a named device is honoured or refused."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from riffusion_engine import devices
from riffusion_engine.devices import DEVICES, DeviceReport, choose_device, probe_devices
from riffusion_engine.engine_library import EngineLibrary
from riffusion_engine.errors import DeviceError, MissingExtraError


@pytest.fixture
def no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which ONNX Runtime was never installed."""
    find, load = importlib.util.find_spec, builtins.__import__

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == "onnxruntime" else find(name, *rest)

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return load(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(builtins, "__import__", refuse)


def _pretend(
    monkeypatch: pytest.MonkeyPatch, *, gpus: int | None, libraries: bool, both: bool = False
) -> None:
    """A machine with ONNX Runtime's CUDA build, this many GPUs (None: no driver), and CUDA libraries or none."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(
        devices, "import_onnxruntime", lambda: SimpleNamespace(get_available_providers=lambda: providers)
    )
    installed = {"onnxruntime-gpu": "1.31.0", **({"onnxruntime": "1.31.0"} if both else {})}
    monkeypatch.setattr(devices, "_distribution_version", installed.get)
    monkeypatch.setattr(devices, "_count_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "_find_library", lambda stem: libraries)


def _report(name: str) -> DeviceReport:
    return next(report for report in probe_devices() if report.name == name)


def test_every_kind_of_device_is_reported_once() -> None:
    assert tuple(report.name for report in probe_devices()) == DEVICES


def test_what_is_not_available_says_why_and_what_to_do() -> None:
    for report in probe_devices():
        assert report.reason
        assert report.available or report.hint


def test_the_cpu_is_available_where_onnxruntime_is() -> None:
    assert _report("cpu").available
    assert choose_device("cpu").name == "cpu"


def test_auto_takes_an_available_device() -> None:
    assert choose_device("auto").available


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match="abacus") as caught:
        choose_device("abacus")
    assert all(name in caught.value.hint for name in ("auto", *DEVICES))


def _pretend_engines(
    monkeypatch: pytest.MonkeyPatch,
    *,
    installed: bool = True,
    target: str | None = "sm89",
    bindings: bool = True,
) -> None:
    """A machine with both TensorRT libraries or none, this GPU, and the CUDA bindings or none."""
    monkeypatch.setattr(EngineLibrary, "find", lambda library: library.name if installed else None)
    monkeypatch.setattr(EngineLibrary, "version", lambda library: "1.7")
    monkeypatch.setattr(devices, "native_target", lambda: target)
    monkeypatch.setattr(devices, "cuda_bindings_installed", lambda: bindings)


@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
def test_a_device_whose_library_is_missing_is_refused_not_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_engines(monkeypatch, installed=False)
    with pytest.raises(DeviceError, match=f"Device {name} is not available.* not installed") as caught:
        choose_device(name)
    assert f"pip install 'riffusion-rt[{name}]'" in caught.value.hint


@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
def test_engines_run_where_library_gpu_and_bindings_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_engines(monkeypatch)
    assert choose_device(name).name == name
    _pretend_engines(monkeypatch, target=None)
    with pytest.raises(DeviceError, match="finds no GPU"):
        choose_device(name)
    _pretend_engines(monkeypatch, bindings=False)
    with pytest.raises(DeviceError, match="CUDA bindings"):
        choose_device(name)


def test_rtx_is_refused_on_gpus_that_it_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_engines(monkeypatch, target="sm90")
    assert choose_device("trt").available
    with pytest.raises(DeviceError, match="sm90") as caught:
        choose_device("trt-rtx")
    assert "--device trt" in caught.value.hint


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
@pytest.mark.usefixtures("no_onnxruntime")
def test_a_missing_runtime_names_the_extra(wanted: str) -> None:
    with pytest.raises(MissingExtraError) as caught:
        choose_device(wanted)
    assert "pip install 'riffusion-rt[cpu]'" in caught.value.hint


@pytest.mark.usefixtures("no_onnxruntime")
def test_importing_a_missing_runtime_names_the_extra() -> None:
    with pytest.raises(MissingExtraError) as caught:
        devices.import_onnxruntime()
    assert "pip install 'riffusion-rt[cpu]'" in caught.value.hint


@pytest.mark.usefixtures("no_onnxruntime")
def test_probing_without_a_runtime_reports_instead_of_failing() -> None:
    assert not any(report.available for report in probe_devices() if report.name != "openvino")


def test_auto_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, gpus=1, libraries=True)
    assert choose_device("auto").name == "cuda"
    assert choose_device("cpu").name == "cpu"


@pytest.mark.parametrize(
    ("gpus", "libraries", "both", "reason"),
    [
        (None, True, False, "driver"),
        (0, True, False, "no GPU"),
        (1, False, False, "libcudnn"),
        (1, True, True, "both installed"),
    ],
)
def test_cuda_is_refused_with_what_is_missing(
    gpus: int | None, libraries: bool, both: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, gpus=gpus, libraries=libraries, both=both)
    with pytest.raises(DeviceError, match=reason):
        choose_device("cuda")
    assert choose_device("auto").name == "cpu"


def test_a_cpu_build_of_onnxruntime_is_told_apart_from_a_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(devices, "import_onnxruntime", lambda: runtime)
    monkeypatch.setattr(devices, "_distribution_version", {"onnxruntime": "1.31.0"}.get)
    report = _report("cuda")
    assert not report.available
    assert "without CUDA" in report.reason
    assert "riffusion-rt[cuda]" in report.hint
