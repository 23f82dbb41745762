"""Recordings and generated pictures enter; whether loops and joints can be told from the inside of a clip leaves.

    python benchmarks/phase_seams.py

Pictures of loops (rendered whole bars of every instrument, and what riffusion-mini draws) are decoded as loops and
played twice. Pictures of recordings are cut in two, the halves joined by reconstruction across the boundary. Beside
them what one would do otherwise: the loop with open ends played twice, and the halves decoded alone and butted. At the
seam and everywhere inside, three detectors:

- step: the loudest sample above 12 kHz, where no sound of a picture that ends at 10 kHz has anything but steps;
- flux: the change of the short-time spectrum relative to its level;
- jump: the distance from a sample to the next.

A seam is seamless if none of them exceeds the greatest value inside the clip, or inside the same picture reconstructed
with that moment in its middle (a loop turned by half, a recording undivided): an onset may well fall on a seam. A row
with counts and ratios (seam to the greatest inside; at most 1 is within the range) goes to
``benchmarks/results/phase.jsonl``.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from numpy.typing import NDArray
from phase_clips import HOP, RATE, MissingSource, clips
from recording import record

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import mel_bank
from riffusion_rt.joining import join_clips
from riffusion_rt.phase import waveform_from_mel

PARAMS = SpectrogramParams()
MAX_VALUE = 30e6
GENERATED = "generated"
PROMPTS = ("funky piano", "acoustic guitar chords", "strings", "church bells", "slap bass", "drums and bass")
RENDER_SEED = 303
STEP_HZ = 12_000
FRAME, FRAME_STEP = 1024, 256
# Samples around a seam that belong to it: half a flux frame to either side.
REACH = FRAME // 2

Array = NDArray[np.float64]
Mel = NDArray[np.float32]


def mel_of(samples: NDArray[np.floating]) -> Mel:
    """The mel amplitudes that a picture of 256 levels keeps, ``(1, bands, columns)``."""
    padded = np.pad(samples, PARAMS.win_length // 2, mode="reflect")
    window = np.hanning(PARAMS.win_length + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, PARAMS.win_length)[::HOP][: len(samples) // HOP]
    bank = mel_bank(PARAMS, np.arange(PARAMS.n_fft // 2 + 1) * RATE / PARAMS.n_fft)
    blocks = [frames[first : first + 64] for first in range(0, len(frames), 64)]
    mel = np.concatenate([np.abs(np.fft.rfft(block * window, PARAMS.n_fft)) @ bank for block in blocks])
    levels = np.floor(255 - 255 * (mel / mel.max()) ** PARAMS.power)
    return (((255 - levels) / 255) ** (1 / PARAMS.power) * MAX_VALUE).astype(np.float32).T[None]


def detectors(sound: Array) -> dict[str, Array]:
    """What each detector finds at every ``FRAME_STEP`` samples: the greatest value within ``REACH`` samples."""
    spectrum = np.fft.rfft(sound)
    spectrum[: int(STEP_HZ * len(sound) / RATE)] = 0
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::FRAME_STEP]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(FRAME)))
    level = np.linalg.norm(magnitudes, axis=1)
    floor = level.max() * 1e-2
    flux = np.linalg.norm(np.diff(magnitudes, axis=0), axis=1) / (level[1:] + level[:-1] + floor)
    by_sample = {"step": np.abs(np.fft.irfft(spectrum, len(sound))), "jump": np.abs(np.diff(sound, append=0))}
    count = len(flux)
    found = {
        name: np.array([values[FRAME_STEP * k : FRAME_STEP * k + FRAME].max() for k in range(count)])
        for name, values in by_sample.items()
    }
    return {**found, "flux": flux}


def seam_ratios(sound: Array, seam: int, unbroken: Array) -> dict[str, float]:
    """Each detector at the seam over its greatest value inside, or inside the ``unbroken`` sound of that moment."""
    ratios, inside = {}, detectors(unbroken)
    for name, values in detectors(sound).items():
        centres = FRAME_STEP * np.arange(len(values)) + FRAME // 2
        edge = (centres < 2 * FRAME) | (centres > len(sound) - 2 * FRAME)
        near = np.abs(centres - seam) <= REACH + FRAME_STEP
        own, other = values[~near & ~edge].max(), inside[name][8:-8].max()
        ratios[name] = float(values[near].max() / max(own, other, 1e-12))
    return ratios


def loop_sounds(mel: Mel, preset: str) -> tuple[dict[str, tuple[Array, int]], Array]:
    """A loop played twice, and what one gets without a circular reconstruction, each with its seam; and it turned."""
    loop, line = (waveform_from_mel(mel, PARAMS, preset=preset, loop=way)[0] for way in (True, False))
    turned = waveform_from_mel(np.roll(mel, mel.shape[2] // 2, axis=2), PARAMS, preset=preset, loop=True)[0]
    ways = {
        "loop": (np.tile(loop, 2).astype(np.float64), len(loop)),
        "open clip twice": (np.tile(line, 2).astype(np.float64), len(line)),
    }
    return ways, turned.astype(np.float64)


def joined_sounds(mel: Mel, preset: str) -> tuple[dict[str, tuple[Array, int]], Array]:
    """Two halves joined, and butted, each with its seam; and the whole."""
    whole = waveform_from_mel(mel, PARAMS, preset=preset)[0]
    half = mel.shape[2] // 2
    halves = (mel[:, :, :half], mel[:, :, half:])
    joined = np.concatenate(list(join_clips(halves, PARAMS, preset=preset)), axis=1)[0]
    butted = np.concatenate([waveform_from_mel(part, PARAMS, preset=preset)[0] for part in halves])
    ways = {
        "joined": (joined.astype(np.float64), half * HOP),
        "butted": (butted.astype(np.float64), half * HOP),
    }
    return ways, whole.astype(np.float64)


def generated() -> list[tuple[str, Mel]]:
    """What riffusion-mini draws."""
    from riffusion_rt import Riffusion
    from riffusion_rt.spectrogram_image import mel_from_image

    with Riffusion("riffusion-mini", device="cpu") as model:
        return [(prompt, mel_from_image(model.generate(prompt).image, PARAMS)) for prompt in PROMPTS]


def rendered() -> list[tuple[str, Mel]]:
    """A loop of whole bars for every instrument that training renders."""
    from PIL import Image

    from riffusion_rt.spectrogram_image import mel_from_image
    from riffusion_train.listener import LABELS
    from riffusion_train.rendered_clips import picture_of, render_clip
    from riffusion_train.rendering import Orchestra

    orchestra = Orchestra()
    pictures = [
        (label, picture_of(render_clip(orchestra, RENDER_SEED, i, label=label)[0]))
        for i, label in enumerate(LABELS)
    ]
    return [
        (label, mel_from_image(Image.fromarray(picture).convert("RGB"), PARAMS))
        for label, picture in pictures
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips-a-kind", type=int, default=2)
    parser.add_argument("--preset", default="balanced")
    arguments = parser.parse_args()
    seen: dict[str, int] = {}
    mels = []
    for clip in clips():
        if isinstance(clip, MissingSource):
            print(f"skipped {clip}")
            continue
        seen[clip.kind] = seen.get(clip.kind, 0) + 1
        if seen[clip.kind] <= arguments.clips_a_kind:
            mels.append((clip.name, mel_of(clip.samples)))
    ratios: dict[str, list[dict[str, float]]] = {}
    cases = [(name, joined_sounds(mel, arguments.preset)) for name, mel in mels]
    cases += [(name, loop_sounds(mel, arguments.preset)) for name, mel in [*rendered(), *generated()]]
    for name, (ways, unbroken) in cases:
        for way, (sound, seam) in ways.items():
            found = seam_ratios(sound, seam, unbroken)
            ratios.setdefault(way, []).append(found)
            print(f"{name:28}{way:18}" + "  ".join(f"{key} {value:7.3f}" for key, value in found.items()))
    summary = {
        way: {
            "clips": len(rows),
            "seamless": sum(max(row.values()) <= 1 for row in rows),
            **{
                key: {
                    "median": round(float(np.median([row[key] for row in rows])), 3),
                    "worst": round(max(row[key] for row in rows), 3),
                    "within": sum(row[key] <= 1 for row in rows),
                }
                for key in rows[0]
            },
        }
        for way, rows in ratios.items()
    }
    print(json.dumps(summary, indent=1))
    record("phase", benchmark="phase seams", preset=arguments.preset, seams=summary)


if __name__ == "__main__":
    main()
