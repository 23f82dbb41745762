"""A song of three minutes against its plan: what a jury hears in each section, what comes back, and where bars lie.

    python benchmarks/song_form.py --run runs/mini

- sections: the jury's verdict (``ear.py``) on every clip-long piece of a section's sound, drawn anew from the finished
  file, so that joints, loudness and dynamics are heard too;
- repeats: correlation of chroma and of mel spectra between repeats, and between verses and choruses, without the bar
  that walks over to the next section; frames of 10 ms, so that what comes back must come back at its time;
- grid: the lag at which repeated sections' waves agree best, against their places in the plan; and where beats lie in
  the bars of each section, by the phase of its onsets at four beats to a bar.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from ear import RUN, Ear
from numpy.typing import NDArray
from recording import record

PLAN = 'intro 4 | verse 16 "jazz piano" | chorus 12 "electronic beats" | verse | chorus | outro 12'
CLIP_COLUMNS = 512
A4_HZ = 440.0
COARSE = 4
"""Bands averaged for the correlation of mel spectra: 128 of them."""


def chroma(mel: NDArray[np.float32]) -> NDArray[np.float64]:
    """(12, columns) loudness of each pitch class, from mel magnitudes (bands, columns) between 60 and 5,000 Hz."""
    highest = 2595 * np.log10(1 + 10_000 / 700)
    centres = 700 * (10 ** (np.linspace(0, highest, len(mel) + 2)[1:-1] / 2595) - 1)
    classes = np.zeros((12, mel.shape[1]))
    for band, hertz in enumerate(centres):
        if 60 <= hertz <= 5000:
            classes[round(12 * np.log2(hertz / A4_HZ)) % 12] += mel[band]
    return np.log1p(100 * classes / classes.max())


def correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Of two arrays of one height, cut to the shorter."""
    width = min(one.shape[1], other.shape[1])
    return float(np.corrcoef(one[:, :width].ravel(), other[:, :width].ravel())[0, 1])


