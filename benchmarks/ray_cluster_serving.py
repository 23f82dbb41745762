"""Does a cluster of engines pay, and what does its path cost? Both against the same application, in one run.

python benchmarks/ray_cluster_serving.py scaling  BUNDLE   # one and two engines that only sleep: clips a second
python benchmarks/ray_cluster_serving.py overhead BUNDLE   # a plain server and a cluster of one, turn by turn

BUNDLE is best a toy, so that what is measured is the path and not the model.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx

HERE = Path(__file__).parent
# Read when Ray is imported. The second one, made for other systems, keeps every node on the loopback interface.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

STORE_BYTES = 150 * 2**20
NODE = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}

SLEEP_S, STAGES = 1.0, 5
"""Of one clip of the toy that sleeps: about what a clip takes where engines are worth having."""

LIMITS = {
    "client_header": "X-Client",
    "requests_a_minute": 10**6,
    "most_queued_per_client": 10_000,
    "most_queued": 10_000,
}


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def nodes(number: int) -> Iterator[None]:
    """A cluster of so many nodes on this machine, each with one pretended GPU."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(number - 1):
            cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def sleeping_engine() -> Any:
    """The class of engines that sleep, by a name that a replica can import."""
    import ray_sleeping_engine

    return ray_sleeping_engine.SleepingEngine


def serve_on(bundle: str, port: int, engines_count: int, at_once: int, replica: Any = None) -> None:
    """Deploy both applications; engines take turns of ``at_once`` jobs."""
    from riffusion_rt.scale.applications import door, engines
    from riffusion_rt.scale.engine_replica import EngineReplica
    from riffusion_rt.scale.starting import deploy

    cluster = {"least": engines_count, "most": engines_count, "gpus": 1, "at_once": at_once, "live": 0}
    own = {"model": bundle, "device": "cpu", "drain_s": 5, "cluster": cluster}
    deploy(
        engines(own, replica or EngineReplica),
        door({**LIMITS, "cluster": cluster}),
        host="127.0.0.1",
        port=port,
    )


def ready(url: str) -> httpx.Client:
    """A client of a server, once it is ready."""
    client = httpx.Client(base_url=url, timeout=120, headers={"X-Client": "bench"})
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return client
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def job(client: httpx.Client, seed: int) -> dict[str, Any]:
    """One clip by the API of jobs, from asking to its sound."""
    body = {"prompt": "bells", "seed": seed, "steps": 1}
    made: dict[str, Any] = client.post("/api/v1/generate", json=body).json()
    while made["status"] in ("queued", "running"):
        made = client.get(made["url"], params={"wait": 30}).json()
    assert made["status"] == "done", made
    assert client.get(made["result"]["audio"]["wav"]).status_code == 200
    return made


def original(client: httpx.Client, seed: int) -> None:
    """One clip by the original surface: one request."""
    end = {"prompt": "bells", "seed": seed}
    body = {"start": end, "end": end, "alpha": 0.0, "num_inference_steps": 2}
    assert client.post("/run_inference/", json=body).status_code == 200


def fact(client: httpx.Client, _: int) -> None:
    """A request that changes nothing."""
    assert client.get("/healthz").status_code == 200


def throughput(url: str, jobs: int, clients: int) -> float:
    """Jobs a second."""

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=120, headers={"X-Client": f"c{number % clients}"}) as client:
            job(client, number)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(10**6, 10**6 + clients)))
        began = time.perf_counter()
        list(pool.map(ask, range(jobs)))
        return jobs / (time.perf_counter() - began)


@click.group()
def main() -> None:
    """Measure the cluster's path."""


@main.command()
@click.argument("bundle", type=click.Path(exists=True))
@click.option("--jobs", default=60, show_default=True)
@click.option("--at-once", default=2, show_default=True, help="Jobs of one engine together.")
@click.option("--row/--no-row", "keep", default=True, help="Record the figures.")
def scaling(bundle: str, jobs: int, at_once: int, keep: bool) -> None:
    """Clips a second of one and of two engines that only sleep."""
    from recording import record

    rates = {}
    bundle = str(Path(bundle).resolve())
    port = free_port()
    with nodes(2):
        for engines_count in (1, 2):
            serve_on(bundle, port, engines_count, at_once, sleeping_engine())
            url = f"http://127.0.0.1:{port}"
            ready(url).close()
            rates[engines_count] = throughput(url, jobs, clients=4 * at_once)
    ideal = at_once / SLEEP_S
    figures = {
        "jobs": jobs,
        "at_once": at_once,
        "sleep_s": SLEEP_S,
        "one_engine_clips_a_second": round(rates[1], 3),
        "two_engines_clips_a_second": round(rates[2], 3),
        "ratio": round(rates[2] / rates[1], 3),
        "of_the_sleeps_own_rate": [round(rates[1] / ideal, 3), round(rates[2] / ideal / 2, 3)],
    }
    click.echo(figures)
    if keep:
        record("ray_scaling", **figures)


@main.command()
@click.argument("bundle", type=click.Path(exists=True))
@click.option("--rounds", default=60, show_default=True)
@click.option("--row/--no-row", "keep", default=True, help="Record the figures.")
def overhead(bundle: str, rounds: int, keep: bool) -> None:
    """Milliseconds that the cluster's path adds, by the kind of request; the two servers take turns."""
    from recording import record

    bundle = str(Path(bundle).resolve())
    plain_port, ray_port = free_port(), free_port()
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", bundle, "--device", "cpu"]
    limits = ["--port", str(plain_port), "--rate", "1000000"]
    # As Ray has it for its workers: else it is the numeric libraries' threads that are compared.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *limits], env=environment, stderr=subprocess.DEVNULL)
    kinds: dict[str, Callable[[httpx.Client, int], Any]] = {
        "one request": fact,
        "original surface, one clip": original,
        "job: ask, wait, fetch": job,
    }
    try:
        with nodes(1):
            serve_on(bundle, ray_port, 1, 8)
            servers = {
                name: ready(f"http://127.0.0.1:{port}")
                for name, port in (("plain", plain_port), ("ray", ray_port))
            }
            seconds: dict[tuple[str, str], list[float]] = {(k, s): [] for k in kinds for s in servers}
            for number in range(rounds + 5):
                for kind, ask in kinds.items():
                    for name, client in servers.items():
                        began = time.perf_counter()
                        ask(client, number)
                        seconds[kind, name].append(time.perf_counter() - began)
    finally:
        process.kill()
        process.wait()
    figures: dict[str, Any] = {"rounds": rounds}
    for kind in kinds:
        medians = {name: statistics.median(seconds[kind, name][5:]) * 1000 for name in ("plain", "ray")}
        figures[kind] = {
            "plain_ms": round(medians["plain"], 2),
            "ray_ms": round(medians["ray"], 2),
            "added_ms": round(medians["ray"] - medians["plain"], 2),
        }
    click.echo(figures)
    if keep:
        record("ray_overhead", **figures)


if __name__ == "__main__":
    main()
