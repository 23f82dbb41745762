"""Deep features used again: two graphs that are one UNet, and walks that compute fewer layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError, DeviceError, RequestError
from riffusion_engine.feature_reuse import DEEP_FEATURES, from_deep_features, with_deep_features
from riffusion_engine.graph_bytes import Graph
from riffusion_engine.manifest import Manifest
from riffusion_engine.reusing_session import ReusingSession, check_reuse
from riffusion_engine.session import open_session
from riffusion_rt import Riffusion


def _feeds(batch: int = 2, seed: int = 0, timestep: float = 500) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return {
        "sample": draw.standard_normal((batch, 4, 8, 8), np.float32),
        "timestep": np.full(batch, timestep, np.float32),
        "encoder_hidden_states": draw.standard_normal((batch, 77, 32), np.float32),
    }


def _open(bundle: Path, every: int = 3, layers: int = 1, *, fused: bool = False) -> ReusingSession:
    graph = Manifest.read(bundle).graph("unet")
    return ReusingSession(bundle, graph, device="cpu", every=every, layers=layers, threads=1, fused=fused)


def _graph(bundle: Path) -> Graph:
    return Graph.read((bundle / Manifest.read(bundle).graph("unet").path).read_bytes())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_with_fresh_features_the_small_graph_ends_as_the_whole_one(
    toy_bundle: Path, layers: int, fused: bool
) -> None:
    feeds = _feeds()
    with _open(toy_bundle, layers=layers, fused=fused) as session:
        whole = session._whole.run(feeds)
        end = session._shallow.run({**feeds, DEEP_FEATURES: whole[DEEP_FEATURES]})
    np.testing.assert_allclose(end["out_sample"], whole["out_sample"], rtol=1e-4, atol=1e-5)


def test_more_layers_are_more_work_and_all_of_it_less_than_the_whole(toy_bundle: Path) -> None:
    graph = _graph(toy_bundle)
    sizes = [len(from_deep_features(graph, layers).nodes) for layers in (1, 2, 3)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < len(graph.nodes) < len(with_deep_features(graph).nodes)


def test_features_are_computed_at_every_nth_step_and_at_a_change_of_batch(toy_bundle: Path) -> None:
    with (
        _open(toy_bundle, every=3) as session,
        open_session(toy_bundle, session.graph, device="cpu", threads=1) as plain,
    ):
        walk = session.begin()
        for step, batch in enumerate([2, 2, 2, 2, 1, 1, 2]):
            feeds = _feeds(batch, seed=step, timestep=900 - 100 * step)
            exact = np.allclose(
                walk.run(feeds)["out_sample"], plain.run(feeds)["out_sample"], rtol=1e-3, atol=1e-4
            )
            assert exact == (step in (0, 3, 4, 6)), step


def test_a_new_walk_knows_nothing_of_the_one_before(toy_bundle: Path) -> None:
    feeds = _feeds()
    with _open(toy_bundle) as session:
        session.begin().run(_feeds(seed=9))
        first = session.begin().run(feeds)["out_sample"]
        np.testing.assert_array_equal(first, session.run(feeds)["out_sample"])


def test_a_clip_comes_near_the_one_of_all_features(toy_bundle: Path) -> None:
    latents = {}
    for reuse in (1, 2):
        with Riffusion(toy_bundle, device="cpu", threads=1, reuse=reuse) as riffusion:
            *_, last, _ = riffusion.iterate(_request())
            latents[reuse] = last.latents  # type: ignore[union-attr]
    apart = np.linalg.norm(latents[2] - latents[1]) / np.linalg.norm(latents[1])
    assert 0 < apart < 0.5


def _request() -> Any:
    from riffusion_rt import ClipRequest

    return ClipRequest("bells", seed=1, steps=8)


@pytest.mark.parametrize("every", [0, 1, 11, 2.5])
def test_what_cannot_be_is_refused_before_anything_opens(toy_bundle: Path, every: float) -> None:
    with pytest.raises(RequestError, match="2nd to 10th"):
        check_reuse("cpu", every)  # type: ignore[arg-type]


def test_devices_that_open_other_files_refuse_it() -> None:
    with pytest.raises(DeviceError, match="deep features"):
        check_reuse("trt", 2)


def test_a_graph_without_so_many_layers_is_refused(toy_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no 99 last layers"):
        from_deep_features(_graph(toy_bundle), 99)
