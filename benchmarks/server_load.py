"""Does the server hold? Many clients of mixed requests against a server process: errors, losses, latency and memory.

python benchmarks/server_load.py                          # 64 clients, 5 minutes; writes results/server_load.jsonl
python benchmarks/server_load.py --model TOY --seconds 60
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from recording import record

CLIENT = "X-Client"
REFUSALS = (429, 503)
"""What a busy server may say."""

LOOK_S = 2.0
DRAIN_S = 900.0
"""How long clients wait for what was accepted, after the last one has asked."""

MEGABYTE = 2**20


@dataclass
class Tally:
    """What happened to all clients."""

    until: float
    errors: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[tuple[float, int]] = field(default_factory=list)
    sound_s: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the time for new requests has passed."""
        return time.monotonic() > self.until


class Client:
    """One client, who asks for one thing after another."""

    def __init__(self, number: int, url: str, tally: Tally, recording: bytes) -> None:
        self._random = random.Random(number)
        self._tally, self._recording, self._url = tally, recording, url
        self._name = f"client-{number}"
        self._http = httpx.AsyncClient(base_url=url, timeout=120, headers={CLIENT: self._name})

    async def run(self) -> None:
        """Ask until the time is over."""
        wishes: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (40, "generate", self._generate),
            (12, "again", self._again),
            (8, "interpolate", self._interpolate),
            (8, "original", self._original),
            (5, "remix", self._remix),
            (3, "song", self._song),
            (8, "cancel", self._cancel),
            (10, "facts", self._facts),
            (6, "live", self._live),
        ]
        weights = [weight for weight, _, _ in wishes]
        async with self._http:
            while not self._tally.over:
                _, name, wish = self._random.choices(wishes, weights)[0]
                try:
                    await wish()
                except Exception as error:
                    self._tally.errors.append(f"{name}: {type(error).__name__} {error}"[:300])
                await asyncio.sleep(self._random.uniform(0, 0.2))

    async def _generate(self) -> None:
        body = {
            "prompt": self._random.choice(["funky piano", "church bells", "jazz", "blues guitar"]),
            "seed": self._random.randrange(10**6),
            "steps": self._random.choice([4, 8, 12, 15]),
            "guidance": self._random.choice([1.0, 4.0, 7.0]),
            "sampler": self._random.choice(["dpm++2m-karras", "ddim", "euler-a"]),
        }
        if self._random.random() < 0.2:
            body |= {"seed_image": "og_beat", "strength": 0.6}
        await self._job("generate", body)

    async def _again(self) -> None:
        await self._job("generate", {"prompt": "the same", "seed": self._random.randrange(3)}, name="again")

    async def _interpolate(self) -> None:
        seed = self._random.randrange(10**6)
        points = [{"prompt": "piano", "seed": seed}, {"prompt": "bells", "seed": seed + 1}]
        await self._job("interpolate", {"waypoints": points, "alphas": [0.0, 0.5], "steps": 6})

    async def _song(self) -> None:
        plan = 'intro 2 "bells" | verse 2 "piano"'
        await self._job("song", {"plan": plan, "seed": self._random.randrange(10**6), "steps": 6})

    async def _remix(self) -> None:
        request = {"prompt": "bells", "seed": self._random.randrange(10**6), "steps": 8, "strength": 0.5}
        files = {"audio": ("sound.flac", self._recording), "request": (None, json.dumps(request))}
        await self._finish("remix", await self._posted("/api/v1/remix", files=files), time.monotonic())

    async def _original(self) -> None:
        began = time.monotonic()
        seed = self._random.randrange(10**6)
        body = {"start": {"prompt": "piano", "seed": seed}, "end": {"prompt": "bells", "seed": seed}}
        answer = await self._posted(
            "/run_inference/", json={**body, "alpha": 0.5, "num_inference_steps": 8}, timeout=DRAIN_S
        )
        if answer is not None:
            assert answer.status_code == 200, answer.text[:200]
            assert answer.json()["audio"].startswith("data:audio/mpeg")
            self._done("original", began, answer.json()["duration_s"])

    async def _cancel(self) -> None:
        answer = await self._posted(
            "/api/v1/generate", json={"prompt": "gone", "seed": self._random.randrange(10**9), "steps": 50}
        )
        if answer is None:
            return
        url = answer.json()["url"]
        await asyncio.sleep(self._random.uniform(0, 1))
        await self._http.delete(url)
        job = (await self._http.get(url, params={"wait": 60})).json()
        assert job["status"] in ("cancelled", "done"), job
        self._tally.ended[job["status"]] += 1

    async def _facts(self) -> None:
        for path in ("/schema", "/healthz", "/metrics", "/openapi.json"):
            began = time.monotonic()
            answer = await self._http.get(path)
            assert answer.status_code == 200, (path, answer.status_code)
            self._tally.seconds["facts"].append(time.monotonic() - began)

    async def _live(self) -> None:
        import websockets

        url = self._url.replace("http", "ws", 1) + "/api/v1/live"
        began = time.monotonic()
        headers = {CLIENT: self._name}
        async with websockets.connect(url, max_size=None, additional_headers=headers) as line:
            setup = {
                "type": "setup",
                "prompts": [{"text": "funky piano"}],
                "seed": self._random.randrange(99),
            }
            await line.send(json.dumps(setup))
            await line.send(json.dumps({"type": "play"}))
            blocks = 0
            while blocks < 3:
                try:
                    message = await asyncio.wait_for(line.recv(), DRAIN_S)
                except websockets.ConnectionClosed as closed:
                    assert closed.rcvd is not None
                    assert closed.rcvd.code == 1013, closed
                    self._tally.refused[1013] += 1
                    return
                if isinstance(message, bytes):
                    if not blocks:
                        self._tally.seconds["live: first sound"].append(time.monotonic() - began)
                    blocks += 1
            if self._random.random() < 0.5:
                line.transport.abort()
        self._tally.ended["live"] += 1

    async def _job(self, kind: str, body: dict[str, Any], name: str | None = None) -> None:
        began = time.monotonic()
        await self._finish(name or kind, await self._posted(f"/api/v1/{kind}", json=body), began)

    async def _posted(self, path: str, **content: Any) -> httpx.Response | None:
        answer = await self._http.post(path, **content)
        if answer.status_code in REFUSALS:
            self._tally.refused[answer.status_code] += 1
            await asyncio.sleep(min(float(answer.headers["retry-after"]), 5.0))
            return None
        assert answer.status_code in (200, 202), (path, answer.status_code, answer.text[:200])
        return answer

    async def _finish(self, name: str, answer: httpx.Response | None, began: float) -> None:
        """Wait for an accepted job, and fetch what it made."""
        if answer is None:
            return
        job = answer.json()
        while job["status"] in ("queued", "running"):
            if time.monotonic() > self._tally.until + DRAIN_S:
                self._tally.lost.append(f"{name} {job['id']}: {job['status']}")
                return
            looked = await self._http.get(job["url"], params={"wait": 30})
            if looked.status_code != 200:
                self._tally.lost.append(f"{name} {job['id']}: {looked.status_code}")
                return
            job = looked.json()
        assert job["status"] == "done", job
        sound = await self._http.get(job["result"]["audio"][self._random.choice(["wav", "flac", "mp3"])])
        assert sound.status_code == 200, sound.text[:200]
        self._done(name, began, job["result"]["duration_s"])

    def _done(self, name: str, began: float, sound_s: float) -> None:
        self._tally.seconds[name].append(time.monotonic() - began)
        self._tally.ended["done"] += 1
        self._tally.sound_s += sound_s


