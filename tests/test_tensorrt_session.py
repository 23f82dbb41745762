"""Engines are looked up, refused with reasons, and run with the shapes and addresses that their graph wants.

Nothing here runs TensorRT: a stand-in executes the same graph with ONNX Runtime, out of memory that stands in for a
GPU's, so that what is tested is the session's part. The last test runs the real thing where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine import device_memory, engine_plan, tensorrt_session
from riffusion_engine.devices import probe_devices
from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_header import EngineHeader, sha256_of, write_engine
from riffusion_engine.engine_library import ENGINE_LIBRARIES, EngineLibrary
from riffusion_engine.engine_plan import EngineRecipe, plan_engine
from riffusion_engine.errors import DeviceError, EngineError, MissingExtraError
from riffusion_engine.manifest import Manifest
from riffusion_engine.session import open_session
from riffusion_engine.tensorrt_session import TensorRTSession

RTX = ENGINE_LIBRARIES["trt-rtx"]
PLAN = b"stands in for a plan" * 9


class Memory:
    """Stands in for ``DeviceMemory``: blocks of the host's memory under made-up addresses."""

    stream = 7

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}
        self.names: dict[str, int] = {}

    def reserve(self, name: str, size: int) -> int:
        address = self.names.setdefault(name, 1000 + len(self.names))
        if len(self.blocks.get(address, b"")) < size:
            self.blocks[address] = bytearray(size)
        return address

    def upload(self, name: str, array: NDArray[Any]) -> int:
        address = self.reserve(name, array.nbytes)
        self.blocks[address][: array.nbytes] = array.tobytes()
        return address

    def download(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(bytes(self.blocks[self.names[name]][:size]), dtype).reshape(shape)

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self.blocks.clear()


class Context:
    """Stands in for an execution context: runs the graph on the CPU with what lies at the addresses it was told."""

    def __init__(self, bundle: Path, component: str, memory: Memory) -> None:
        graph = Manifest.read(bundle).graph(component)
        self.session = open_session(bundle, graph, device="cpu", threads=1)
        self.graph, self.memory, self.profiles = graph, memory, [0]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profiles.append(index)
        return stream == self.memory.stream

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self.shapes.values()))[0]
        spec = next(spec for spec in self.graph.outputs if spec.name == name)
        return tuple(batch if isinstance(size, str) else size for size in spec.shape)

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {}
        for spec in self.graph.inputs:
            raw = bytes(self.memory.blocks[self.addresses[spec.name]])
            count = int(np.prod(self.shapes[spec.name]))
            feeds[spec.name] = np.frombuffer(raw, spec.dtype, count).reshape(self.shapes[spec.name])
        for name, array in self.session.run(feeds).items():
            self.memory.blocks[self.addresses[name]][: array.nbytes] = array.tobytes()
        return stream == self.memory.stream


