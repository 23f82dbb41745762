"""A server on the toy model for the server's tests: in this process, or as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from riffusion_rt.server.app import ServerApp
from riffusion_rt.server.service_settings import ServiceSettings


@contextmanager
def toy_server(bundle: Path, **settings: Any) -> Iterator[TestClient]:
    """A client of a server in this process, once its model is open."""
    app = ServerApp(ServiceSettings(model=bundle, device="cpu", **settings))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        until = time.monotonic() + 60
        while client.get("/readyz").status_code != 200 and time.monotonic() < until:
            assert app.failed is None, app.failed
            time.sleep(0.02)
        client.app_state["server"] = app
        yield client


def server_of(client: TestClient) -> ServerApp:
    """The application behind a client."""
    app = client.app_state["server"]
    assert isinstance(app, ServerApp)
    return app


def done(client: Any, answer: Any, seconds: float = 30) -> dict[str, Any]:
    """The job that an answer accepted, when it has ended."""
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + seconds
    job: dict[str, Any] = answer.json()
    while job["status"] in ("queued", "running") and time.monotonic() < until:
        job = client.get(job["url"], params={"wait": 5}).json()
    return job


@contextmanager
def server_process(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A server as ``riffusion-rt serve`` starts it, and a client of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", str(bundle), "--port", str(port)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_until_ready(process, client)
            yield process, client
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("The server did not get ready")