async def watch_memory(process: int, tally: Tally) -> None:
    """Note the server's resident memory."""
    began = time.monotonic()
    while True:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        tally.memory.append((time.monotonic() - began, pages * os.sysconf("SC_PAGE_SIZE")))
        await asyncio.sleep(LOOK_S)


def memory_figures(memory: list[tuple[float, int]], asking_s: float) -> dict[str, float]:
    """Megabytes at first and last, and how much they grew over the second half of the time of full load."""
    loaded = [(at, size / MEGABYTE) for at, size in memory if at <= asking_s]
    half = [size for at, size in loaded if at >= asking_s / 2]
    quarter = max(1, len(half) // 4)
    return {
        "first_mb": round(loaded[0][1], 1),
        "most_mb": round(max(size for _, size in loaded), 1),
        "last_mb": round(loaded[-1][1], 1),
        "second_half_growth_mb": round(
            statistics.median(half[-quarter:]) - statistics.median(half[:quarter]), 1
        ),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """What a row keeps of many times."""
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "p50_s": round(statistics.median(ordered), 3),
        "p99_s": round(ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))], 3),
    }


def start_server(model: str, options: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], str]:
    """A server process that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", model, "--port", str(port)]
    process = subprocess.Popen([*command, "--client-header", CLIENT, *options], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while True:
        assert process.poll() is None, "the server has ended"
        try:
            if httpx.get(url + "/readyz").status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.2)


def recording() -> bytes:
    """A second of sound as FLAC."""
    import soundfile

    buffer, times = io.BytesIO(), np.arange(44100) / 44100
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 220 * times), 44100, format="FLAC")
    return buffer.getvalue()


async def besiege(url: str, process: int, clients: int, seconds: float) -> Tally:
    """All clients at once."""
    tally = Tally(time.monotonic() + seconds)
    sound = recording()
    watch = asyncio.ensure_future(watch_memory(process, tally))
    await asyncio.gather(*(Client(number, url, tally, sound).run() for number in range(clients)))
    watch.cancel()
    return tally


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--clients", default=64, show_default=True)
@click.option("--seconds", default=300.0, show_default=True)
@click.option("--row/--no-row", "keep", default=True, help="Record the figures.")
@click.argument("options", nargs=-1)
def main(model: str, clients: int, seconds: float, keep: bool, options: tuple[str, ...]) -> None:
    """Besiege a server; OPTIONS after -- are handed on to ``serve``."""
    process, url = start_server(model, options)
    try:
        began = time.monotonic()
        tally = asyncio.run(besiege(url, process.pid, clients, seconds))
        took = time.monotonic() - began
        metrics = httpx.get(url + "/metrics").text
        name = httpx.get(url + "/schema").json()["model"]["name"]
        process.terminate()
        ended = process.wait(60)
    finally:
        process.kill()
    counts = {
        line.split()[0].removeprefix("riffusion_unet_").removesuffix("_total"): float(line.split()[1])
        for line in metrics.splitlines()
        if line.startswith("riffusion_unet_") and "_created" not in line
    }
    figures: dict[str, Any] = {
        "model": name,
        "clients": clients,
        "seconds": round(took, 1),
        "options": " ".join(options),
        "errors": len(tally.errors),
        "lost": len(tally.lost),
        "ended": dict(tally.ended),
        "refused": {str(status): count for status, count in tally.refused.items()},
        "latency": {name: percentiles(values) for name, values in sorted(tally.seconds.items())},
        "memory": memory_figures(tally.memory, seconds),
        "sound_s_a_second": round(tally.sound_s / took, 3),
        "rows_a_run": round(counts["rows"] / max(1.0, counts["runs"]), 2),
        "shared_runs_share": round(counts["shared_runs"] / max(1.0, counts["runs"]), 3),
        "exit_code": ended,
    }
    for example in (tally.errors + tally.lost)[:10]:
        click.echo(example)
    click.echo(json.dumps(figures, indent=1))
    if keep:
        record("server_load", **figures)
    if tally.errors or tally.lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
