"""How long from the command to the files? Whole processes, one after another, with the split into stages.

python benchmarks/cold_start.py            # five runs of the default model; writes benchmarks/results/cold_start.jsonl
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from recording import record


@click.command()
@click.option("--runs", default=5, show_default=True)
@click.option("--model", default="riffusion-mini", show_default=True)
def main(runs: int, model: str) -> None:
    """Time ``riffusion-rt generate`` from start to files written."""
    walls: list[float] = []
    stages: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(-1, runs):
            command = [
                sys.executable,
                "-m",
                "riffusion_rt",
                "generate",
                "funky piano",
                "--seed",
                str(run + 1),
            ]
            command += ["--model", model, "-o", str(Path(folder) / f"{run + 1}.wav"), "--json"]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall = time.perf_counter() - started
            if run < 0:
                continue  # the first run fills the disk cache
            report = json.loads(done.stdout)
            split = {**report["seconds"], **report["clips"][0]["seconds"]}
            walls.append(wall)
            for stage, seconds in split.items():
                stages.setdefault(stage, []).append(seconds)
            click.echo(
                f"{wall:.2f} s  " + "  ".join(f"{stage} {seconds:.2f}" for stage, seconds in split.items())
            )
    medians = {stage: round(statistics.median(seconds), 3) for stage, seconds in stages.items()}
    clip_s = report["clips"][0]["duration_s"]
    click.echo(f"median {statistics.median(walls):.2f} s for {clip_s:.2f} s of sound")
    record(
        "cold_start",
        model=model,
        runs=runs,
        wall_s=round(statistics.median(walls), 3),
        clip_s=clip_s,
        stages_s=medians,
    )


if __name__ == "__main__":
    main()
