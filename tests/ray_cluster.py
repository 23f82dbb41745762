"""A Ray cluster of two nodes on this machine, for tests: pretended GPUs, loopback only, little shared memory."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

# Read when Ray is imported. The second one, made for other systems, keeps every node on the loopback interface.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

STORE_BYTES = 100 * 2**20


@contextmanager
def two_nodes(**node: Any) -> Iterator[Any]:
    """A head node and a second one, with one pretended GPU each; the driver is connected."""
    # Modules of the tests are imported by name in replicas.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    import ray
    from ray.cluster_utils import Cluster

    facts = {
        "num_cpus": 4,
        "num_gpus": 1,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        **node,
    }
    cluster = Cluster(initialize_head=True, head_node_args=facts)
    try:
        second = cluster.add_node(**facts)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        cluster.second = second
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def client_of(port: int, name: str = "test") -> Iterator[httpx.Client]:
    """A client of the door, once that is ready."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, headers={"X-Client": name}) as client:
        until = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, "the door did not get ready"
            time.sleep(0.2)
        yield client


def at_once(work: Any, items: Any, clients: int) -> list[Any]:
    """``work`` done for every item by a number of clients, in the items' order."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(work, items))


class Halfway(threading.Event):
    """Set when half of a number of things are done."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left, self._lock = number // 2, threading.Lock()

    def one_more(self) -> None:
        """One is done."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self.set()
