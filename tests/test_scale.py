"""The server on a cluster: the same answers, nothing lost with a node, and a new model without a gap."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray_cluster import Halfway, at_once, client_of, free_port, two_nodes
from toy_server import done

pytest.importorskip("ray", reason="Ray is not installed: pip install 'riffusion-rt[scale]'")
pytest.importorskip("fastapi")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic.

CLUSTER = {"least": 2, "most": 2, "gpus": 1, "cpus": 1, "at_once": 4, "live": 2}
"""One engine on each node."""

MOST_OF_A_CLIENT = 12


class Served:
    """A cluster that serves, and its second node."""

    def __init__(self, cluster: Any, bundle: Path, port: int) -> None:
        self.cluster, self.bundle, self.port = cluster, bundle, port

    def client(self, name: str = "test") -> AbstractContextManager[httpx.Client]:
        """Who asks."""
        return client_of(self.port, name)

    def door(self) -> Any:
        """Serve's handle of the ingress."""
        from ray import serve

        return serve.get_app_handle("riffusion-door")


@pytest.fixture(scope="module")
def served(toy_bundle: Path) -> Iterator[Served]:
    from riffusion_rt.scale.applications import door, engines
    from riffusion_rt.scale.starting import deploy

    port = free_port()
    with two_nodes() as cluster:
        own = {"model": str(toy_bundle), "device": "cpu", "lanes": 1, "drain_s": 20}
        limits = {
            "client_header": "X-Client",
            "requests_a_minute": 100_000,
            "most_queued_per_client": MOST_OF_A_CLIENT,
        }
        deploy(
            engines({**own, "cluster": CLUSTER}),
            door({**limits, "cluster": CLUSTER}),
            host="127.0.0.1",
            port=port,
        )
        yield Served(cluster, toy_bundle, port)


def test_the_sample_configuration_is_one_that_serve_takes_and_builds() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from riffusion_rt.scale import applications
    from riffusion_rt.scale.cluster_settings import DOOR, ENGINES

    text = (Path(__file__).parents[1] / "docs" / "cluster.yaml").read_text()
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert [each.name for each in schema.applications] == [ENGINES, DOOR]
    for each in schema.applications:
        module, _, name = each.import_path.partition(":")
        assert module == applications.__name__
        assert getattr(applications, name)(each.args)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cluster": {"least": 3, "most": 2}},
        {"cluster": {"gpu": 1}},
        {"cluster": {"cpus": -1}},
        {"modle": "x"},
    ],
)
def test_a_configuration_that_cannot_be_is_refused_before_anything_starts(wrong: dict[str, Any]) -> None:
    from riffusion_engine.errors import RequestError
    from riffusion_rt.scale.applications import door, engines

    for application in (engines, door):
        with pytest.raises(RequestError):
            application(wrong)


@pytest.mark.parametrize(("text", "expected"), [("3", (3, 3)), ("1:8", (1, 8))])
def test_replicas_are_a_number_or_two(text: str, expected: tuple[int, int]) -> None:
    from riffusion_rt.scale.cluster_settings import parse_replicas

    assert parse_replicas(text) == expected


def test_a_session_whose_engine_dies_is_told_and_ends() -> None:
    from riffusion_rt.scale.cluster_live import RemoteSession
    from riffusion_rt.scale.engine_calls import EngineCall, EngineLost

    dying, told = threading.Event(), []

    class Owner:
        """Has one call, whose engine dies."""

        def begin(self, ticket: object) -> EngineCall:
            call = EngineCall(Any, "")  # type: ignore[arg-type]

            def events(*_: object) -> Iterator[tuple[Any, ...]]:
                yield ("opened", "an-id")
                dying.wait(10)
                raise EngineLost("The engine that was at this died", hint="-")

            call.events = events  # type: ignore[method-assign, assignment]
            return call

        def end(self, ticket: object) -> None:
            """It is over."""

    session = RemoteSession(Owner(), Any, "s16le")  # type: ignore[arg-type]
    session.wait_until_open()
    session.attach(told.append)
    dying.set()
    session.join()
    assert session.over
    assert told[0]["type"] == "error"
    assert "died" in told[0]["message"]
    assert told[-1] is None


def test_without_ray_the_verb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from riffusion_engine.errors import MissingExtraError
    from riffusion_rt.scale.starting import LOCAL, cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="Ray") as refused, cluster(LOCAL):
        pass
    assert "riffusion-rt[scale]" in str(refused.value)


