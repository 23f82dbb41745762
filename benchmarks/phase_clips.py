"""Names of kinds enter; clips of sound and pictures leave, rendered here from what Debian packages bring.

    apt-get install fluidsynth fluid-soundfont-gm musescore-general-soundfont-small sonic-pi-samples

Eleven kinds, four clips or more of each. A kind whose package is missing is skipped, and the reason given.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 44_100
COLUMNS = 512
HOP = 441
SAMPLES = COLUMNS * HOP

SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
)
SONIC_PI = Path("/usr/share/sonic-pi/samples")

_TICKS = 480
_TEMPO_BPM = 93.75
_DRUM_CHANNEL = 9
_MINOR = (0, 3, 5, 7, 10)
_MAJOR = (0, 2, 4, 7, 9)


class MissingSource(Exception):
    """A package that a kind of clip needs is not installed."""


@dataclass(frozen=True)
class Note:
    """One note of a score; times and lengths in beats."""

    beat: float
    length: float
    key: int
    velocity: int
    channel: int = 0


@dataclass(frozen=True)
class SoundClip:
    """``SAMPLES`` samples in ±1."""

    kind: str
    name: str
    samples: NDArray[np.float32]


def clips(kinds: tuple[str, ...] | None = None) -> Iterator[SoundClip | MissingSource]:
    """All clips of these kinds (all kinds by default), or why a kind has none."""
    for kind, make in KINDS.items():
        if kinds is not None and kind not in kinds:
            continue
        try:
            yield from make(kind)
        except MissingSource as reason:
            yield MissingSource(f"{kind}: {reason}")


def _instruments(*programs: int, low: int, high: int, notes_a_beat: float = 2, chord: int = 1, font: int = 0):
    def make(kind: str) -> Iterator[SoundClip]:
        for number, program in enumerate(programs):
            rng = np.random.default_rng([number, program])
            score = _phrase(rng, low, high, notes_a_beat, chord)
            yield SoundClip(kind, f"{kind}-{program}", _render(score, {0: program}, SOUNDFONTS[font]))

    return make


def _mixes(kind: str) -> Iterator[SoundClip]:
    bands = ((0, 33, 56), (24, 32, 73), (80, 38, 81), (48, 34, 65), (4, 36, 66))
    for number, (chords, bass, lead) in enumerate(bands):
        rng = np.random.default_rng([7, number])
        score = [
            *_phrase(rng, 48, 72, 1, 3, channel=0),
            *_phrase(rng, 28, 45, 2, 1, channel=1),
            *_phrase(rng, 60, 84, 2, 1, channel=2),
            *_beat(rng),
        ]
        sound = _render(score, {0: chords, 1: bass, 2: lead}, SOUNDFONTS[number % 2])
        yield SoundClip(kind, f"{kind}-{number}", sound)


def _sonic_pi(*names: str) -> Callable[[str], Iterator[SoundClip]]:
    def make(kind: str) -> Iterator[SoundClip]:
        for name in names:
            yield SoundClip(kind, name, _recording(name))

    return make


def _synthetic(kind: str) -> Iterator[SoundClip]:
    rng = np.random.default_rng(5)
    time = np.arange(SAMPLES) / RATE
    white = rng.standard_normal(SAMPLES)
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.arange(1, SAMPLES // 2 + 2)), SAMPLES)
    sweep = np.sin(2 * np.pi * 60 * 5.12 / np.log(100) * (np.exp(time / 5.12 * np.log(100)) - 1))
    steady = sum(np.sin(2 * np.pi * f * time + f) for f in (55, 220.7, 441, 1234.5, 3210, 7777))
    pulses = (np.arange(SAMPLES) % 4410 < 3).astype(float)
    vibrato = sum(
        np.sin(h * (2 * np.pi * 330 * time + 2 * np.sin(2 * np.pi * 5 * time))) / h for h in range(1, 20)
    )
    sounds = {
        "white": white,
        "pink": pink,
        "sweep": sweep,
        "sines": steady,
        "pulses": pulses,
        "vibrato": vibrato,
    }
    for name, sound in sounds.items():
        yield SoundClip(kind, name, _level(sound))


def _phrase(
    rng: np.random.Generator, low: int, high: int, notes_a_beat: float, chord: int, channel: int = 0
) -> list[Note]:
    scale = (_MINOR, _MAJOR)[int(rng.integers(2))]
    root = int(rng.integers(12))
    keys = [key for key in range(low, high) if (key - root) % 12 in scale]
    score, place = [], int(rng.integers(len(keys)))
    step = 1 / notes_a_beat
    for beat in np.arange(0, 8, step):
        if rng.random() < 0.15:
            continue
        place = int(np.clip(place + rng.integers(-3, 4), 0, len(keys) - 1))
        length = step * float(rng.choice([0.5, 0.9, 1.5]))
        for voice in range(chord):
            key = keys[min(place + 2 * voice, len(keys) - 1)]
            score.append(Note(float(beat), length, key, int(rng.integers(60, 120)), channel))
    return score


def _beat(rng: np.random.Generator) -> list[Note]:
    kick, snare, hat, crash = 36, 38, 42, 49
    score = [Note(0, 0.5, crash, 100, _DRUM_CHANNEL)]
    for eighth in range(16):
        beat = eighth / 2
        score.append(Note(beat, 0.2, hat, int(rng.integers(50, 90)), _DRUM_CHANNEL))
        if eighth % 4 == 0 or rng.random() < 0.15:
            score.append(Note(beat, 0.2, kick, 110, _DRUM_CHANNEL))
        if eighth % 4 == 2:
            score.append(Note(beat, 0.2, snare, 105, _DRUM_CHANNEL))
    return score


def _render(score: list[Note], programs: dict[int, int], soundfont: Path) -> NDArray[np.float32]:
    if shutil.which("fluidsynth") is None:
        raise MissingSource("apt-get install fluidsynth")
    if not soundfont.exists():
        raise MissingSource("apt-get install fluid-soundfont-gm musescore-general-soundfont-small")
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        midi.write_bytes(_midi(score, programs))
        command = ["fluidsynth", "-ni", "-q", "-r", str(RATE), "-F", str(wave), "-O", "float", "-T", "wav"]
        subprocess.run([*command, str(soundfont), str(midi)], check=True, capture_output=True)
        return _level(_first_channel(wave))


def _midi(score: list[Note], programs: dict[int, int]) -> bytes:
    """A one-track standard MIDI file."""
    events: list[tuple[int, int, bytes]] = []
    tempo = round(60e6 / _TEMPO_BPM)
    events.append((0, 0, b"\xff\x51\x03" + tempo.to_bytes(3, "big")))
    events += [(0, 1, bytes((0xC0 | channel, program))) for channel, program in programs.items()]
    for note in score:
        start, end = round(note.beat * _TICKS), round((note.beat + note.length) * _TICKS)
        events.append((start, 3, bytes((0x90 | note.channel, note.key, note.velocity))))
        events.append((end, 2, bytes((0x80 | note.channel, note.key, 0))))
    events.sort(key=lambda event: event[:2])
    track, now = b"", 0
    for tick, _, message in events:
        track += _variable_length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS) + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable_length(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | (number & 0x7F))
    return bytes(reversed(digits))


def _recording(name: str) -> NDArray[np.float32]:
    path = SONIC_PI / f"{name}.flac"
    if not path.exists():
        raise MissingSource("apt-get install sonic-pi-samples")
    sound = _first_channel(path)
    return _level(np.tile(sound, -(-SAMPLES // len(sound))))


def _first_channel(path: Path) -> NDArray[np.float64]:
    import soundfile

    sound, rate = soundfile.read(path, always_2d=True)
    if rate != RATE:
        from scipy.signal import resample_poly

        sound = resample_poly(sound, RATE, rate, axis=0)
    return sound[:, 0]


def _level(sound: NDArray[np.floating]) -> NDArray[np.float32]:
    """Exactly a clip's length, peaking at 0.9."""
    cut = np.zeros(SAMPLES)
    cut[: len(sound)] = sound[:SAMPLES]
    return (cut * 0.9 / max(np.abs(cut).max(), 1e-9)).astype(np.float32)


KINDS: dict[str, Callable[[str], Iterator[SoundClip]]] = {
    "piano": _instruments(0, 1, 3, 4, 6, low=40, high=84, chord=2),
    "guitar": _instruments(24, 25, 26, 29, 30, low=40, high=72, notes_a_beat=3),
    "strings": _instruments(40, 42, 48, 52, 89, low=48, high=80, notes_a_beat=0.5, chord=3),
    "winds": _instruments(56, 61, 65, 71, 73, low=52, high=84, font=1),
    "bass": _instruments(32, 33, 36, 38, low=26, high=48),
    "bells": _instruments(9, 11, 12, 14, low=60, high=90, chord=2),
    "organ and synth": _instruments(16, 19, 62, 81, low=44, high=80, notes_a_beat=1, chord=2),
    "mix": _mixes,
    "drums": _sonic_pi("loop_amen_full", "loop_industrial", "loop_tabla", "loop_breakbeat", "loop_mika"),
    "texture": _sonic_pi(
        "ambi_choir", "ambi_glass_rub", "ambi_lunar_land", "vinyl_hiss", "loop_garzul", "guit_em9"
    ),
    "synthetic": _synthetic,
}
