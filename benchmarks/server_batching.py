"""Does sharing the UNet's runs pay? The same requests one at a time and shared, by turns, their results compared.

python benchmarks/server_batching.py                         # riffusion-mini; writes results/server_batching.jsonl
python benchmarks/server_batching.py --model TOY --requests 48
python benchmarks/server_batching.py --denoising-only        # without decoding and sound: the network's share alone
"""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from recording import record

from riffusion_engine.devices import available_cores
from riffusion_rt import Clip, ClipRequest, Riffusion
from riffusion_rt.open_model import OpenModel
from riffusion_rt.pipeline import StepProgress, iterate_clip
from riffusion_rt.server.engine_owner import EngineOwner
from riffusion_rt.server.unet_batches import Ticket

STEPS = (9, 12, 15, 20)
SAMPLERS = ("dpm++2m-karras", "ddim", "euler-a", "unipc")


@dataclass(frozen=True, eq=False)
class Made:
    """What became of a request."""

    latents: NDArray[np.float32]
    pixels: NDArray[np.uint8] | None = None


def requests(count: int) -> list[ClipRequest]:
    """Unlike requests of one geometry: other prompts, seeds, steps, samplers and guidance."""
    return [
        ClipRequest(
            f"funky piano {number % 5}",
            seed=number,
            steps=STEPS[number % len(STEPS)],
            sampler=SAMPLERS[number // 2 % len(SAMPLERS)],
            guidance=3.0 + number % 4,
        )
        for number in range(count)
    ]


def made(
    model: OpenModel, request: ClipRequest, whole: bool, finishing: threading.Semaphore | None = None
) -> Made:
    """Carry one request out, or only its denoising."""
    events = iterate_clip(model, request)
    for event in events:
        assert isinstance(event, StepProgress)
        if event.step < event.steps:
            continue
        if not whole:
            return Made(event.latents)
        with finishing or nullcontext():
            clip = next(events)
        assert isinstance(clip, Clip)
        return Made(event.latents, np.asarray(clip.image))
    raise AssertionError("A request ended without a clip")


def one_at_a_time(riffusion: Riffusion, wanted: list[ClipRequest], whole: bool) -> tuple[float, list[Made]]:
    """The library, one request after another, with all cores for each stage."""
    began = time.perf_counter()
    results = [made(riffusion.model, request, whole) for request in wanted]
    return time.perf_counter() - began, results


def shared(
    owner: EngineOwner, wanted: list[ClipRequest], at_once: int, whole: bool
) -> tuple[float, list[Made]]:
    """Through the engine's owner, so many at once."""
    finishing = threading.Semaphore(available_cores())

    def one(pair: tuple[int, ClipRequest]) -> Made:
        number, request = pair
        return made(owner.model_for(Ticket(f"client {number}")), request, whole, finishing)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        results = list(pool.map(one, enumerate(wanted)))
    return time.perf_counter() - began, results


def differences(ones: list[Made], others: list[Made]) -> dict[str, float]:
    """How far the two ways' results are apart, at most."""
    pairs = list(zip(ones, others, strict=True))
    latents = max(
        float(np.abs(one.latents - other.latents).max() / np.abs(one.latents).max()) for one, other in pairs
    )
    shares = [
        float(np.mean(one.pixels != other.pixels))
        for one, other in pairs
        if one.pixels is not None and other.pixels is not None
    ]
    return {"latents_relative": latents, "pixels_share": max(shares, default=0.0)}


@click.command()
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--requests", "count", default=16, show_default=True)
@click.option("--at-once", default=8, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--rows", type=int)
@click.option("--lanes", type=int)
@click.option("--denoising-only", is_flag=True, help="Leave decoding and sound out.")
@click.option("--row/--no-row", "keep", default=True, help="Record the figures.")
def main(
    model: str,
    device: str,
    count: int,
    at_once: int,
    rounds: int,
    rows: int | None,
    lanes: int | None,
    denoising_only: bool,
    keep: bool,
) -> None:
    """Compare by turns."""
    wanted, whole = requests(count), not denoising_only
    alone_s: list[float] = []
    shared_s: list[float] = []
    with (
        Riffusion(model, device=device) as riffusion,
        EngineOwner(model, device=device, rows_at_once=rows, lanes=lanes) as owner,
    ):
        owner.warm_up()
        made(riffusion.model, wanted[0], whole)
        before = owner.counts
        for number in range(rounds):
            seconds, ones = one_at_a_time(riffusion, wanted, whole)
            alone_s.append(seconds)
            seconds, others = shared(owner, wanted, at_once, whole)
            shared_s.append(seconds)
            click.echo(f"round {number + 1}: one at a time {alone_s[-1]:.2f} s, shared {seconds:.2f} s")
        counts = owner.counts
        apart = differences(ones, others)
        used = owner.device
    runs = counts.runs - before.runs
    figures: dict[str, Any] = {
        "model": riffusion.manifest.name,
        "device": used,
        "stages": "all" if whole else "denoising",
        "requests": count,
        "at_once": at_once,
        "rounds": rounds,
        "one_at_a_time_s": round(statistics.median(alone_s), 3),
        "shared_s": round(statistics.median(shared_s), 3),
        "times_throughput": round(
            statistics.median(one / other for one, other in zip(alone_s, shared_s, strict=True)), 3
        ),
        "rows_a_run": round((counts.rows - before.rows) / max(1, runs), 2),
        "shared_runs_share": round((counts.shared_runs - before.shared_runs) / max(1, runs), 3),
        "apart": apart,
    }
    click.echo(" ".join(f"{name}={value}" for name, value in figures.items()))
    if keep:
        record("server_batching", **figures)


if __name__ == "__main__":
    main()
