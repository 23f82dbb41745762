"""OpenVINO runs the same graphs on the CPU: exactly where asked, within bfloat16 elsewhere."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine import devices, laned_session, openvino_session
from riffusion_engine.errors import BundleError, DeviceError, MissingExtraError, RequestError
from riffusion_engine.manifest import Manifest
from riffusion_engine.session import open_session
from riffusion_rt import Riffusion

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'riffusion-rt[openvino]'")

OpenVinoSession = openvino_session.OpenVinoSession
BFLOAT16_STEP = 2.0**-8


def _feeds(bundle: Path, name: str, batch: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(batch)
    sizes = {"batch": batch, "timestep_batch": batch, "tokens": 77}
    feeds: dict[str, NDArray[Any]] = {}
    for spec in Manifest.read(bundle).graph(name).inputs:
        shape = [sizes.get(str(axis), axis) for axis in spec.shape]
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
        feeds[spec.name] = (draw.integers(0, 50, shape) if whole else draw.random(shape)).astype(spec.dtype)
    return feeds


def _distance(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_float32_gives_what_onnx_runtime_gives(toy_bundle: Path, name: str, batch: int) -> None:
    graph, feeds = Manifest.read(toy_bundle).graph(name), _feeds(toy_bundle, name, batch)
    with (
        OpenVinoSession(toy_bundle, graph, precise=True) as ours,
        open_session(toy_bundle, graph, device="cpu") as other,
    ):
        assert ours.provider == "OpenVINO CPU f32"
        got, wanted = ours.run(feeds), other.run(feeds)
    for output in graph.outputs:
        assert got[output.name].dtype == wanted[output.name].dtype
        assert _distance(got[output.name], wanted[output.name]) < 1e-4


@pytest.mark.parametrize(
    ("rows", "tokens", "kind"),
    [(2, 77, "pair"), (4, 77, "lanes"), (10, 77, "lanes"), (1, 77, "any"), (5, 77, "any"), (4, 154, "any")],
)
def test_pairs_lanes_and_the_graph_for_any_shape_agree(
    toy_bundle: Path, rows: int, tokens: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, feeds = Manifest.read(toy_bundle).graph("unet"), _feeds(toy_bundle, "unet", rows)
    feeds["timestep"] = feeds["timestep"][:1]  # One for all rows, however they are dealt out.
    feeds["encoder_hidden_states"] = np.resize(feeds["encoder_hidden_states"], (rows, tokens, 32))
    with OpenVinoSession(toy_bundle, graph, precise=True, threads=2) as session:
        got = session.run(feeds)["out_sample"]
        assert kind in session._requests
        np.testing.assert_array_equal(session.run(feeds)["out_sample"], got)
    monkeypatch.setattr(openvino_session, "PAIRED_GRAPHS", frozenset())
    with OpenVinoSession(toy_bundle, graph, precise=True, threads=2) as session:
        whole = session.run(feeds)["out_sample"]
        assert set(session._requests) == {"any"}
    assert got.shape == whole.shape
    assert _distance(got, whole) < 1e-5


def test_large_and_other_graphs_are_compiled_once(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.read(toy_bundle)
    with OpenVinoSession(toy_bundle, manifest.graph("vae_decoder"), threads=2) as session:
        session.run(_feeds(toy_bundle, "vae_decoder", 4))
        assert set(session._requests) == {"any"}
    monkeypatch.setattr(laned_session, "MOST_WEIGHTS", 1)
    with OpenVinoSession(toy_bundle, manifest.graph("unet"), threads=2) as session:
        session.run(_feeds(toy_bundle, "unet", 4))
        assert set(session._requests) == {"any"}


def test_the_processors_own_arithmetic_stays_within_bfloat16(toy_bundle: Path) -> None:
    graph, feeds = Manifest.read(toy_bundle).graph("unet"), _feeds(toy_bundle, "unet", 2)
    with (
        open_session(toy_bundle, graph, device="openvino") as ours,
        open_session(toy_bundle, graph, device="cpu") as other,
    ):
        output = graph.outputs[0].name
        assert _distance(ours.run(feeds)[output], other.run(feeds)[output]) < 10 * BFLOAT16_STEP


def test_the_text_encoder_stays_in_float32(toy_bundle: Path) -> None:
    with open_session(toy_bundle, Manifest.read(toy_bundle).graph("text_encoder"), device="openvino") as text:
        assert text.provider == "OpenVINO CPU f32"


def test_an_output_is_not_overwritten_by_the_next_run(toy_bundle: Path) -> None:
    graph = Manifest.read(toy_bundle).graph("unet")
    with open_session(toy_bundle, graph, device="openvino") as session:
        first = session.run(_feeds(toy_bundle, "unet", 2))["out_sample"]
        before = first.copy()
        session.run({name: feed * 0 for name, feed in _feeds(toy_bundle, "unet", 2).items()})
    np.testing.assert_array_equal(first, before)


def test_threads_may_share_a_session(toy_bundle: Path) -> None:
    graph, feeds = Manifest.read(toy_bundle).graph("unet"), _feeds(toy_bundle, "unet", 2)
    with open_session(toy_bundle, graph, device="openvino") as session:
        wanted = session.run(feeds)["out_sample"]
        got: list[NDArray[Any]] = []
        threads = [
            threading.Thread(target=lambda: got.append(session.run(feeds)["out_sample"])) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == len(threads)
    for array in got:
        np.testing.assert_array_equal(array, wanted)


def test_what_is_fed_is_checked_first(toy_bundle: Path) -> None:
    unet = Manifest.read(toy_bundle).graph("unet")
    with (
        open_session(toy_bundle, unet, device="openvino") as session,
        pytest.raises(RequestError, match="takes"),
    ):
        session.run({})


def test_a_damaged_or_missing_graph_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    graph = Manifest.read(bundle).graph("unet")
    (bundle / graph.path).write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot be loaded"):
        OpenVinoSession(bundle, graph)
    (bundle / graph.path).unlink()
    with pytest.raises(BundleError, match="missing"):
        OpenVinoSession(bundle, graph)


def test_a_closed_session_says_so(toy_bundle: Path) -> None:
    session = open_session(toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="openvino")
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.run(_feeds(toy_bundle, "unet", 2))


def test_without_openvino_the_device_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    with pytest.raises(DeviceError, match="not installed") as caught:
        devices.choose_device("openvino")
    assert "riffusion-rt[openvino]" in caught.value.hint
    assert devices.choose_device("auto").name != "openvino"


def test_an_import_that_fails_names_the_command(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise MissingExtraError("OpenVINO is not installed, or does not load", hint=devices.INSTALL_OPENVINO)

    monkeypatch.setattr(openvino_session, "_import_openvino", refuse)
    with pytest.raises(MissingExtraError, match="OpenVINO"):
        OpenVinoSession(toy_bundle, Manifest.read(toy_bundle).graph("unet"))


def test_the_same_seed_makes_the_same_clip_and_nearly_the_cpus(toy_bundle: Path) -> None:
    pictures = {}
    for device in ("openvino", "cpu"):
        with Riffusion(toy_bundle, device=device) as riffusion:
            clips = [riffusion.generate("bells", seed=3, steps=4) for _ in range(2)]
        first, again = (np.asarray(clip.image, np.int16) for clip in clips)
        np.testing.assert_array_equal(first, again)
        pictures[device] = first
    assert np.abs(pictures["openvino"] - pictures["cpu"]).mean() < 2