@pytest.fixture
def contexts(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    """A machine with an Ada GPU and TensorRT-RTX 1.7, as far as the session can tell; the contexts made on it."""
    memory = Memory()
    made: list[Context] = []

    class Logger:
        ERROR = 1

    def deserialize(plan: memoryview) -> Any:
        if bytes(plan) != PLAN:
            return None
        made.append(Context(toy_bundle, "unet", memory))
        return SimpleNamespace(create_execution_context=lambda: made[-1])

    library = SimpleNamespace(
        __version__="1.7",
        ILogger=Logger,
        Runtime=lambda messages: SimpleNamespace(deserialize_cuda_engine=deserialize),
    )
    monkeypatch.setattr(EngineLibrary, "load", lambda self: library)
    monkeypatch.setattr(engine_plan, "native_target", lambda: "sm89")
    monkeypatch.setattr(tensorrt_session, "native_target", lambda: "sm89")
    monkeypatch.setattr(tensorrt_session, "DeviceMemory", lambda: memory)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def keep(
    cache: EngineCache, bundle: Path, *, plan: bytes = PLAN, batches: tuple[int, ...] = (1, 2), **change: Any
) -> Path:
    recipe: EngineRecipe = plan_engine(
        Manifest.read(bundle), "unet", RTX, library_version="1.7", target="sm89", batches=batches
    )
    recipe = msgspec.structs.replace(recipe, **change)
    header = EngineHeader(
        name="toy",
        bundle=str(bundle),
        recipe=recipe,
        plan_sha256=sha256_of(plan),
        plan_bytes=len(plan),
        build_s=1.0,
        peak_bytes=1,
    )
    write_engine(cache.path(recipe), header, plan)
    return cache.path(recipe)


def session_of(bundle: Path, cache: EngineCache) -> TensorRTSession:
    return TensorRTSession(bundle, Manifest.read(bundle).graph("unet"), device="trt-rtx", cache=cache)


def feeds(batch: int, tokens: int = 77) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(batch)
    return {
        "sample": draw.standard_normal((batch, 4, 8, 8)).astype(np.float32),
        "timestep": np.linspace(1, 981, batch, dtype=np.float32),
        "encoder_hidden_states": draw.standard_normal((batch, tokens, 32)).astype(np.float32),
    }


def test_a_run_gives_what_the_graph_gives(
    contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    keep(cache, toy_bundle)
    graph = Manifest.read(toy_bundle).graph("unet")
    with (
        open_session(toy_bundle, graph, device="cpu", threads=1) as reference,
        session_of(toy_bundle, cache) as session,
    ):
        for batch in (1, 2, 1):
            expected = reference.run(feeds(batch))["out_sample"]
            np.testing.assert_array_equal(session.run(feeds(batch))["out_sample"], expected)
        lone = {**feeds(2), "timestep": np.array(500)}
        expected = reference.run(lone)["out_sample"]
        np.testing.assert_allclose(session.run(lone)["out_sample"], expected, atol=1e-6)
        assert session.provider == "TensorRT-RTX 1.7 (sm89)"
    assert contexts[0].profiles == [0, 1, 0, 1]


def test_addresses_stay_between_runs(contexts: list[Context], cache: EngineCache, toy_bundle: Path) -> None:
    keep(cache, toy_bundle)
    with session_of(toy_bundle, cache) as session:
        session.run(feeds(2))
        before = dict(contexts[0].addresses)
        session.run(feeds(1))
        assert contexts[0].addresses == before


def test_a_batch_that_was_not_built_names_the_command(
    contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    keep(cache, toy_bundle)
    with session_of(toy_bundle, cache) as session:
        with pytest.raises(EngineError, match="batches of 1, 2") as caught:
            session.run(feeds(3))
        assert "--component unet --batch 3" in caught.value.hint
        with pytest.raises(EngineError) as caught:
            session.run(feeds(1, tokens=154))
        assert "--batch 1 --chunks 2" in caught.value.hint


def test_another_engine_serves_the_shapes_that_the_first_does_not(
    contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    keep(cache, toy_bundle)
    keep(cache, toy_bundle, batches=(3,))
    with session_of(toy_bundle, cache) as session:
        assert session.run(feeds(3))["out_sample"].shape == (3, 4, 8, 8)
        assert session.run(feeds(2))["out_sample"].shape == (2, 4, 8, 8)
    assert len(contexts) == 2


def test_without_an_engine_the_command_that_builds_it_is_named(
    contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    with pytest.raises(EngineError, match="has no engine of unet") as caught:
        session_of(toy_bundle, cache)
    assert f"riffusion-rt build {toy_bundle} --device trt-rtx --target sm89" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "sm120"}, "another GPU: sm120, here is sm89"),
        ({"library_version": "1.6"}, "another library version"),
        ({"system": "elsewhere"}, "another operating system"),
        ({"sources": {"unet/model.onnx": "0" * 64}}, "earlier state of this bundle"),
    ],
)
def test_foreign_and_stale_engines_never_reach_native_code(
    change: dict[str, Any], reason: str, contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    keep(cache, toy_bundle, **change)
    with pytest.raises(EngineError, match=reason):
        session_of(toy_bundle, cache)
    assert not contexts


@pytest.mark.parametrize("damage", [lambda c: c[:-1] + b"!", lambda c: c[:-5], lambda c: b"FFIR" + c[4:]])
def test_damaged_engines_never_reach_native_code(
    damage: Callable[[bytes], bytes], contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    path = keep(cache, toy_bundle)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(EngineError, match=r"damaged|cut off|no engine file") as caught:
        session_of(toy_bundle, cache)
    assert "riffusion-rt build" in caught.value.hint
    assert not contexts


def test_a_plan_that_the_library_refuses_is_an_engine_error(
    contexts: list[Context], cache: EngineCache, toy_bundle: Path
) -> None:
    keep(cache, toy_bundle, plan=b"sound, but no plan")
    with pytest.raises(EngineError, match="did not load"):
        session_of(toy_bundle, cache)


def test_a_closed_session_says_so(contexts: list[Context], cache: EngineCache, toy_bundle: Path) -> None:
    keep(cache, toy_bundle)
    session = session_of(toy_bundle, cache)
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.run(feeds(1))


def test_memory_without_the_cuda_bindings_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "CUDA_BINDINGS", "no_such.bindings")
    assert not device_memory.cuda_bindings_installed()
    with pytest.raises(MissingExtraError, match="bindings") as caught:
        device_memory.DeviceMemory()
    assert "pip install cuda-bindings" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["trt", "trt-rtx"])
def test_engines_agree_with_the_cpu(device: str, toy_bundle: Path, tmp_path: Path) -> None:
    from riffusion_engine.build_process import build_engine

    report = next(report for report in probe_devices() if report.name == device)
    if not report.available:
        pytest.skip(report.reason)
    manifest, cache, library = Manifest.read(toy_bundle), EngineCache(tmp_path), ENGINE_LIBRARIES[device]
    recipe = plan_engine(manifest, "unet", library, library_version=library.version())
    *_, last = build_engine(toy_bundle, manifest, recipe, cache=cache)
    assert last.header is not None
    graph = manifest.graph("unet")
    with (
        open_session(toy_bundle, graph, device="cpu") as reference,
        TensorRTSession(toy_bundle, graph, device=device, cache=cache) as session,
    ):
        for batch in (1, 2, 1):
            expected = reference.run(feeds(batch))["out_sample"]
            got = session.run(feeds(batch))["out_sample"]
            assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-4