def test_a_clip_from_the_cluster_is_the_clip_that_one_machine_makes(served: Served) -> None:
    from riffusion_rt import Riffusion

    with served.client() as client:
        job = done(client, client.post("/api/v1/generate", json={"prompt": "bells", "seed": 5, "steps": 3}))
        sound = client.get(job["result"]["audio"]["wav"]).content
    with Riffusion(served.bundle, device="cpu", threads=1) as alone:
        expected = alone.generate("bells", seed=5, steps=3).samples
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
    assert np.abs(samples.T - expected).max() < 1e-3


def test_the_page_the_docs_and_the_ranges_are_the_servers_own(served: Served) -> None:
    with served.client() as client:
        assert "<html" in client.get("/").text
        assert "/api/v1/generate" in client.get("/openapi.json").json()["paths"]
        assert client.get("/schema").json()["model"]["device"] == "cpu"
        assert "riffusion_jobs_queued" in client.get("/metrics").text


def test_who_asks_for_too_much_is_told_when_to_come_again(served: Served) -> None:
    accepted = []
    with served.client("greedy") as client:
        for seed in range(20 * MOST_OF_A_CLIENT):
            answer = client.post("/api/v1/generate", json={"prompt": "slow", "steps": 400, "seed": seed})
            if answer.status_code != 202:
                break
            accepted.append(answer.json()["url"])
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        for url in accepted:
            client.delete(url)
        ended = [client.get(url, params={"wait": 30}).json()["status"] for url in accepted]
    assert set(ended) <= {"cancelled", "done"}
    assert ended.count("cancelled") >= MOST_OF_A_CLIENT // 2


def test_what_is_wrong_with_a_request_is_told_as_ever(served: Served) -> None:
    with served.client() as client:
        answer = client.post("/api/v1/generate", json={"prompt": "x", "steps": 0})
        assert answer.status_code == 422
        assert client.get("/api/v1/jobs/no-such-job-here").status_code == 404


def test_a_recording_that_was_sent_to_the_door_reaches_the_engine(served: Served) -> None:
    import soundfile

    buffer, times = io.BytesIO(), np.arange(44100) / 44100
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 220 * times), 44100, format="FLAC")
    request = json.dumps({"prompt": "bells", "steps": 2, "strength": 0.5})
    with served.client() as client:
        files: Any = {"audio": ("sound.flac", buffer.getvalue()), "request": (None, request)}
        job = done(client, client.post("/api/v1/remix", files=files))
    assert job["status"] == "done", job
    assert job["result"]["duration_s"] == pytest.approx(1.0, abs=0.1)


def test_a_dropped_live_session_goes_on_in_the_engine_that_plays_it(served: Served) -> None:
    with served.client() as client:
        client.get("/readyz")
    with _line(served) as line:
        _say(line, {"type": "setup", "prompts": [{"text": "piano"}], "seed": 1, "config": {"steps": 2}})
        ready = _heard(line, "ready")
        _say(line, {"type": "play"})
        first = _block(line)
        line.socket.shutdown(2)
    with _line(served) as line:
        _say(line, {"type": "setup", "prompts": [{"text": "x"}], "session": ready["session"]})
        assert _heard(line, "ready")["session"] == ready["session"]
        again = _block(line)
        assert again == first, "what was sent is sent again, from the frame asked for"
        with served.client() as client:
            picture = client.get(first["picture"])
        assert picture.content.startswith(b"\x89PNG")
        _say(line, {"type": "prompts", "prompts": [{"text": "bells", "weight": 0}]})
        assert "prompt" in _heard(line, "error")["message"]


def test_with_a_node_nothing_accepted_is_lost_and_nothing_made_twice(served: Served) -> None:
    _load_with_a_node_killed(served, 40)


@pytest.mark.thorough
def test_of_200_requests_with_a_node_killed_halfway_every_one_is_done_once(served: Served) -> None:
    _second_node_again(served)
    _load_with_a_node_killed(served, 200)


