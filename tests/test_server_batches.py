"""Shared runs of the UNet: rows of every request meet, each gets its own prediction, and nobody is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import DeviceError, RequestError
from riffusion_engine.manifest import GraphSpec, TensorSpec
from riffusion_rt import ClipRequest, Riffusion
from riffusion_rt.pipeline import StepProgress
from riffusion_rt.server.engine_owner import EngineOwner
from riffusion_rt.server.unet_batches import Ticket, UNetBatches, WorkCancelled

GRAPH = GraphSpec(
    path="unet/model.onnx",
    inputs=(
        TensorSpec(name="sample", dtype="float32", shape=("batch", 1, 2, 2)),
        TensorSpec(name="timestep", dtype="float32", shape=("timestep_batch",)),
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "tokens", 3)),
    ),
    outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", 1, 2, 2)),),
    weights_dtype="float32",
    compute_dtype="float32",
    parity={},
)


class Arithmetic:
    """A network whose every row can be checked: sample × timestep + first entry of the embedding."""

    graph = GRAPH
    provider = "arithmetic"

    def __init__(self, seconds: float = 0.0, gate: threading.Event | None = None) -> None:
        self.batches: list[list[float]] = []
        self.seconds, self.gate = seconds, gate

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.batches.append(feeds["encoder_hidden_states"][:, 0, 0].tolist())
        if self.gate is not None:
            self.gate.wait(5)
        time.sleep(self.seconds)
        if (feeds["encoder_hidden_states"] == 13).any():
            raise DeviceError("Thirteen", hint="Another number")
        return {"out_sample": expected(feeds)}

    def close(self) -> None: ...

    def __enter__(self) -> Arithmetic:
        return self

    def __exit__(self, *_: object) -> None: ...


def expected(feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    timestep = np.broadcast_to(feeds["timestep"], len(feeds["sample"])).reshape(-1, 1, 1, 1)
    return feeds["sample"] * timestep + feeds["encoder_hidden_states"][:, :1, :1, None]


def asked(mark: float, *, rows: int = 1, tokens: int = 2, timestep: float = 1.0) -> dict[str, NDArray[Any]]:
    return {
        "sample": np.random.default_rng(int(mark)).normal(size=(rows, 1, 2, 2)).astype(np.float32),
        "timestep": np.full(1, timestep, np.float32),
        "encoder_hidden_states": np.full((rows, tokens, 3), mark, np.float32),
    }


@contextmanager
def batches(unet: Arithmetic, **settings: int) -> Iterator[UNetBatches]:
    shared = UNetBatches(unet, **settings)
    try:
        yield shared
    finally:
        shared.close()


def held_up(unet: Arithmetic, shared: UNetBatches, *work: Callable[[], object]) -> list[Any]:
    """Results of calls that all wait while the network is busy with another one."""
    assert unet.gate is not None
    with ThreadPoolExecutor(len(work) + 1) as pool:
        pool.submit(shared.predict, Ticket("first"), asked(0))
        while not unet.batches:
            time.sleep(0.001)
        results = []
        for each in work:
            before = shared.counts.waiting_rows
            results.append(pool.submit(each))
            until = time.monotonic() + 2
            while shared.counts.waiting_rows == before and time.monotonic() < until:
                time.sleep(0.001)
        unet.gate.set()
    return results


def test_rows_at_different_steps_share_a_run_and_each_gets_its_own() -> None:
    unet = Arithmetic(gate=threading.Event())
    feeds = [asked(mark, timestep=100.0 * mark) for mark in (1, 2, 3)]
    with batches(unet) as shared:
        results = held_up(
            unet, shared, *(lambda f=f, n=n: shared.predict(Ticket(str(n)), f) for n, f in enumerate(feeds))
        )
        for future, feed in zip(results, feeds, strict=True):
            np.testing.assert_array_equal(future.result()["out_sample"], expected(feed))
        assert unet.batches == [[0], [1, 2, 3]]
        assert shared.counts.shared_runs == 1


def test_prompts_of_other_lengths_never_share_a_run() -> None:
    unet = Arithmetic(gate=threading.Event())
    with batches(unet) as shared:
        for future in held_up(
            unet,
            shared,
            lambda: shared.predict(Ticket("a"), asked(1)),
            lambda: shared.predict(Ticket("b"), asked(2, tokens=4)),
        ):
            future.result()
    assert sorted(map(tuple, unet.batches)) == [(0,), (1,), (2,)]


def test_a_large_prediction_is_cut_to_the_rows_of_a_run_and_put_together_again() -> None:
    unet, feeds = Arithmetic(), asked(5, rows=11)
    with batches(unet, rows_at_once=4) as shared:
        result = shared.predict(Ticket("a"), feeds)["out_sample"]
    np.testing.assert_array_equal(result, expected(feeds))
    assert [len(batch) for batch in unet.batches] == [4, 4, 3]


def test_idle_lanes_divide_the_rows_of_a_lone_request() -> None:
    unet, feeds = Arithmetic(seconds=0.02), asked(5, rows=2)
    with batches(unet, lanes=2) as shared:
        result = shared.predict(Ticket("a"), feeds)["out_sample"]
    np.testing.assert_array_equal(result, expected(feeds))
    assert [len(batch) for batch in unet.batches] == [1, 1]


def test_a_client_with_many_requests_does_not_keep_another_waiting() -> None:
    unet = Arithmetic(gate=threading.Event())
    with batches(unet, rows_at_once=2) as shared:
        greedy = [lambda: shared.predict(Ticket("greedy"), asked(1)) for _ in range(6)]
        for future in held_up(unet, shared, *greedy, lambda: shared.predict(Ticket("modest"), asked(2))):
            future.result()
    assert 2 in unet.batches[1]


def test_a_live_session_is_served_more_often_but_does_not_starve_jobs() -> None:
    unet = Arithmetic(gate=threading.Event())
    with batches(unet, rows_at_once=1) as shared:
        live = [lambda: shared.predict(Ticket("live", live=True), asked(1)) for _ in range(8)]
        jobs = [lambda: shared.predict(Ticket("job"), asked(2)) for _ in range(4)]
        for future in held_up(unet, shared, *jobs, *live):
            future.result()
    served = [batch[0] for batch in unet.batches[1:]]
    assert served[:7].count(1) >= 5
    assert 2 in served[:7]


def test_cancelled_work_leaves_before_the_next_run() -> None:
    unet, ticket = Arithmetic(gate=threading.Event()), Ticket("a")
    with batches(unet) as shared:

        def cancel() -> None:
            shared.cancel(ticket)
            assert shared.counts.waiting_rows == 0

        gone, _ = held_up(unet, shared, lambda: shared.predict(ticket, asked(1)), cancel)
        with pytest.raises(WorkCancelled):
            gone.result()
        with pytest.raises(WorkCancelled):
            shared.predict(ticket, asked(1))
    assert unet.batches == [[0]]


def test_a_failing_request_fails_alone() -> None:
    unet = Arithmetic(gate=threading.Event())
    with batches(unet) as shared:
        bad, good = held_up(
            unet,
            shared,
            lambda: shared.predict(Ticket("a"), asked(13)),
            lambda: shared.predict(Ticket("b"), asked(2)),
        )
        with pytest.raises(DeviceError, match="Thirteen"):
            bad.result()
        np.testing.assert_array_equal(good.result()["out_sample"], expected(asked(2)))
        shared.predict(Ticket("c"), asked(3))


def test_wrong_feeds_are_refused_before_they_meet_others() -> None:
    with batches(Arithmetic()) as shared, pytest.raises(RequestError, match="sample"):
        shared.predict(Ticket("a"), {**asked(1), "sample": np.zeros((1, 3, 2, 2), np.float32)})


def test_closing_fails_what_waits_and_refuses_what_comes() -> None:
    unet = Arithmetic(gate=threading.Event())
    shared = UNetBatches(unet)
    with ThreadPoolExecutor(3) as pool:
        pool.submit(shared.predict, Ticket("a"), asked(0))
        while not unet.batches:
            time.sleep(0.001)
        waiting = pool.submit(shared.predict, Ticket("b"), asked(1))
        while not shared.counts.waiting_rows:
            time.sleep(0.001)
        closing = pool.submit(shared.close)
        with pytest.raises(DeviceError):
            waiting.result(5)
        assert unet.gate is not None
        unet.gate.set()
        closing.result(5)
    with pytest.raises(DeviceError):
        shared.predict(Ticket("c"), asked(2))


def test_requests_that_share_runs_give_the_librarys_own_results(toy_bundle: Path) -> None:
    requests = [
        ClipRequest("funky piano", seed=1, steps=6),
        ClipRequest("church bells", seed=2, steps=9, guidance=3.5, sampler="euler-a"),
        ClipRequest("jazz", seed=3, steps=4, guidance=1.0),
        ClipRequest("blues", "drums", 4, steps=7, seed_image="beat-94", strength=0.6),
        ClipRequest("long", seed=5, steps=5, duration_s=1.5),
    ]
    with Riffusion(toy_bundle, device="cpu", threads=1) as alone:
        wanted = [latents_of(alone.iterate(request)) for request in requests]
    with EngineOwner(toy_bundle, device="cpu", lanes=1) as owner, ThreadPoolExecutor(8) as pool:
        from riffusion_rt.pipeline import iterate_clip

        barrier = threading.Barrier(len(requests))

        def shared(number: int) -> NDArray[np.float32]:
            model = owner.model_for(Ticket(f"client {number}"))
            barrier.wait(5)
            return latents_of(iterate_clip(model, requests[number]))

        results = list(pool.map(shared, range(len(requests))))
        assert owner.counts.shared_runs > 0
    for made, own in zip(results, wanted, strict=True):
        np.testing.assert_allclose(made, own, rtol=1e-5, atol=1e-5)


def latents_of(events: Iterator[Any]) -> NDArray[np.float32]:
    return [event.latents for event in events if isinstance(event, StepProgress)][-1]
