"""Whatever clients and machines do wrong, the server answers clearly, serves others, and loses nothing accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from toy_server import done, server_of, server_process, toy_server

from riffusion_engine import whole_file as whole_files


@pytest.fixture(scope="module")
def process(toy_bundle: Path) -> Iterator[httpx.Client]:
    with server_process(toy_bundle, "--live", "2") as (_, client):
        yield client


def accepts_work(client: Any) -> bool:
    job = done(
        client, client.post("/api/v1/generate", json={"prompt": "well", "seed": time.time_ns() % 2**32})
    )
    return bool(job["status"] == "done")


def port_of(client: httpx.Client) -> int:
    port = client.base_url.port
    assert port is not None
    return port


def test_clients_that_vanish_in_the_middle_leave_nothing_behind(process: httpx.Client) -> None:
    import websockets

    async def listen_and_vanish(number: int) -> None:
        url = f"ws://127.0.0.1:{port_of(process)}/api/v1/live"
        async with websockets.connect(url) as line:
            await line.send(json.dumps({"type": "setup", "prompts": [{"text": f"gone {number}"}]}))
            await line.send(json.dumps({"type": "play"}))
            while not isinstance(await line.recv(), bytes):
                pass
            line.transport.abort()

    # More of them than may play: what is left behind makes room.
    for number in range(4):
        asyncio.run(listen_and_vanish(number))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port_of(process))) as line:
            line.sendall(
                b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
            )
    with pytest.raises(httpx.ReadTimeout):
        body = {"start": {"prompt": "a", "seed": 1}, "end": {"prompt": "b", "seed": 1}, "alpha": 0.5}
        process.post("/run_inference/", json={**body, "num_inference_steps": 900}, timeout=0.3)
    until = time.monotonic() + 20
    while "riffusion_jobs_running 0.0" not in process.get("/metrics").text:
        assert time.monotonic() < until, "a clip that nobody waits for is given up"
        time.sleep(0.1)
    assert accepts_work(process)


def test_an_upload_of_a_hundred_megabytes_is_refused_with_an_answer(process: httpx.Client) -> None:
    block = b"\0" * 2**20
    length = 100 * len(block)
    before = memory(process)
    answer = process.post(
        "/api/v1/remix",
        content=(block for _ in range(100)),
        headers={"Content-Length": str(length), "Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413
    assert "more than" in answer.json()["error"]["message"]
    assert memory(process) - before < 50 * 2**20
    assert accepts_work(process)


def memory(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("process_resident_memory_bytes")).split()[1])


def test_hostile_bytes_are_answered(process: httpx.Client) -> None:
    hostile: list[tuple[str, bytes, str]] = [
        ("/api/v1/generate", b"[" * 100_000, "application/json"),
        ("/api/v1/generate", b'{"prompt": "x", "seed": ' + b"9" * 6000 + b"}", "application/json"),
        ("/api/v1/generate", b'{"prompt": "x", "guidance": NaN}', "application/json"),
        ("/api/v1/generate", b'{"prompt": "x", "guidance": 1e999}', "application/json"),
        ("/api/v1/generate", b"\xff\xfe\x00", "application/json"),
        ("/api/v1/generate", b'{"prompt": "\\ud800"}', "application/json"),
        ("/api/v1/song", json.dumps({"plan": "[[sections]]\n" + "[" * 5000}).encode(), "application/json"),
        ("/api/v1/song", json.dumps({"plan": "|" * 20_000}).encode(), "application/json"),
        ("/api/v1/song", json.dumps({"plan": 'verse 2 "x" seed=1e999'}).encode(), "application/json"),
        (
            "/api/v1/remix",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n",
            "multipart/form-data; boundary=x",
        ),
        ("/api/v1/remix", b"", "multipart/form-data"),
        ("/api/v1/remix", b"{}", "application/json"),
        ("/run_inference/", b"[" * 100_000, "application/json"),
        ("/run_inference/", b'{"start": {"prompt": "\\ud800", "seed": 1}}', "application/json"),
    ]
    for path, body, kind in hostile:
        answer = process.post(path, content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500, (path, body[:40], answer.text)
        assert "Traceback" not in answer.text
    assert accepts_work(process)


def test_a_full_disk_fails_the_job_in_words_and_is_got_over(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with toy_server(toy_bundle) as client:
        with monkeypatch.context() as patched:
            patched.setattr(whole_files.os, "fsync", full)
            job = done(client, client.post("/api/v1/generate", json={"prompt": "x"}))
            assert (job["status"], job["error"]["code"]) == ("failed", "no_room")
        assert accepts_work(client)
        patch_open = Path.open

        def no_room(path: Path, *args: Any, **named: Any) -> Any:
            if path.name.startswith("upload-"):
                raise OSError(28, "No space left on device")
            return patch_open(path, *args, **named)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", no_room)
            answer = client.post("/api/v1/remix", files={"audio": b"x"}, data={"request": '{"prompt": "x"}'})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "no_room")
        assert accepts_work(client)


def test_a_failing_engine_fails_only_what_it_ran(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with toy_server(toy_bundle) as client:
        batches = server_of(client).service.owner.batches
        network = batches._unet
        calls = {"left": 3}
        run = network.run

        def sometimes(feeds: Any) -> Any:
            if calls["left"] and len(feeds["sample"]) <= 2:
                calls["left"] -= 1
                raise RuntimeError("an inside of the engine")
            return run(feeds)

        monkeypatch.setattr(network, "run", sometimes)
        answers = [client.post("/api/v1/generate", json={"prompt": "x", "seed": seed}) for seed in range(6)]
        jobs = [done(client, answer) for answer in answers]
        assert {job["status"] for job in jobs} <= {"done", "failed"}
        assert 1 <= sum(job["status"] == "failed" for job in jobs) <= 3
        assert all("inside" not in json.dumps(job) for job in jobs)
        assert accepts_work(client)


def test_what_was_accepted_is_finished_after_sigterm(toy_bundle: Path) -> None:
    with server_process(toy_bundle) as (process, client), ThreadPoolExecutor(12) as pool:
        refused, told = [], threading.Event()

        def ask(seed: int) -> str | None:
            body = {"prompt": "last", "seed": seed, "steps": 40}
            answer = client.post("/api/v1/generate", json=body)
            if answer.status_code != 202:
                refused.append(answer.status_code)
                return None
            told.set()
            job = done(client, answer)
            assert job["status"] == "done", job
            assert client.get(job["result"]["audio"]["wav"]).status_code == 200
            return str(job["id"])

        accepted = [pool.submit(ask, seed) for seed in range(10)]
        told.wait(20)
        while "riffusion_jobs_running 0.0" in client.get("/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 5
        late = client.post("/api/v1/generate", json={"prompt": "late"})
        while late.status_code == 202 and time.monotonic() < until:
            late = client.post("/api/v1/generate", json={"prompt": "late", "seed": time.time_ns() % 2**32})
        assert late.status_code == 503
        assert late.headers["retry-after"]
        finished = [each.result() for each in accepted]
        assert any(finished)
        assert set(refused) <= {503}
        assert process.wait(20) in (0, -signal.SIGTERM)


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", str(tmp_path), "--port", "39331"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "riffusion-rt: " in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def swarm(client: httpx.Client, examples: int) -> list[str]:
    """What schemathesis finds: bodies and parameters made from the OpenAPI document, and against it."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    failures: list[str] = []
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def send(case: Any) -> None:
                nonlocal sent
                answer = case.call(base_url=str(client.base_url))
                sent += 1
                if answer.status_code >= 500 and answer.status_code not in (503, 504, 507):
                    failures.append(f"{case.method} {case.path}: {answer.status_code} {answer.text[:200]}")

            with contextlib.suppress(Unsatisfiable):  # Of what takes nothing there is nothing wrong to send.
                send()
    assert sent > examples * len(schema.raw_schema["paths"]) / 2
    return failures


SWARM_OPTIONS = ("--rate", "1000000", "--deadline", "1", "--queue", "20")


def test_bodies_made_from_the_schema_never_break_the_server(toy_bundle: Path) -> None:
    with server_process(toy_bundle, *SWARM_OPTIONS) as (_, client):
        assert swarm(client, examples=4) == []
        assert client.get("/healthz").status_code == 200


@pytest.mark.thorough
def test_very_many_bodies_made_from_the_schema_never_break_the_server(toy_bundle: Path) -> None:
    with server_process(toy_bundle, *SWARM_OPTIONS) as (_, client):
        assert swarm(client, examples=200) == []
        assert client.get("/healthz").status_code == 200
