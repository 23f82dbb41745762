"""A GPU in, rows of ours beside diffusers eager and compiled out: components, walks, whole clips and the vocoder.

    python benchmarks/gpu_suite.py [--bundle BUNDLE]

Without a bundle it makes a random one of Stable Diffusion v1.5's size in float16 (needs the ``export`` extra; five
minutes once, not counted in the limit). Rows go to ``benchmarks/results/gpu.jsonl`` as they come, so a run that is cut
short keeps what it measured; ``python benchmarks/report.py`` makes the tables. Every part has a limit of its own, all
together ``--limit`` minutes. Without a GPU it says so and exits with code 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ROWS = HERE / "results" / "gpu.jsonl"

GOALS: tuple[tuple[str, str, str, float], ...] = (
    ("walk of 10 steps", "eager", "times_faster", 2.0),
    ("walk of 10 steps", "compile", "times_faster", 1.0),
    ("walk of 10 steps", "eager", "ours_tflop_s", 400.0),
    ("clip of 20 steps", "eager", "times_real_time", 50.0),
)
"""(part, peer, figure, at least): what an H200 is meant to reach; rates count at the best batch."""


@click.command(context_settings={"max_content_width": 110})
@click.option("--bundle", type=click.Path(path_type=Path), help="A float16 bundle of full size.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--batches", default="1,4,16", show_default=True, help="Of the walks.")
@click.option("--limit", default=10.0, show_default=True, help="Minutes for all parts together.")
@click.option("--rounds", default=5, show_default=True)
def main(bundle: Path | None, device: str, batches: str, limit: float, rounds: int) -> None:
    """Measure everything that needs a GPU."""
    reason = why_not(device)
    if reason:
        click.echo(f"skipped: {reason}")
        return
    model = bundle or full_size_bundle()
    started = time.monotonic()
    suite = [sys.executable, "-m", "pytest", "-q", f"--model={model}", f"--device={device}", "--suite=gpu"]
    ways = ("", "fused", "fused,replay", "fused,channels_last,replay")
    parts = [
        *(
            [*suite, "bench_walk.py", "--batches=1", "--peer=eager", f"--session={way}", "--rounds=3"]
            for way in ways
        ),
        [
            *suite,
            "bench_walk.py",
            f"--batches={batches}",
            "--peer=eager",
            "--session=fused,replay",
            "--rounds=3",
        ],
        [*suite, "bench_clip.py", "--steps=20,50", "--peer=eager", f"--rounds={rounds}"],
        [sys.executable, "phase_vocoder_time.py", "--device", device],
        [*suite, "bench_walk.py", "--batches=1", "--peer=compile", "--session=fused,replay", "--rounds=3"],
        [*suite, "bench_clip.py", "--steps=20", "--peer=compile", f"--rounds={rounds}"],
        [*suite, "bench_components.py", "--peer=eager", f"--rounds={rounds}"],
    ]
    for part in parts:
        left = 60 * limit - (time.monotonic() - started)
        if left <= 0:
            click.echo(f"no time left for {' '.join(part[1:])}")
            continue
        click.echo(f"\n{' '.join(part[1:])}  ({left:.0f} s left)")
        try:
            subprocess.run(part, cwd=HERE, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            click.echo("cut short by the limit; the rows so far are kept")
    click.echo(f"\n{time.monotonic() - started:.0f} s in all; rows in {ROWS}\n{verdict(device)}")


def why_not(device: str) -> str | None:
    """Why nothing can be measured here, or None."""
    from riffusion_engine.devices import choose_device
    from riffusion_engine.errors import DeviceError

    try:
        choose_device(device)
    except DeviceError as error:
        return f"{error.message}. {error.hint}"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "the peer, torch, sees no CUDA GPU. Install a CUDA build of torch"
    return None


def full_size_bundle(folder: Path = HERE.parent / ".full-size") -> Path:
    """A float16 bundle of random weights, made once."""
    bundle = folder / "bundle"
    if not (bundle / "riffusion.json").exists():
        from riffusion_export.full_size import write_full_size_checkpoint

        if not (folder / "checkpoint" / "model_index.json").exists():
            write_full_size_checkpoint(folder / "checkpoint")
        command = [
            sys.executable,
            "-m",
            "riffusion_rt",
            "export",
            str(folder / "checkpoint"),
            "-o",
            str(bundle),
        ]
        subprocess.run([*command, "--precision", "float16"], check=True)
    return bundle


def verdict(device: str) -> str:
    """Goal by goal, whether the newest rows reach it."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    lines = []
    for part, peer, figure, least in GOALS:
        values = [row[figure] for row in rows if _fits(row, part, peer, device) and figure in row]
        best = max(values, default=None)
        mark = "not measured" if best is None else f"{best:.1f}, {'reached' if best >= least else 'MISSED'}"
        lines.append(f"{part} beside {peer}: {figure} at least {least:g}: {mark}")
    return "\n".join(lines)


def _fits(row: dict[str, Any], part: str, peer: str, device: str) -> bool:
    return row.get("part") == part and row.get("device") == device and f" {peer} " in row.get("peer", "")


if __name__ == "__main__":
    main()
