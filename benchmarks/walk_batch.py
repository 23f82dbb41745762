"""Clips of a walk denoised together against one at a time: seconds for each clip, in one process, alternating.

python benchmarks/walk_batch.py
"""

from __future__ import annotations

import statistics
import time

import click
import numpy as np
from recording import record

from riffusion_rt import Clip, Riffusion
from riffusion_rt.interpolation import Waypoint, curve_positions
from riffusion_rt.walk import BATCH, WalkRequest

WAYPOINTS = (Waypoint("church bells", seed=1), Waypoint("funky piano", seed=2))


@click.command()
@click.option("--clips", default=8, show_default=True)
@click.option("--batch", default=BATCH, show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or openvino.")
def main(clips: int, batch: int, steps: int, rounds: int, model: str, device: str) -> None:
    """Measure, and write a row to benchmarks/results/."""
    request = WalkRequest(WAYPOINTS, curve_positions(clips), steps=steps)
    stages: dict[int, list[dict[str, float]]] = {batch: [], 1: []}
    walls: dict[int, list[float]] = {batch: [], 1: []}
    pictures = {}
    with Riffusion(model, device=device) as riffusion:
        for size in (batch, 1):  # What is opened or compiled on the way is not what is compared.
            list(riffusion.interpolate(WalkRequest(WAYPOINTS, curve_positions(size), steps=1), batch=size))
        for number in range(rounds):
            for size in (batch, 1) if number % 2 == 0 else (1, batch):
                started = time.perf_counter()
                made = [e for e in riffusion.interpolate(request, batch=size) if isinstance(e, Clip)]
                walls[size].append((time.perf_counter() - started) / clips)
                stages[size].append(_per_clip(made, size))
                pictures[size] = np.stack([np.asarray(clip.image, np.int16) for clip in made])
        device = riffusion.device
    denoise = {size: statistics.median(row["denoise"] for row in rows) for size, rows in stages.items()}
    wall = {size: statistics.median(times) for size, times in walls.items()}
    row = {
        "model": model,
        "device": device,
        "clips": clips,
        "batch": batch,
        "steps": steps,
        "denoise_s_per_clip": denoise,
        "wall_s_per_clip": wall,
        "denoise_ratio": denoise[1] / denoise[batch],
        "wall_ratio": wall[1] / wall[batch],
        "levels_apart": int(np.abs(pictures[batch] - pictures[1]).max()),
    }
    for name, value in row.items():
        click.echo(f"{name:20} {value}")
    record("walk_batch", **row)


def _per_clip(made: list[Clip], size: int) -> dict[str, float]:
    """Seconds of each stage for each clip: a pass's clock runs on from its first clip to its last."""
    passes = [made[min(first + size, len(made)) - 1].timings for first in range(0, len(made), size)]
    return {
        stage: sum(laps.get(stage, 0.0) for laps in passes) / len(made)
        for stage in passes[0] | {"denoise": 0}
    }


if __name__ == "__main__":
    main()
