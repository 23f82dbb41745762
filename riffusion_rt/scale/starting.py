"""Settings in, a Ray cluster that serves out: one of this machine's own, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from riffusion_engine.errors import DeviceError, EngineError, MissingExtraError
from riffusion_rt.scale.cluster_settings import DOOR, ENGINES

LOCAL = "local"
"""The address of a cluster that is begun here and ends with this process."""

LOOPBACK = "127.0.0.1"

STORE_BYTES = 256 * 2**20
"""Shared memory of a local cluster: a clip of five seconds is 2 MB, and lies there for a moment only."""

FETCH_S = 5.0
"""After the last accepted job is done: how long its client may take to fetch the result."""


@contextmanager
def cluster(address: str, **options: Any) -> Iterator[None]:
    """A connection to a cluster.

    Args:
        address: ``local`` begins one on this machine, on the loopback interface, without a dashboard and without
            reports of its use to anyone; else that of a head node, or ``auto``.
        options: further ones of ``ray.init`` for a local one.

    Raises:
        MissingExtraError: Ray is not installed.
        DeviceError: there is no cluster at that address.
    """
    # Read when Ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "A cluster needs Ray", hint="Install it: pip install 'riffusion-rt[scale]'"
        ) from error
    try:
        if address == LOCAL:
            own = {"include_dashboard": False, "object_store_memory": STORE_BYTES, **options}
            ray.init(
                address=LOCAL,
                _node_ip_address=LOOPBACK,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise DeviceError(
            f"There is no cluster to be had at {address!r}: {error}", hint="Start one: ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def deploy(engines: Any, door: Any, *, host: str, port: int) -> None:
    """Start or replace the applications that are given; returns when they answer.

    Args:
        engines, door: of ``applications``; None leaves what is there as it is.
        host, port: of the head node, where the door listens.

    Raises:
        EngineError: one does not start, because of its model for instance.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    from riffusion_rt.scale.applications import QUIET

    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=None),
        logging_config=QUIET,
    )
    try:
        if engines is not None:
            serve.run(engines, name=ENGINES, route_prefix=None)
        if door is not None:
            serve.run(door, name=DOOR, route_prefix="/")
    except RuntimeError as error:
        raise EngineError(why_not(str(error)), hint="See `serve status`, and the logs of Ray") from error


def why_not(text: str) -> str:
    """The line of Serve's report that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return f"The engines do not start: {(errors or lines or ['for no reason known'])[-1]}"


def when_told_to_end() -> threading.Event:
    """Set at SIGTERM or SIGINT. To be asked for inside ``cluster``: Ray has handlers of its own."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


def finish(drain_s: float) -> None:
    """Let what was accepted be done and fetched, then end both applications."""
    from contextlib import suppress

    from ray import serve

    with suppress(Exception):  # Whatever is wrong with the door: the end comes next.
        if serve.get_app_handle(DOOR).drain.remote().result(timeout_s=drain_s + FETCH_S):
            time.sleep(FETCH_S)
    serve.delete(DOOR)
    serve.delete(ENGINES)
