"""Recordings remixed at two strengths: are their beats kept, and does the prompt take over?

    python benchmarks/remix_beats.py --listener runs/mini/listener.pt --unheard runs/mini/unheard.npz

Recordings are renders that neither the model nor the listener was trained on. Beats are onsets of the spectral flux,
matched within 50 ms, as beat trackers are judged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from recording import record

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
@click.option("--listener", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--unheard", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--source", "sources", multiple=True, default=("electronic beats", "drums", "piano"))
@click.option("--into", default="church bells", show_default=True)
@click.option("--takes", default=2, show_default=True, help="Recordings of each source.")
@click.option("--steps", default=10, show_default=True)
@click.option("--model", default="riffusion-mini", show_default=True)
def main(
    listener: Path, unheard: Path, sources: tuple[str, ...], into: str, takes: int, steps: int, model: str
) -> None:
    """Measure, and write a row to benchmarks/results/."""
    from PIL import Image

    from riffusion_rt import Clip, Riffusion
    from riffusion_rt.audio_file import read_audio, write_audio
    from riffusion_rt.picture_sound import sound_of_picture
    from riffusion_rt.remix import RemixRequest
    from riffusion_train.listener import LABELS, load_listener, probabilities

    ear, pictures = load_listener(listener), np.load(unheard)
    beats: dict[float, list[float]] = {0.5: [], 0.75: []}
    heard: dict[float, list[float]] = {0.0: [], 0.5: [], 0.75: []}
    exact = True
    with tempfile.TemporaryDirectory() as folder, Riffusion(model) as riffusion:
        for source in sources:
            for take in range(takes):
                pixels = np.repeat(pictures[source][take][:, :, None], 3, axis=2)
                path = Path(folder) / "source.wav"
                write_audio(path, sound_of_picture(pixels, riffusion.manifest.spectrogram, loop=True), 44_100)
                recording, rate = read_audio(path)
                heard[0.0].append(float(probabilities(ear, pixels[None, :, :, 0])[0, LABELS.index(into)]))
                for strength, scores in beats.items():
                    *_, clip = riffusion.remix(RemixRequest(path, into, strength=strength, steps=steps))
                    assert isinstance(clip, Clip)
                    exact &= clip.samples.shape == recording.shape and clip.sample_rate == rate
                    scores.append(f_measure(onsets(clip.samples, rate), onsets(recording, rate)))
                    drawn = np.asarray(clip.image.resize((512, 512), Image.Resampling.NEAREST))[None, :, :, 0]
                    heard[strength].append(float(probabilities(ear, drawn)[0, LABELS.index(into)]))
                    click.echo(
                        f"{source} {take} at {strength}: onsets {scores[-1]:.2f}, {into} {heard[strength][-1]:.2f}"
                    )
    row = {
        "model": model,
        "sources": sources,
        "into": into,
        "steps": steps,
        "exact_length": bool(exact),
        "onset_f_measure": {str(strength): float(np.mean(scores)) for strength, scores in beats.items()},
        "probability_of_prompt": {
            str(strength): float(np.mean(scores)) for strength, scores in heard.items()
        },
    }
    for name, value in row.items():
        click.echo(f"{name:22} {value}")
    record("remix_beats", **row)


if __name__ == "__main__":
    main()