@pytest.mark.thorough
def test_a_new_model_takes_over_without_a_request_dropped(served: Served, tmp_path: Path) -> None:
    from riffusion_rt.scale.applications import engines
    from riffusion_rt.scale.starting import deploy

    _second_node_again(served)
    other = tmp_path / "other"
    shutil.copytree(served.bundle, other)
    manifest = json.loads((other / "riffusion.json").read_text())
    manifest["name"] = "the-new-model"
    (other / "riffusion.json").write_text(json.dumps(manifest))
    over, failures, made = threading.Event(), [], []

    def ask(number: int) -> None:
        with served.client(f"upgrade-{number}") as client:
            seed = number * 100_000
            while not over.is_set():
                seed += 1
                answer = client.post("/api/v1/generate", json={"prompt": "on", "seed": seed, "steps": 4})
                job = done(client, answer, 120) if answer.status_code == 202 else {"status": answer.text}
                (made if job["status"] == "done" else failures).append(job)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in asking:
        thread.start()
    own = {"model": str(other), "device": "cpu", "lanes": 1, "drain_s": 20}
    deploy(engines({**own, "cluster": CLUSTER}), None, host="127.0.0.1", port=served.port)
    before = len(made)
    threading.Event().wait(3)
    over.set()
    for thread in asking:
        thread.join()
    assert not failures
    assert before > 0
    assert len(made) > before
    with served.client() as client:
        done(client, client.post("/api/v1/generate", json={"prompt": "after", "seed": 1, "steps": 2}))
        assert client.get("/schema").json()["model"]["name"] == "the-new-model"


@pytest.mark.thorough
def test_the_verb_serves_over_ray_and_finishes_what_it_accepted_when_told_to_end(toy_bundle: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--ray", "--model", str(toy_bundle)]
    process = subprocess.Popen([*command, "--device", "cpu", "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until = time.monotonic() + 240
            while not _is_ready(client):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.5)
            answer = client.post("/api/v1/generate", json={"prompt": "last", "steps": 200})
            process.terminate()
            job = done(client, answer, 120)
            assert job["status"] == "done"
            assert client.get(job["result"]["audio"]["wav"]).status_code == 200
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _load_with_a_node_killed(served: Served, number: int) -> None:
    """Mixed requests by many clients; halfway the second node is killed with what it is at."""
    halfway = Halfway(number)

    def ask(index: int) -> tuple[str, str, bytes]:
        with served.client(f"load-{number}-{index % 8}") as client:
            seed = number * 1000 + index
            if index % 5 == 4:
                points = [{"prompt": "piano", "seed": seed}, {"prompt": "bells", "seed": seed + 500_000}]
                body: dict[str, Any] = {"waypoints": points, "alphas": [0.0, 0.5], "steps": 3}
                answer = client.post("/api/v1/interpolate", json=body)
            else:
                body = {"prompt": "funky piano", "seed": seed, "steps": 3 + index % 5}
                answer = client.post("/api/v1/generate", json=body)
            job = done(client, answer, 240)
            halfway.one_more()
            assert job["status"] == "done", job
            sound = client.get(job["result"]["audio"]["wav"])
            assert sound.status_code == 200
            return job["id"], job["status"], sound.content

    def kill() -> None:
        halfway.wait(300)
        served.cluster.remove_node(served.cluster.second, allow_graceful=False)

    with served.client() as client:
        before = _ended(client)
    killing = threading.Thread(target=kill)
    killing.start()
    results = at_once(ask, range(number), 12)
    killing.join()
    assert len({identity for identity, _, _ in results}) == number
    assert len({sound for _, _, sound in results}) == number, "every request has a sound of its own"
    with served.client() as client:
        assert _ended(client) - before == number, "no job ended twice"
    assert served.door().lost_calls.remote().result() >= 1, "the killed node was at something"


def _second_node_again(served: Served) -> None:
    import ray

    if sum(node["Alive"] for node in ray.nodes()) < 2:
        served.cluster.second = served.cluster.add_node(
            num_cpus=4, num_gpus=1, object_store_memory=100 * 2**20
        )


def _ended(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return sum(
        round(float(line.split()[-1]))
        for line in lines
        if line.startswith("riffusion_jobs_ended_total") and 'status="done"' in line
    )


def _line(served: Served) -> Any:
    from websockets.sync.client import connect

    return connect(
        f"ws://127.0.0.1:{served.port}/api/v1/live", max_size=None, additional_headers={"X-Client": "live"}
    )


def _say(line: Any, message: dict[str, Any]) -> None:
    line.send(json.dumps(message))


def _heard(line: Any, kind: str) -> dict[str, Any]:
    while True:
        message = line.recv(timeout=30)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            found: dict[str, Any] = json.loads(message)
            return found


def _block(line: Any) -> dict[str, Any]:
    while True:
        message = line.recv(timeout=30)
        if isinstance(message, bytes):
            size = int.from_bytes(message[:4], "little")
            header: dict[str, Any] = json.loads(message[4 : 4 + size])
            return header
