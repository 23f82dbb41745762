"""Clips of a walk denoised together against one at a time: seconds for each clip, in one process, alternating.

    python benchmarks/walk_batch.py

Three ways: a batch, one at a time as the model is opened by default, and one at a time with ``--fused``, which rewrites
the graph for a single clip as lanes do for a batch.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import click
import numpy as np
from numpy.typing import NDArray
from recording import record

from riffusion_rt import Clip, Riffusion
from riffusion_rt.interpolation import Waypoint, curve_positions
from riffusion_rt.walk import BATCH, WalkRequest

WAYPOINTS = (Waypoint("church bells", seed=1), Waypoint("funky piano", seed=2))
TOGETHER, ALONE, ALONE_FUSED = "together", "alone", "alone_fused"


@click.command()
@click.option("--clips", default=8, show_default=True)
@click.option("--batch", default=BATCH, show_default=True)
@click.option("--steps", type=int, help="The model's own, if not given.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or openvino.")
def main(clips: int, batch: int, steps: int | None, rounds: int, model: str, device: str) -> None:
    """Measure, and write a row to benchmarks/results/."""
    request = WalkRequest(WAYPOINTS, curve_positions(clips), steps=steps)
    with ExitStack() as stack:
        plain = stack.enter_context(Riffusion(model, device=device))
        ways = {TOGETHER: (plain, batch), ALONE: (plain, 1)}
        if plain.device == "cpu":
            ways[ALONE_FUSED] = (stack.enter_context(Riffusion(model, device=device, fused=True)), 1)
        steps = request.resolved(plain.manifest.defaults).steps
        for (
            riffusion,
            size,
        ) in ways.values():  # What is opened or compiled on the way is not what is compared.
            list(riffusion.interpolate(WalkRequest(WAYPOINTS, curve_positions(size), steps=1), batch=size))
        stages: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        walls: dict[str, list[float]] = {way: [] for way in ways}
        pictures: dict[str, NDArray[np.int16]] = {}
        for number in range(rounds):
            for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
                riffusion, size = ways[way]
                started = time.perf_counter()
                made = [e for e in riffusion.interpolate(request, batch=size) if isinstance(e, Clip)]
                walls[way].append((time.perf_counter() - started) / clips)
                stages[way].append(_per_clip(made, size))
                pictures[way] = np.stack([np.asarray(clip.image, np.int16) for clip in made])
        device = plain.device
    apart = np.abs(pictures[TOGETHER] - pictures[ALONE])
    row = {
        "model": model,
        "device": device,
        "clips": clips,
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "wall_s_per_clip": {way: statistics.median(times) for way, times in walls.items()},
        "stages_s_per_clip": {
            way: {name: statistics.median(each[name] for each in rows) for name in rows[0]}
            for way, rows in stages.items()
        },
        "times_faster_than_alone": _times_faster(walls, ALONE),
        "levels_apart": int(apart.max()),
        "pixels_apart": float(np.mean(apart > 0)),
    }
    if ALONE_FUSED in walls:
        row["times_faster_than_alone_fused"] = _times_faster(walls, ALONE_FUSED)
    for name, value in row.items():
        click.echo(f"{name:30} {value}")
    record("walk_batch", **row)


def _times_faster(walls: dict[str, list[float]], other: str) -> dict[str, float]:
    """Of clips together over another way, round by round."""
    ratios = [there / here for here, there in zip(walls[TOGETHER], walls[other], strict=True)]
    return {"least": min(ratios), "median": statistics.median(ratios), "greatest": max(ratios)}


def _per_clip(made: list[Clip], size: int) -> dict[str, float]:
    """Seconds of each stage for each clip: a pass's clock runs on from its first clip to its last."""
    passes = [made[min(first + size, len(made)) - 1].timings for first in range(0, len(made), size)]
    return {
        stage: sum(laps.get(stage, 0.0) for laps in passes) / len(made)
        for stage in passes[0] | {"denoise": 0}
    }


if __name__ == "__main__":
    main()
