"""How long until the page sounds, and until another prompt is heard? A real browser on a real server.

    apt-get install chromium && pip install 'riffusion-rt[dev]'
    python benchmarks/page_latency.py                      # a row in benchmarks/results/page_latency.jsonl

Sound is what leaves the page's audio worklet, caught by the same tap as in the tests. Times are given beside what they
depend on: the seconds that the first clip took to compute, and the look-ahead and bar that the session announces. The
browser and the model share the machine, so the flat view is shown.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from recording import record

TAP = Path(__file__).parents[1] / "tests" / "data" / "tap.js"
PATIENCE_MS = 120_000


@click.command()
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--listen", default=12.0, show_default=True, help="Seconds to play before the prompt changes.")
def main(model: str, device: str, rounds: int, listen: float) -> None:
    """Measure, and write a row to benchmarks/results/."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        click.echo("skipped: no chromium here. Install it: apt-get install chromium")
        return
    with _server(model, device) as address:
        visits = [_visit(browser, address, seed, listen) for seed in range(rounds)]
    row = {name: round(statistics.median(visit[name] for visit in visits), 3) for name in visits[0]}
    row["first_sound_in_clip_times"] = round(
        statistics.median(visit["first_sound_s"] / visit["first_clip_s"] for visit in visits), 3
    )
    worst = max(visit["prompt_heard_s"] for visit in visits)
    for name, value in {**row, "prompt_heard_worst_s": round(worst, 3)}.items():
        click.echo(f"{name:28} {value}")
    record(
        "page_latency", model=model, device=device, rounds=rounds, prompt_heard_worst_s=round(worst, 3), **row
    )


@contextmanager
def _server(model: str, device: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "riffusion_rt", "serve", "--model", model, "--device", device]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        until = time.monotonic() + 120
        while not _ready(f"{address}readyz"):
            if process.poll() is not None or time.monotonic() > until:
                raise click.ClickException("The server does not start. See why: riffusion-rt serve")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _ready(url: str) -> bool:
    with suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url):
        return True
    return False


def _visit(browser: str, address: str, seed: int, listen: float) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    headers: list[dict[str, Any]] = []
    ready: list[dict[str, Any]] = []

    def take(payload: str | bytes) -> None:
        if isinstance(payload, str):
            message = json.loads(payload)
            ready.extend([message] if message["type"] == "ready" else [])
        else:
            (length,) = struct.unpack_from("<I", payload)
            headers.append(json.loads(payload[4 : 4 + length]))

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = opened.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
        context.add_init_script(path=TAP)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("websocket", lambda line: line.on("framereceived", take))
        page.goto(f"{address}?view=flat&seed={seed}")
        box = page.get_by_label("What should be heard?")
        box.fill("funky piano")
        page.evaluate("window.pressedAt = performance.now()")
        page.keyboard.press("Enter")
        page.wait_for_function("window.soundedAt")
        first_sound = float(page.evaluate("soundedAt - pressedAt")) / 1000
        page.wait_for_timeout(1000 * listen)
        box.fill("church bells")
        asked = time.perf_counter()
        page.keyboard.press("Enter")
        page.locator("[data-tense=now]", has_text="church bells").wait_for()
        heard = time.perf_counter() - asked
        opened.close()
    return {
        "first_sound_s": first_sound,
        "first_clip_s": float(headers[0]["compute_s"]),
        "prompt_heard_s": heard,
        "prompt_allowed_s": float(ready[0]["look_ahead_s"]) + float(ready[0]["bar_s"]),
    }


if __name__ == "__main__":
    main()
