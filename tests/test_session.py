"""Sessions run a bundle's graphs, check what they are fed, and never change the device silently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine import onnxruntime_session
from riffusion_engine.errors import BundleError, DeviceError, NumericsError, RequestError
from riffusion_engine.manifest import Manifest
from riffusion_engine.session import Session, open_session, prepare_feeds, require_finite

Feeds = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def unet(toy_bundle: Path) -> Iterator[Session]:
    with open_session(
        toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="cpu", threads=1
    ) as session:
        yield session


def _feeds(batch: int = 2, tokens: int = 77) -> Feeds:
    draw = np.random.default_rng(batch)
    return {
        "sample": draw.standard_normal((batch, 4, 8, 8), dtype=np.float32),
        "timestep": np.linspace(1, 981, batch, dtype=np.float32),
        "encoder_hidden_states": draw.standard_normal((batch, tokens, 32), dtype=np.float32),
    }


def test_every_graph_of_the_bundle_opens_and_runs(toy_bundle: Path) -> None:
    for graph in Manifest.read(toy_bundle).graphs.values():
        sizes = {"batch": 2, "timestep_batch": 2, "tokens": 77}
        feeds = {
            spec.name: np.ones([sizes.get(str(axis), axis) for axis in spec.shape], spec.dtype)
            for spec in graph.inputs
        }
        with open_session(toy_bundle, graph, device="cpu", threads=1) as session:
            outputs = session.run(feeds)
        for spec in graph.outputs:
            assert outputs[spec.name].shape == tuple(sizes.get(str(axis), axis) for axis in spec.shape)
            assert outputs[spec.name].dtype == spec.dtype


def test_a_session_tells_what_runs_it(unet: Session, toy_bundle: Path) -> None:
    assert unet.provider == "CPUExecutionProvider"
    assert unet.graph == Manifest.read(toy_bundle).graph("unet")


def test_samples_of_a_batch_do_not_touch_each_other(unet: Session) -> None:
    feeds = _feeds(3)
    together = unet.run(feeds)["out_sample"]
    for index in range(3):
        alone = unet.run({name: array[index : index + 1] for name, array in feeds.items()})["out_sample"]
        np.testing.assert_allclose(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_timestep_serves_the_whole_batch(shape: tuple[int, ...], unet: Session) -> None:
    feeds = {**_feeds(3), "timestep": np.full(3, 500, np.float32)}
    expected = unet.run(feeds)["out_sample"]
    got = unet.run({**feeds, "timestep": np.full(shape, 500, np.int64)})["out_sample"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_each_sample_may_have_its_own_timestep(unet: Session) -> None:
    feeds = {name: np.repeat(array[:1], 2, axis=0) for name, array in _feeds(2).items()}
    first, second = unet.run({**feeds, "timestep": np.array([1.0, 981.0])})["out_sample"]
    assert np.abs(first - second).max() > 1e-3


def test_a_long_prompt_is_read_to_its_end(unet: Session) -> None:
    feeds = _feeds(1, tokens=154)
    whole = unet.run(feeds)["out_sample"]
    feeds["encoder_hidden_states"][:, 100:] *= -1
    assert np.abs(unet.run(feeds)["out_sample"] - whole).max() > 1e-4


def test_float64_feeds_are_cast_to_the_declared_type(unet: Session) -> None:
    feeds = _feeds()
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    np.testing.assert_array_equal(unet.run(wide)["out_sample"], unet.run(feeds)["out_sample"])


def test_a_run_leaves_its_feeds_alone(unet: Session) -> None:
    feeds = _feeds()
    kept = {name: array.copy() for name, array in feeds.items()}
    unet.run(feeds)
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("name", "feed", "said"),
    [
        ("sample", np.zeros((2, 4, 8, 9), np.float32), "shape"),
        ("sample", np.zeros((2, 4, 8), np.float32), "shape"),
        ("sample", np.zeros((0, 4, 8, 8), np.float32), "shape"),
        ("sample", np.zeros((2, 4, 8, 8), np.complex64), "complex64"),
        ("encoder_hidden_states", np.zeros((3, 77, 32), np.float32), "shape"),
        ("timestep", np.zeros(3, np.float32), "batch of 2"),
        ("timestep", np.array(["late"]), "must be float32"),
        ("timestep", np.ones(1, np.bool_), "bool"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused_by_name(
    name: str, feed: NDArray[Any], said: str, unet: Session
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        unet.run({**_feeds(), name: feed})
    assert "unet/model.onnx" in caught.value.message


def test_missing_and_unknown_feeds_are_named(unet: Session) -> None:
    feeds = _feeds()
    del feeds["timestep"]
    with pytest.raises(RequestError, match="timestep"):
        unet.run(feeds)
    with pytest.raises(RequestError, match="mood"):
        unet.run({**_feeds(), "mood": np.zeros(1)})


def test_ids_are_never_rounded_from_floats(toy_bundle: Path) -> None:
    graph = Manifest.read(toy_bundle).graph("text_encoder")
    assert prepare_feeds(graph, {"input_ids": np.zeros((1, 77), np.int64)})["input_ids"].dtype == np.int32
    with pytest.raises(RequestError, match="int32"):
        prepare_feeds(graph, {"input_ids": np.zeros((1, 77), np.float32)})


def test_a_closed_session_says_so(toy_bundle: Path) -> None:
    session = open_session(toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="cpu")
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.run(_feeds())


def test_a_provider_that_did_not_take_the_graph_is_an_error(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Manifest.read(toy_bundle).graph("unet")
    monkeypatch.setattr(onnxruntime_session, "_provider_list", lambda *_: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="CPUExecutionProvider where CUDAExecutionProvider was asked for"):
        onnxruntime_session.OnnxRuntimeSession(toy_bundle, graph, device="cuda")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(threads: int, toy_bundle: Path) -> None:
    with pytest.raises(RequestError, match="threads"):
        open_session(toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="cpu", threads=threads)


def _remove_graph(bundle: Path) -> None:
    (bundle / "vae_decoder" / "model.onnx").unlink()


def _remove_weights(bundle: Path) -> None:
    (bundle / "vae_decoder" / "diffusion_pytorch_model.safetensors").unlink()


def _truncate_weights(bundle: Path) -> None:
    path = bundle / "vae_decoder" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:4096])


def _scramble_graph(bundle: Path) -> None:
    (bundle / "vae_decoder" / "model.onnx").write_bytes(b"this is no graph" * 64)


def _swap_graph(bundle: Path) -> None:
    shutil.copytree(bundle / "vae_encoder", bundle / "vae_decoder", dirs_exist_ok=True)


@pytest.mark.parametrize(
    "damage", [_remove_graph, _remove_weights, _truncate_weights, _scramble_graph, _swap_graph]
)
def test_damaged_files_are_a_bundle_error_in_one_line(
    damage: Any, toy_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    damage(bundle)
    with pytest.raises(BundleError, match="vae_decoder") as caught:
        open_session(bundle, Manifest.read(bundle).graph("vae_decoder"), device="cpu")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_finite_arrays_pass_untouched() -> None:
    array = np.array([3e38, 3e38, -1.0], np.float32)  # Its float32 sum overflows.
    assert require_finite(array, "latents") is array
    assert require_finite(np.arange(3), "ids").sum() == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinity_are_counted(bad: float, dtype: type, tmp_path: Path) -> None:
    array = np.zeros(1000, dtype)
    array[[3, 500]] = bad
    with pytest.raises(NumericsError, match="latents holds 2 values of 1,000"):
        require_finite(array, "latents")


def test_opposite_infinities_do_not_cancel() -> None:
    with pytest.raises(NumericsError):
        require_finite(np.array([np.inf, -np.inf], np.float32), "latents")


def test_the_manifest_lists_every_file_a_session_reads(toy_bundle: Path) -> None:
    listed = set(json.loads((toy_bundle / "riffusion.json").read_text())["files"])
    found = {path.relative_to(toy_bundle).as_posix() for path in toy_bundle.rglob("*") if path.is_file()}
    assert listed == found - {"riffusion.json"}
