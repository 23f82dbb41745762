"""Nothing in, the seed images of the package out: synthesized rhythms of several tempi as small spectrogram pictures.

    python -m riffusion_train.seed_patterns riffusion_rt/seed_images

Every sound is computed here from sines and noise, so that the pictures are nobody else's. Each loops in whole beats.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.whole_file import whole_file
from riffusion_train.rendered_clips import COLUMNS, picture_of
from riffusion_train.rendering import SAMPLE_RATE

Sound = NDArray[np.float64]

LOOP = 225_792
"""Samples of a clip: 512 columns of 441."""

LEVELS = 24
"""Grey levels of a shipped picture: noise of a thousandth of the loudest magnitude, at a third of the size."""

FLOOR = 0.12
"""Darkness below which a picture is left white: it compresses, and is 70 dB below the loudest."""


@dataclass(frozen=True)
class Pattern:
    """A loop: so many beats, and what each of its sixteenths plays."""

    name: str
    beats: int
    sounds: str
    play: Callable[[int, int], list[tuple[Sound, float]]]
    """(sixteenth, beats) to sounds with levels that begin there."""

    @property
    def bpm(self) -> float:
        """Beats a minute."""
        return 60 * self.beats * SAMPLE_RATE / LOOP


def _time(seconds: float) -> Sound:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def kick() -> Sound:
    """A sine that falls from 150 to 48 Hz."""
    time = _time(0.35)
    sweep = 48 * time + (102 / 28) * (1 - np.exp(-28 * time))
    return np.asarray(np.sin(2 * np.pi * sweep) * np.exp(-9 * time))


def snare() -> Sound:
    """Noise over a drum head's two tones."""
    time = _time(0.22)
    noise = np.random.default_rng(1).standard_normal(len(time))
    tones = np.sin(2 * np.pi * 185 * time) + 0.7 * np.sin(2 * np.pi * 278 * time)
    return np.asarray(0.5 * noise * np.exp(-22 * time) + 0.5 * tones * np.exp(-26 * time))


def hat(seconds: float = 0.06) -> Sound:
    """Noise without its lower half."""
    time = _time(seconds)
    noise = np.diff(np.random.default_rng(2).standard_normal(len(time) + 1))
    return np.asarray(0.25 * noise * np.exp(-4.5 / seconds * time))


def bar(pitch: float, *, decay: float = 7.0) -> Sound:
    """A struck bar: a marimba's is tuned to its fourth and about tenth harmonic."""
    time = _time(0.9)
    partials = ((1.0, 1.0, 1.0), (3.93, 0.35, 3.0), (9.4, 0.12, 7.0))
    return np.asarray(
        sum(
            level * np.sin(2 * np.pi * pitch * ratio * time) * np.exp(-decay * faster * time)
            for ratio, level, faster in partials
        )
    )


def string(pitch: float, seconds: float = 0.5) -> Sound:
    """A plucked low string: harmonics that die the sooner the higher they are."""
    time = _time(seconds)
    return np.asarray(
        sum(np.sin(2 * np.pi * pitch * h * time) / h * np.exp(-(3 + h) * time) for h in range(1, 14))
    )


def hertz(midi: int) -> float:
    """The frequency of a MIDI pitch."""
    return float(440 * 2 ** ((midi - 69) / 12))


def _beat(sixteenth: int, _: int) -> list[tuple[Sound, float]]:
    beat, within = divmod(sixteenth, 4)
    struck = [(hat(), 0.8 if within == 0 else 0.5)] if within % 2 == 0 else []
    if within == 0:
        struck.append((kick(), 1.0) if beat % 2 == 0 else (snare(), 0.8))
    if within == 2 and beat % 4 == 2:
        struck.append((kick(), 0.7))
    return struck


def _agile(sixteenth: int, _: int) -> list[tuple[Sound, float]]:
    struck: list[tuple[Sound, float]] = [(hat(0.04), 0.9 if sixteenth % 4 == 0 else 0.45)]
    if sixteenth % 16 in (0, 3, 6, 10, 12):
        struck.append((kick(), 0.9))
    if sixteenth % 8 == 4:
        struck.append((snare(), 0.7))
    struck.append((bar(hertz((60, 67, 72, 75)[sixteenth % 4]), decay=14), 0.25))
    return struck


