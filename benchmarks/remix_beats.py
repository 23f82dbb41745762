"""Recordings remixed at two strengths: are their beats kept, and does the prompt take over?

    python benchmarks/remix_beats.py --run runs/mini

Recordings are renders that neither the model nor the jury (``ear.py``) was trained on, of two soundfonts. Beats are
onsets of the spectral flux, matched within 50 ms, as beat trackers are judged.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from ear import RUN, Ear
from numpy.typing import NDArray
from recording import record

STRENGTHS = (0.5, 0.75)

TOLERANCE_S = 0.05
"""How far apart two onsets may be and still be one (the customary window of onset evaluation)."""


def onsets(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Seconds at which energy rises: peaks of the mel spectrogram's log flux above its surroundings."""
    from scipy.ndimage import median_filter
    from scipy.signal import find_peaks

    from riffusion_rt.resampling import resample, with_channels
    from riffusion_rt.spectrogram import mel_spectrogram
    from riffusion_rt.spectrogram_image import MONO_PARAMS

    mel = mel_spectrogram(resample(with_channels(samples, 1), rate, 44_100), MONO_PARAMS)[0]
    # 40 wider bands: single partials flicker, groups of them rise only when something is struck.
    bands = np.stack([group.mean(axis=0) for group in np.array_split(mel, 40)])
    level = np.log1p(100 * bands / bands.max())
    rise = np.maximum(level[:, 3:] - level[:, :-3], 0).sum(axis=0)
    above = rise - median_filter(rise, 51)
    peaks, _ = find_peaks(above, height=0.3 * np.percentile(above, 98), distance=6)
    return (peaks + 1.5) * MONO_PARAMS.hop_length / 44_100


def f_measure(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Harmonic mean of precision and recall, each onset matched at most once."""
    free, hits = list(found), 0
    for onset in wanted:
        near = [other for other in free if abs(other - onset) <= TOLERANCE_S]
        if near:
            free.remove(min(near, key=lambda other: abs(other - onset)))
            hits += 1
    return 2 * hits / max(1, len(found) + len(wanted))


@click.command()
@RUN
@click.option("--source", "sources", multiple=True, default=("electronic beats", "piano", "blues guitar"))
@click.option("--into", "targets", multiple=True, default=("strings", "church bells", "saxophone"))
@click.option("--takes", default=2, show_default=True, help="Recordings of each source.")
@click.option("--steps", type=int, help="Remix's own, if not given.")
@click.option("--method", type=click.Choice(["mix", "redraw"]), default="mix", show_default=True)
@click.option("--guidance", type=float, help="Remix's own, if not given.")
@click.option("--first-take", default=0, show_default=True, help="The first recording of each source.")
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    run: Path,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    takes: int,
    steps: int | None,
    method: Literal["mix", "redraw"],
    guidance: float | None,
    first_take: int,
    model: str,
    device: str,
) -> None:
    """Measure, and write a row to benchmarks/results/."""
    from riffusion_rt import Clip, RemixRequest, Riffusion
    from riffusion_rt.audio_file import read_audio, write_audio
    from riffusion_rt.picture_sound import sound_of_picture

    ear = Ear(run)
    rows: list[dict[str, Any]] = []
    chosen = range(first_take, first_take + takes)
    with tempfile.TemporaryDirectory() as folder, Riffusion(model, device=device) as riffusion:
        path = Path(folder) / "source.wav"
        for source, take, into, strength in product(sources, chosen, targets, STRENGTHS):
            pixels = np.repeat(ear.unheard(source)[take][:, :, None], 3, axis=2)
            write_audio(path, sound_of_picture(pixels, riffusion.manifest.spectrogram, loop=True), 44_100)
            recording, rate = read_audio(path)
            request = RemixRequest(
                path, into, strength=strength, steps=steps, guidance=guidance, method=method
            ).resolved(riffusion.manifest.defaults)
            *_, clip = riffusion.remix(request)
            assert isinstance(clip, Clip)
            after = np.asarray(clip.image)[None, :, :, 0]
            rows.append(
                {
                    "source": source,
                    "into": into,
                    "strength": strength,
                    "exact": clip.samples.shape == recording.shape and clip.sample_rate == rate,
                    "onsets": f_measure(onsets(clip.samples, rate), onsets(recording, rate)),
                    "before": float(ear.probability(pixels[None, :, :, 0], into)[0]),
                    "after": float(ear.probability(after, into)[0]),
                    "heard_as": ear.names(after)[0],
                }
            )
            click.echo(rows[-1])
    row: dict[str, Any] = {
        "model": model,
        "sources": sources,
        "into": targets,
        "takes": takes,
        "first_take": first_take,
        "steps": request.steps,
        "guidance": request.guidance,
        "method": method,
        "device": device,
    }
    row["jury_right_about"] = ear.right_about(*sources, *targets)
    row["exact_length"] = all(each["exact"] for each in rows)
    for strength in STRENGTHS:
        at = [each for each in rows if each["strength"] == strength]
        row[f"strength {strength}"] = {
            "onset_f_measure": float(np.mean([each["onsets"] for each in at])),
            "onset_f_by_source": {
                source: float(np.mean([each["onsets"] for each in at if each["source"] == source]))
                for source in sources
            },
            "heard_as_prompt": float(np.mean([each["heard_as"] == each["into"] for each in at])),
            "heard_as_prompt_by_source": {
                source: float(
                    np.mean([each["heard_as"] == each["into"] for each in at if each["source"] == source])
                )
                for source in sources
            },
            "heard_among_players": float(np.mean([each["after"] > 0.5 for each in at])),
            "heard_among_players_by_source": {
                source: float(np.mean([each["after"] > 0.5 for each in at if each["source"] == source]))
                for source in sources
            },
            "probability_before": float(np.mean([each["before"] for each in at])),
            "probability_after": float(np.mean([each["after"] for each in at])),
        }
    for name, value in row.items():
        click.echo(f"{name:22} {value}")
    record("remix_beats", **row)


if __name__ == "__main__":
    main()
