"""A batch of a small graph is run in lanes, a core for each, and gives what all cores together give."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine import laned_session
from riffusion_engine.errors import DeviceError
from riffusion_engine.laned_session import LanedSession, LaneForm, rows_of
from riffusion_engine.manifest import Manifest
from riffusion_engine.onnxruntime_session import OnnxRuntimeSession
from riffusion_engine.session import Session, open_session
from riffusion_rt.models import locate_model
from riffusion_rt.open_model import OpenModel
from riffusion_rt.pipeline import decode_picture, decode_pictures

Feeds = dict[str, NDArray[Any]]
LANES = 2


def _feeds(bundle: Path, name: str, batch: int) -> Feeds:
    draw = np.random.default_rng(batch)
    sizes = {"batch": batch, "timestep_batch": 1, "tokens": 77}
    return {
        spec.name: draw.random([sizes.get(str(axis), axis) for axis in spec.shape], np.float32)
        for spec in Manifest.read(bundle).graph(name).inputs
    }


def _distance(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def _laned(bundle: Path, name: str, threads: int = LANES) -> LanedSession:
    session = open_session(bundle, Manifest.read(bundle).graph(name), device="cpu", threads=threads)
    assert isinstance(session, LanedSession)
    return session


class _Watched:
    """A lane that notes the rows that it was given, and the threads that they came from."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.graph, self.provider, self.close = session.graph, session.provider, session.close
        self.rows: list[int] = []
        self.callers: set[str] = set()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.rows.append(len(next(iter(feeds.values()))))
        self.callers.add(threading.current_thread().name)
        return self._session.run(feeds)


@pytest.mark.parametrize(
    ("name", "batch", "dealt"),
    [("unet", 2, []), ("unet", 4, [2, 2]), ("unet", 7, [2, 2]), ("vae_decoder", 5, [1, 1, 1, 1])],
)
def test_rows_go_to_lanes_and_what_is_left_over_to_all_cores(
    name: str, batch: int, dealt: list[int], toy_bundle: Path
) -> None:
    graph, feeds = Manifest.read(toy_bundle).graph(name), _feeds(toy_bundle, name, batch)
    lane = _Watched(OnnxRuntimeSession(toy_bundle, graph, device="cpu", threads=1))
    whole = OnnxRuntimeSession(toy_bundle, graph, device="cpu", threads=LANES)
    output = graph.outputs[0].name
    with LanedSession(whole, lambda _: lane, LANES) as session:
        got, wanted = session.run(feeds)[output], whole.run(feeds)[output]
    assert lane.rows == dealt
    assert all(caller.startswith("lane") for caller in lane.callers)
    assert got.shape == wanted.shape
    assert _distance(got, wanted) < 1e-5


def test_lanes_of_the_default_model_compute_what_one_clip_does() -> None:
    """Their UNet is rewritten: at its real size, where convolutions are filtered minimally."""
    bundle = locate_model("riffusion-mini")
    feeds = _feeds(bundle, "unet", 4)
    with _laned(bundle, "unet") as session:
        together = session.run(feeds)["out_sample"]
        alone = [session.run(rows_of(feeds, row, row + 1))["out_sample"] for row in range(4)]
        lane = session._lane
        assert isinstance(lane, OnnxRuntimeSession) and any("minimal" in name for name in lane._fed)
    assert _distance(together, np.concatenate(alone)) < 5e-6


def test_a_single_clip_opens_no_lanes(toy_bundle: Path) -> None:
    opened: list[LaneForm] = []

    def refuse(form: LaneForm) -> Session:
        opened.append(form)
        raise AssertionError

    graph = Manifest.read(toy_bundle).graph("unet")
    with LanedSession(OnnxRuntimeSession(toy_bundle, graph, device="cpu"), refuse, LANES) as session:
        session.run(_feeds(toy_bundle, "unet", 2))
    assert not opened


def test_one_core_large_graphs_and_others_have_no_lanes(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Manifest.read(toy_bundle).graphs
    for name, threads in (("unet", 1), ("text_encoder", LANES), ("vae_encoder", LANES)):
        with open_session(toy_bundle, graphs[name], device="cpu", threads=threads) as session:
            assert not isinstance(session, LanedSession)
    with open_session(toy_bundle, graphs["unet"], device="cpu", threads=LANES, low_memory=True) as session:
        assert not isinstance(session, LanedSession)
    monkeypatch.setattr(laned_session, "MOST_WEIGHTS", 1)
    with open_session(toy_bundle, graphs["unet"], device="cpu", threads=LANES) as session:
        assert not isinstance(session, LanedSession)


def test_threads_may_share_it(toy_bundle: Path) -> None:
    feeds = [_feeds(toy_bundle, "unet", batch) for batch in (4, 6, 8)]
    found: dict[int, NDArray[Any]] = {}
    with _laned(toy_bundle, "unet") as session:
        wanted = [session.run(each)["out_sample"] for each in feeds]

        def ask(index: int) -> None:
            found[index] = session.run(feeds[index])["out_sample"]

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(feeds))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, output in enumerate(wanted):
        np.testing.assert_array_equal(found[index], output)


def test_a_lane_that_fails_fails_the_run_and_the_next_one_runs(toy_bundle: Path) -> None:
    class Failing(_Watched):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            if not self.rows:
                self.rows.append(0)
                raise DeviceError("No memory", hint="Use a smaller batch")
            return super().run(feeds)

    graph, feeds = Manifest.read(toy_bundle).graph("unet"), _feeds(toy_bundle, "unet", 4)
    lane = Failing(OnnxRuntimeSession(toy_bundle, graph, device="cpu", threads=1))
    with LanedSession(OnnxRuntimeSession(toy_bundle, graph, device="cpu"), lambda _: lane, LANES) as session:
        with pytest.raises(DeviceError, match="No memory"):
            session.run(feeds)
        assert np.isfinite(session.run(feeds)["out_sample"]).all()


def test_a_closed_one_says_so(toy_bundle: Path) -> None:
    session = _laned(toy_bundle, "unet")
    session.run(_feeds(toy_bundle, "unet", 4))
    session.close()
    with pytest.raises(DeviceError, match="closed"):
        session.run(_feeds(toy_bundle, "unet", 4))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pictures_decoded_together_are_those_decoded_alone(count: int, toy_bundle: Path) -> None:
    model = OpenModel(toy_bundle, device="cpu", threads=LANES)
    spec = model.manifest.latent
    shape = (count, spec.channels, spec.height, spec.width)
    latents = np.random.default_rng(count).standard_normal(shape, np.float32)
    together = decode_pictures(model, latents)
    alone = np.stack([decode_picture(model, latents[i : i + 1]) for i in range(count)])
    model.close()
    assert together.shape == alone.shape
    assert np.abs(together.astype(int) - alone).max() <= 1
