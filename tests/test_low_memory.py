"""Low memory: one network open at a time, its weights left in their files, and the same music."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import riffusion_engine.session
from riffusion_engine.errors import BundleError, DeviceError, RequestError
from riffusion_engine.manifest import GraphSpec, Manifest
from riffusion_engine.mapped_weights import map_weights
from riffusion_engine.session import Session, open_session
from riffusion_engine.session_turns import SessionTurns
from riffusion_rt.clip import Clip
from riffusion_rt.pipeline import Riffusion, StepProgress
from riffusion_rt.request import ClipRequest

LEVELS_APART = 2
"""Of 255: how far a pixel may be from the ordinary mode's, whose rounding differs."""


class Watched:
    """Opens sessions as they are opened, and counts which are open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[str] = set()
        self.most = 0
        self.history: list[str] = []
        self._really = riffusion_engine.session.open_session
        monkeypatch.setattr(riffusion_engine.session, "open_session", self._opened)

    def _opened(self, bundle: Path, graph: GraphSpec, **options: Any) -> Session:
        session = self._really(bundle, graph, **options)
        self.open.add(graph.path)
        self.history.append(graph.path.split("/")[0])
        self.most = max(self.most, len(self.open))
        close = session.close

        def closed() -> None:
            self.open.discard(graph.path)
            close()

        session.close = closed  # type: ignore[method-assign]
        return session


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def _apart(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Relative L2 distance."""
    wanted = theirs.astype(np.float64)
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def _feeds(graph: GraphSpec, batch: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in graph.inputs:
        shape = [size if isinstance(size, int) else {"tokens": 77}.get(size, batch) for size in spec.shape]
        if spec.dtype.startswith("int"):
            feeds[spec.name] = draw.integers(0, 40, shape).astype(spec.dtype)
        else:
            feeds[spec.name] = draw.standard_normal(shape).astype(spec.dtype)
    return feeds


def test_only_one_network_is_open_at_a_time(toy_bundle: Path, watched: Watched) -> None:
    with Riffusion(toy_bundle, device="cpu", low_memory=True) as riffusion:
        assert watched.history == [], "nothing opens before it is needed"
        riffusion.generate("piano", steps=2)
        assert watched.history == ["text_encoder", "unet", "vae_decoder"]
    assert watched.most == 1
    assert not watched.open


def test_the_ordinary_mode_has_several_open(toy_bundle: Path, watched: Watched) -> None:
    with Riffusion(toy_bundle, device="cpu") as riffusion:
        riffusion.generate("piano", steps=2)
    assert watched.most == 3


def test_a_look_at_a_step_takes_the_networks_turn_and_gives_it_back(
    toy_bundle: Path, watched: Watched
) -> None:
    with Riffusion(toy_bundle, device="cpu", low_memory=True) as riffusion:
        for event in riffusion.iterate(ClipRequest("piano", steps=2)):
            if isinstance(event, StepProgress):
                event.preview()
    assert watched.history == ["text_encoder", *["unet", "vae_decoder"] * 2]
    assert watched.most == 1


def test_the_same_seed_gives_the_embedded_models_own_picture() -> None:
    _same_picture("riffusion-mini", {})


@pytest.mark.parametrize("settings", [{"seed": 7, "sampler": "euler-a"}, {"duration_s": 1.0}])
def test_the_same_seed_gives_the_ordinary_modes_picture(toy_bundle: Path, settings: dict[str, Any]) -> None:
    _same_picture(toy_bundle, settings)


def _same_picture(model: str | Path, settings: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"steps": 2, **settings}
    with (
        Riffusion(model, device="cpu", low_memory=True) as frugal,
        Riffusion(model, device="cpu") as ordinary,
    ):
        ours, theirs = frugal.generate("piano", **asked), ordinary.generate("piano", **asked)
    apart = np.abs(np.asarray(ours.image, np.int16) - np.asarray(theirs.image, np.int16))
    assert apart.max() <= LEVELS_APART
    assert apart.mean() < 0.05
    assert ours.samples.shape == theirs.samples.shape


def test_a_seed_image_goes_through_the_encoder_in_its_turn(toy_bundle: Path, watched: Watched) -> None:
    with Riffusion(toy_bundle, device="cpu", low_memory=True) as riffusion:
        seed = riffusion.generate("piano", steps=1)
        *_, clip = riffusion.iterate(ClipRequest("piano", steps=2, seed_image=seed.image))
    assert isinstance(clip, Clip)
    assert "vae_encoder" in watched.history
    assert watched.most == 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_every_network_computes_the_same_with_its_weights_in_their_file(name: str, batch: int) -> None:
    with Riffusion(device="cpu") as riffusion:
        bundle, graph = riffusion.bundle, riffusion.manifest.graph(name)
    with (
        open_session(bundle, graph, device="cpu", low_memory=True) as frugal,
        open_session(bundle, graph, device="cpu") as ordinary,
    ):
        feeds = _feeds(graph, batch)
        ours, theirs = frugal.run(feeds), ordinary.run(feeds)
        again = frugal.run(feeds)
    half = any(spec.dtype == "float16" for spec in graph.outputs) or graph.weights_dtype == "float16"
    for output in theirs:
        assert _apart(ours[output], theirs[output]) < (2e-3 if half else 1e-5)
        assert np.array_equal(ours[output], again[output])


def test_weights_are_the_files_own_pages(toy_bundle: Path) -> None:
    graph, weights = map_weights(toy_bundle / "unet" / "model.onnx")
    assert weights
    assert all(isinstance(array, np.memmap) and not array.flags.writeable for array in weights.values())
    held = sum(array.nbytes for array in weights.values())
    stored = sum(path.stat().st_size for path in (toy_bundle / "unet").glob("*.safetensors"))
    assert held > 0.9 * stored
    assert len(graph) < 2 * (toy_bundle / "unet" / "model.onnx").stat().st_size


@pytest.mark.parametrize("damage", ["gone", "short", "empty"])
def test_missing_weights_are_said_before_anything_runs(damage: str, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    (weights,) = (bundle / "unet").glob("*.safetensors")
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[: 1000 if damage == "short" else 0])
    with pytest.raises(BundleError, match="weights"):
        open_session(bundle, Manifest.read(bundle).graph("unet"), device="cpu", low_memory=True)


@pytest.mark.parametrize("more", [{"fused": True}, {"reuse": 2}])
def test_what_needs_more_memory_is_refused_beside_it(more: dict[str, Any], toy_bundle: Path) -> None:
    with pytest.raises(RequestError, match="Low memory"):
        Riffusion(toy_bundle, device="cpu", low_memory=True, **more)


class Counted:
    """A stand-in of a session: it knows its name and whether it is closed."""

    provider = "stand-in"

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._log.append(f"run {self._name}")
        return dict(feeds)

    def close(self) -> None:
        self._log.append(f"close {self._name}")


@pytest.fixture
def turns() -> tuple[SessionTurns, list[str]]:
    log: list[str] = []

    def opened(name: str) -> Any:
        log.append(f"open {name}")
        return Counted(name, log)

    return SessionTurns(opened), log


def test_a_turn_closes_the_last_before_it_opens_the_next(turns: tuple[SessionTurns, list[str]]) -> None:
    sessions, log = turns
    for name in ("a", "a", "b", "a"):
        sessions.run(name, {})
    sessions.close()
    assert log == [
        *("open a", "run a", "run a", "close a"),
        *("open b", "run b", "close b"),
        *("open a", "run a", "close a"),
    ]


def test_nothing_opens_after_the_end(turns: tuple[SessionTurns, list[str]]) -> None:
    sessions, _ = turns
    sessions.close()
    with pytest.raises(DeviceError, match="closed"):
        sessions.run("a", {})


def test_a_gpu_reserves_no_more_than_is_asked_for(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Refusing:
        """Stands in for ONNX Runtime with CUDA: it tells what it was asked for, and opens nothing."""

        def __init__(self, source: object, options: object, providers: list[Any]) -> None:
            asked.extend(providers)
            raise RuntimeError("no GPU")

    import onnxruntime

    from riffusion_engine.onnxruntime_session import OnnxRuntimeSession

    monkeypatch.setattr(onnxruntime, "InferenceSession", Refusing)
    graph = Manifest.read(toy_bundle).graph("unet")
    for low_memory in (True, False):
        with pytest.raises(BundleError, match="no GPU"):
            OnnxRuntimeSession(toy_bundle, graph, device="cuda", low_memory=low_memory)
    (_, frugal), (_, ordinary) = asked
    assert frugal["arena_extend_strategy"] == "kSameAsRequested"
    assert frugal["cudnn_conv_use_max_workspace"] == "0"
    assert "arena_extend_strategy" not in ordinary
