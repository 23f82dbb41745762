"""A canvas of 100 seconds against one clip: peak memory, what a jury hears along it, and whether seams show.

    python benchmarks/canvas_length.py --run runs/mini

Each picture is made in a process of its own, whose peak resident memory is the system's figure. Seams are sought where
windows begin, in the picture's spectral flux. A window begins with a bar, and bars begin with an accent, so the rank
test compares with the middle of single clips: where the same bar begins, and no window does.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from ear import RUN, Ear
from numpy.typing import NDArray
from recording import record

CLIP_COLUMNS = 512
NEAR = 2
"""Columns on either side in which a seam would still be one."""


def make(prompt: str, columns: int, steps: int, model: str, picture: Path, more: int) -> None:
    """Generate one clip of so many columns, print its peak memory and seconds, and leave its picture.

    ``more`` clips of other seeds are left beside it.
    """
    from riffusion_rt import Clip, ClipRequest, Riffusion
    from riffusion_rt.canvas import Canvas

    with Riffusion(model) as riffusion:
        params = riffusion.manifest.spectrogram
        request = ClipRequest(
            prompt, steps=steps, duration_s=columns * params.hop_length / params.sample_rate
        )
        started = time.perf_counter()
        *_, clip = riffusion.iterate(request)
        seconds = time.perf_counter() - started
        canvas = Canvas.for_columns(columns, riffusion.manifest.latent)
    assert isinstance(clip, Clip) and clip.samples.shape[1] == columns * params.hop_length
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pictures = [np.asarray(clip.image)[:, :, 0]]
    with Riffusion(model) as riffusion:
        for seed in range(1, more + 1):
            *_, other = riffusion.iterate(ClipRequest(prompt, seed=seed, steps=steps))
            pictures.append(np.asarray(other.image)[:, :, 0])  # type: ignore[union-attr]
    np.save(picture, np.stack(pictures))
    borders = [start * riffusion.manifest.latent.vae_factor for start in canvas.starts[1:]]
    facts = {
        "peak_mb": peak_mb,
        "picture_and_sound_mb": (columns * params.bands * 3 + clip.samples.nbytes) / 2**20,
        "seconds": seconds,
        "borders": borders,
    }
    print(json.dumps(facts))


def flux(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean change of every band from a column to the next, ``(columns,)``; 0 for the first one."""
    change = np.abs(np.diff(picture.astype(np.float64), axis=1)).mean(axis=0)
    return np.concatenate([[0.0], change])


def seam_p_value(canvas: NDArray[np.uint8], borders: list[int], clips: NDArray[np.uint8]) -> float:
    """How likely the flux at borders would be as it is, were they middles of clips (two-sided rank test)."""
    from scipy.stats import mannwhitneyu

    inside = [border for border in borders if border < canvas.shape[1] - NEAR]
    middles = [_near(clip, clip.shape[1] // 2) for clip in clips]
    return float(mannwhitneyu([_near(canvas, border) for border in inside], middles).pvalue)


def _near(picture: NDArray[np.uint8], column: int) -> float:
    """The greatest flux around a column, in units of the picture's median."""
    spread = flux(picture)
    return float(spread[column - NEAR : column + NEAR + 1].max() / np.median(spread))


@click.command()
@RUN
@click.option(
    "--prompt", default="church bells", show_default=True, help="An instrument that the jury knows."
)
@click.option("--columns", default=10_000, show_default=True)
@click.option("--steps", default=8, show_default=True)
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--clips", default=16, show_default=True, help="Single clips to compare with.")
@click.option("--make-only", type=click.Path(path_type=Path), hidden=True)
def main(
    run: Path, prompt: str, columns: int, steps: int, model: str, clips: int, make_only: Path | None
) -> None:
    """Measure, and write a row to benchmarks/results/."""
    if make_only is not None:
        make(prompt, columns, steps, model, make_only, clips)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for width in (CLIP_COLUMNS, columns):
            path = Path(folder) / f"{width}.npy"
            command = [
                *(sys.executable, __file__, "--run", str(run), "--prompt", prompt),
                *("--columns", str(width), "--steps", str(steps), "--model", model, "--make-only", str(path)),
                *("--clips", str(clips if width == CLIP_COLUMNS else 0)),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[width] = json.loads(done.stdout.splitlines()[-1])
            click.echo(f"{width} columns: {found[width]['peak_mb']:.0f} MB, {found[width]['seconds']:.0f} s")
        (picture,), single = (np.load(Path(folder) / f"{width}.npy") for width in (columns, CLIP_COLUMNS))
    pieces = [
        picture[:, i : i + CLIP_COLUMNS] for i in range(0, columns - CLIP_COLUMNS + 1, CLIP_COLUMNS // 2)
    ]
    ear = Ear(run)
    heard, alone = (ear.names(np.stack(each)) for each in (pieces, single))
    one, wide = found[CLIP_COLUMNS], found[columns]
    grown = wide["peak_mb"] - (wide["picture_and_sound_mb"] - one["picture_and_sound_mb"])
    row = {
        "prompt": prompt,
        "columns": columns,
        "steps": steps,
        "model": model,
        "clip_peak_mb": one["peak_mb"],
        "canvas_peak_mb": wide["peak_mb"],
        "picture_and_sound_mb": wide["picture_and_sound_mb"],
        "memory_ratio_without_them": grown / one["peak_mb"],
        "seconds": wide["seconds"],
        "heard_as_prompt": float(np.mean([name == prompt for name in heard])),
        "single_clips_heard_as_prompt": float(np.mean([name == prompt for name in alone])),
        "heard_instead": sorted(set(heard) - {prompt}),
        "least_probability": float(ear.probability(np.stack(pieces), prompt).min()),
        "jury_right_about": ear.right_about(prompt),
        "seam_p_value": seam_p_value(picture, wide["borders"], single),
    }
    for name, value in row.items():
        click.echo(f"{name:28} {value}")
    record("canvas_length", **row)


if __name__ == "__main__":
    main()