def rise(mel: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much energy rises in each column."""
    level = np.log1p(100 * mel / mel.max())
    return np.maximum(np.diff(level, axis=1, prepend=level[:, :1]), 0).sum(axis=0)


def lag_ms(samples: NDArray[np.float32], first: int, again: int, length: int, rate: int) -> float:
    """By how much a repeat comes later than its place says, found within 50 ms by the waves' envelopes."""
    from scipy.signal import correlate, hilbert

    reach = rate // 20
    step = 22
    wave = [np.abs(hilbert(samples[at : at + length])) for at in (first, again)]
    early, late = (np.add.reduceat(each, np.arange(0, len(each), step)) for each in wave)
    early, late = early - early.mean(), late - late.mean()
    likeness = correlate(late, early, mode="same", method="fft")
    middle = len(late) // 2
    window = likeness[middle - reach // step : middle + reach // step + 1]
    return float((int(np.argmax(window)) - reach // step) * step * 1000 / rate)


def beat_phase_ms(mel: NDArray[np.float32], bar_columns: int, beats: int = 4) -> float:
    """Where beats lie in a bar, -half a beat to half a beat, by the phase of the rise at the beat's rate."""
    energy = rise(mel)
    energy = energy - energy.mean()
    turns = np.exp(-2j * np.pi * beats * np.arange(len(energy)) / bar_columns)
    return float(-np.angle(np.sum(energy * turns)) / (2 * np.pi) * bar_columns / beats * 10)


def compose(plan: str, steps: int | None, model: str, path: Path) -> tuple[dict[str, Any], float, float]:
    """Make the song by the command; its report, seconds and peak memory."""
    command = [sys.executable, "-m", "riffusion_rt", "song", plan, "--model", model]
    command += ["--steps", str(steps)] if steps else []
    watched = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024); print(done.stdout); "
        "sys.stderr.write(done.stderr); sys.exit(done.returncode)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", watched, *command, "-o", str(path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, _, document = done.stdout.partition("\n")
    return json.loads(document), time.perf_counter() - began, float(peak)


@click.command()
@RUN
@click.option("--plan", default=PLAN, show_default=True)
@click.option("--steps", type=int, help="The model's own, if not given.")
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option(
    "--song", type=click.Path(path_type=Path, exists=True), help="One made before, its --json beside it."
)
def main(run: Path, plan: str, steps: int | None, model: str, song: Path | None) -> None:
    """Measure, and write a row to benchmarks/results/."""
    from riffusion_rt.audio_file import read_audio
    from riffusion_rt.spectrogram import mel_spectrogram
    from riffusion_rt.spectrogram_image import MONO_PARAMS, image_from_mel

    with tempfile.TemporaryDirectory() as folder:
        path = song or Path(folder) / "song.wav"
        if song:
            made, seconds, peak = json.loads(song.with_suffix(".json").read_text()), 0.0, 0.0
        else:
            made, seconds, peak = compose(plan, steps, model, path)
        samples, rate = read_audio(path)
    ear = Ear(run)
    bar = samples.shape[1] // made["bars"]
    columns = bar // MONO_PARAMS.hop_length
    heard: list[dict[str, Any]] = []
    mels = []
    for section in made["sections"]:
        sound = samples[:, section["start"] : section["start"] + section["bars"] * bar]
        mel = mel_spectrogram(sound, MONO_PARAMS, columns=section["bars"] * columns)
        mels.append(mel[0])
        pieces = [
            mel[:, :, i : i + CLIP_COLUMNS] for i in range(0, mel.shape[2] - CLIP_COLUMNS + 1, CLIP_COLUMNS)
        ]
        pictures = np.stack([np.asarray(image_from_mel(piece, MONO_PARAMS))[:, :, 0] for piece in pieces])
        # The last clip of a section walks over to the next one.
        verdicts = ear.names(pictures)
        right = float(np.mean([verdict == section["prompt"] for verdict in verdicts]))
        heard.append(
            {
                "name": section["name"],
                "prompt": section["prompt"],
                "heard_as": ear.name_of_all(pictures),
                "right": round(right, 3),
                "heard": verdicts,
            }
        )
        click.echo(f"{section['name']:8} {section['prompt']:18} {right:.2f} {verdicts}")
    places = {
        name: [i for i, s in enumerate(made["sections"]) if s["name"] == name] for name in ("verse", "chorus")
    }
    # The last bar of a section walks over to the next one, and so differs where that one does.
    mels = [mel[:, :-columns] for mel in mels]
    coarse = [np.log1p(100 * m.reshape(-1, COARSE, m.shape[1]).mean(axis=1) / m.max()) for m in mels]
    tones = [chroma(m) for m in mels]

    def alike(one: int, other: int) -> dict[str, float]:
        return {
            "chroma": round(correlation(tones[one], tones[other]), 4),
            "mel": round(correlation(coarse[one], coarse[other]), 4),
        }

    (verse, verse_again), (chorus, chorus_again) = places["verse"][:2], places["chorus"][:2]
    starts = [section["start"] for section in made["sections"]]
    # Without the bars that walk over to the next section.
    length = (made["sections"][chorus]["bars"] - 1) * bar
    phases = {
        f"{section['name']} at {section['start_s']:.0f} s": round(beat_phase_ms(mel, columns), 1)
        for section, mel in zip(made["sections"], mels, strict=True)
    }
    row = {
        "model": model,
        "steps": steps,
        "plan": plan,
        "duration_s": made["duration_s"],
        "clips_drawn": made["clips"],
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "sections": heard,
        "jury_right_about": ear.right_about(*(section["prompt"] for section in made["sections"])),
        "choruses_alike": alike(chorus, chorus_again),
        "verses_alike": alike(verse, verse_again),
        "verse_and_chorus_alike": alike(verse, chorus),
        "exact_samples": samples.shape[1] == made["bars"] * columns * MONO_PARAMS.hop_length,
        "chorus_lag_ms": lag_ms(samples[0], starts[chorus], starts[chorus_again], length, rate),
        "verse_lag_ms": lag_ms(samples[0], starts[verse], starts[verse_again], length, rate),
        "beat_phase_ms": phases,
        # An attack is drawn a column early everywhere: what matters is whether the last section's is elsewhere.
        "drift_at_the_end_ms": round(list(phases.values())[-1] - next(iter(phases.values())), 1),
    }
    for name, value in row.items():
        if name != "sections":
            click.echo(f"{name:24} {value}")
    record("song_form", **row)


if __name__ == "__main__":
    main()