def _marimba(sixteenth: int, beats: int) -> list[tuple[Sound, float]]:
    if sixteenth % 2:
        return []
    chord = ((60, 64, 67, 72), (57, 60, 64, 69))[sixteenth >= 2 * beats]
    melody = (0, 2, 1, 3, 2, 1, 0, 2)
    struck = [(bar(hertz(chord[melody[sixteenth // 2 % 8]])), 1.0 if sixteenth % 4 == 0 else 0.7)]
    return [*struck, (bar(hertz(chord[0] - 12), decay=4), 0.8)] if sixteenth % 8 == 0 else struck


def _motorway(sixteenth: int, beats: int) -> list[tuple[Sound, float]]:
    struck: list[tuple[Sound, float]] = []
    if sixteenth % 4 == 0:
        struck.append((kick(), 1.0))
    if sixteenth % 4 == 2:
        struck += [(hat(0.15), 0.8)]
    if sixteenth % 2 == 0:
        root = (33, 36)[sixteenth >= 2 * beats]
        struck.append((string(hertz(root + 12 * (sixteenth % 4 == 2)), 0.3), 0.6))
    return struck


def _vibes(sixteenth: int, beats: int) -> list[tuple[Sound, float]]:
    if sixteenth % 4:
        return []
    chords = ((62, 65, 69, 72), (60, 64, 67, 71))[sixteenth >= 2 * beats]
    struck = [(bar(hertz(pitch), decay=2.2), 0.5) for pitch in chords] if sixteenth % 8 == 0 else []
    return [*struck, (bar(hertz(chords[sixteenth // 4 % 4] + 12), decay=2.5), 0.7), (hat(0.05), 0.3)]


PATTERNS: tuple[Pattern, ...] = (
    Pattern("beat-70", 6, "kick, snare and hats", _beat),
    Pattern("beat-94", 8, "kick, snare and hats", _beat),
    Pattern("beat-117", 10, "kick, snare and hats", _beat),
    Pattern("beat-141", 12, "kick, snare and hats", _beat),
    Pattern("agile-94", 8, "quick sixteenths over a broken beat", _agile),
    Pattern("marimba-94", 8, "marimba in eighths", _marimba),
    Pattern("motorway-94", 8, "four to the floor, a driving bass", _motorway),
    Pattern("vibes-94", 8, "slow vibraphone chords", _vibes),
    Pattern("marimba-117", 10, "marimba in eighths", _marimba),
)


def rendered(pattern: Pattern) -> NDArray[np.float32]:
    """The loop, float32 (225,792,) in ±1; tails are folded over its start."""
    out = np.zeros(LOOP)
    for sixteenth in range(4 * pattern.beats):
        at = round(sixteenth * LOOP / (4 * pattern.beats))
        for sound, level in pattern.play(sixteenth, pattern.beats):
            places = (at + np.arange(len(sound))) % LOOP
            np.add.at(out, places, level * sound)
    return np.asarray(out / np.abs(out).max(), np.float32)


def drawn(pattern: Pattern) -> NDArray[np.uint8]:
    """The picture, uint8 (512, 512) grey, of few levels."""
    picture = picture_of(rendered(pattern))
    darkness = 1 - picture / 255
    darkness[darkness < FLOOR] = 0
    return np.asarray(np.rint(255 * (1 - np.rint(darkness * (LEVELS - 1)) / (LEVELS - 1))), np.uint8)


def write_seed_images(folder: Path) -> list[Path]:
    """Draw all patterns into ``folder`` with their listing; the same patterns give the same bytes."""
    from PIL import Image

    from riffusion_rt.spectrogram_image import MONO_PARAMS, exif_bytes

    assert COLUMNS == 512
    written = []
    for pattern in PATTERNS:
        path = folder / f"{pattern.name}.png"
        with whole_file(path) as file:
            grey = Image.fromarray(drawn(pattern)).quantize(LEVELS)
            grey.save(file, "PNG", optimize=True, exif=exif_bytes(MONO_PARAMS))
        written.append(path)
    listing = [
        {"name": each.name, "bpm": round(each.bpm, 2), "beats": each.beats, "sounds": each.sounds}
        for each in PATTERNS
    ]
    with whole_file(folder / "seed_images.json") as file:
        file.write((json.dumps(listing, indent=1) + "\n").encode())
    return written


if __name__ == "__main__":
    for written_path in write_seed_images(Path(sys.argv[1])):
        print(written_path, written_path.stat().st_size)
