"""Music theory in, notes out: a phrase of whole beats that loops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from riffusion_train.catalogue import Instrument

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}
PROGRESSIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3), (0, 4), (1, 4, 0, 0), (3, 0)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 5), (0, 6), (0, 3), (1, 4, 0, 0)),
}
"""Scale degrees (0-based) that chords are built on, spread evenly over the clip."""

SWINGING_FEELS = frozenset({"jazz", "blues"})
"""Feels whose off-beats come late, at two thirds of a beat."""

KICK, SNARE, CLAP, CLOSED_HAT, OPEN_HAT, RIDE, CRASH, LOW_TOM, HIGH_TOM = 36, 38, 39, 42, 46, 51, 49, 45, 50
"""General MIDI percussion keys."""


@dataclass(frozen=True)
class Note:
    """``start`` and ``length`` in beats (a grace note may start just before 0), MIDI pitch, velocity 1 to 127."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Setting:
    """What the players of one clip agree on."""

    beats: int
    key: int
    mode: str
    progression: tuple[int, ...]

    def degree_at(self, beat: float) -> int:
        """The chord's scale degree that sounds at ``beat``."""
        index = int(beat % self.beats * len(self.progression) / self.beats)
        return self.progression[min(index, len(self.progression) - 1)]

    def chord_at(self, beat: float, size: int = 3) -> list[int]:
        """Pitch offsets from C0's octave of the chord at ``beat``: stacked thirds of the scale."""
        scale, degree = SCALES[self.mode], self.degree_at(beat)
        return [self.key + scale[(degree + 2 * k) % 7] + 12 * ((degree + 2 * k) // 7) for k in range(size)]


def draw_setting(rng: np.random.Generator, beats: int, mode: str | None = None) -> Setting:
    """Key, mode and progression for a clip of ``beats`` beats."""
    mode = mode or str(rng.choice(["major", "minor"]))
    options = PROGRESSIONS[mode]
    return Setting(beats, int(rng.integers(12)), mode, options[int(rng.integers(len(options)))])


def compose(rng: np.random.Generator, instrument: Instrument, setting: Setting, pattern: str) -> list[Note]:
    """The notes that ``instrument`` plays in ``setting``, in the manner of its feel and of ``pattern``."""
    feel = instrument.feel
    if feel == "beats":
        return _beats(rng, setting, electronic=instrument.label == "electronic beats")
    if feel == "bells":
        return _bells(rng, instrument, setting)
    if feel == "funk":
        return _funk(rng, instrument, setting)
    if feel == "blues":
        return _blues(rng, instrument, setting)
    if feel == "bass":
        return _bass(rng, instrument, setting)
    if feel == "strum":
        return (
            _strum(rng, instrument, setting) if pattern == "chords" else _arpeggio(rng, instrument, setting)
        )
    if feel == "power":
        return _power(rng, instrument, setting)
    if feel == "jazz":
        return (
            _jazz_chords(rng, instrument, setting)
            if pattern == "chords"
            else _melody(rng, instrument, setting, swing=True)
        )
    if pattern == "arpeggio" or pattern == "riff":
        return _arpeggio(rng, instrument, setting)
    if pattern == "melody":
        return _melody(rng, instrument, setting)
    return _chords(rng, instrument, setting, sustained=pattern == "sustained")


def _velocity(rng: np.random.Generator, middle: int = 92, spread: int = 10) -> int:
    return int(np.clip(rng.normal(middle, spread), 30, 127))


def _near(pitch: int, low: int, high: int, around: float) -> int:
    """``pitch`` moved by octaves to lie in range, as near to ``around`` as can be."""
    candidates = [p for p in range(pitch % 12, 128, 12) if low <= p <= high]
    return min(candidates, key=lambda p: abs(p - around)) if candidates else int(np.clip(pitch, low, high))


def _middle(rng: np.random.Generator, instrument: Instrument) -> float:
    return float(rng.uniform(instrument.low + 8, instrument.high - 10))


def _chords(
    rng: np.random.Generator, instrument: Instrument, setting: Setting, *, sustained: bool
) -> list[Note]:
    middle = min(_middle(rng, instrument), 66.0)
    step = setting.beats / len(setting.progression) if sustained else float(rng.choice([1.0, 2.0]))
    notes: list[Note] = []
    for beat in np.arange(0, setting.beats, step):
        chord = setting.chord_at(float(beat))
        notes += [
            Note(float(beat), step * 0.95, _near(p, instrument.low, instrument.high, middle), _velocity(rng))
            for p in chord
        ]
        notes.append(
            Note(
                float(beat),
                step * 0.95,
                _near(chord[0], instrument.low, instrument.high, middle - 14),
                _velocity(rng),
            )
        )
    return notes


def _arpeggio(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    middle, step = _middle(rng, instrument), float(rng.choice([0.25, 0.5, 0.5]))
    shape = [(0, 1, 2, 1), (0, 1, 2, 3), (0, 2, 1, 2), (3, 2, 1, 0)][int(rng.integers(4))]
    notes: list[Note] = []
    for index, beat in enumerate(np.arange(0, setting.beats, step)):
        chord = setting.chord_at(float(beat))
        base = _near(chord[0], instrument.low, instrument.high, middle - 6)
        tones = [base, base + chord[1] - chord[0], base + chord[2] - chord[0], base + 12]
        pitch = int(np.clip(tones[shape[index % 4]], instrument.low, instrument.high))
        notes.append(Note(float(beat), step * 1.6, pitch, _velocity(rng, 96 if index % 4 == 0 else 84)))
    return notes


def _melody(
    rng: np.random.Generator, instrument: Instrument, setting: Setting, *, swing: bool = False
) -> list[Note]:
    scale = SCALES[setting.mode]
    pitches = [p for p in range(instrument.low, instrument.high + 1) if (p - setting.key) % 12 in scale]
    place = int(len(pitches) * rng.uniform(0.3, 0.7))
    lengths = [0.5, 0.5, 0.5, 1.0, 1.0, 1.5] if swing else [0.5, 0.5, 1.0, 1.0, 2.0]
    notes: list[Note] = []
    beat = 0.0
    while beat < setting.beats - 1e-6:
        length = min(float(rng.choice(lengths)), setting.beats - beat)
        place = int(np.clip(place + rng.integers(-2, 3), 0, len(pitches) - 1))
        pitch = pitches[place]
        if beat % 1 == 0:
            chord = {p % 12 for p in setting.chord_at(beat)}
            pitch = min(
                (p for p in pitches if p % 12 in chord), key=lambda p: abs(p - pitches[place]), default=pitch
            )
        late = 1 / 6 if swing and beat % 1 == 0.5 else 0.0
        if rng.random() > 0.12:
            notes.append(Note(beat + late, (length - late) * 0.92, pitch, _velocity(rng, 98)))
        beat += length
    return notes


def _jazz_chords(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    notes: list[Note] = []
    for beat in range(setting.beats):
        chord = setting.chord_at(beat, size=5)
        walk = chord[int(rng.integers(4))] if beat % 2 else chord[0]
        notes.append(Note(beat, 0.9, _near(walk, 36, 52, 43), _velocity(rng, 80)))
        where = [0.0, 2 / 3, 1 / 3][int(rng.choice(3, p=[0.35, 0.5, 0.15]))]
        if rng.random() < 0.75:
            voicing = [_near(p, instrument.low, instrument.high, 62) for p in chord[1:]]
            notes += [
                Note(beat + where, float(rng.choice([0.25, 0.6])), p, _velocity(rng, 84)) for p in voicing
            ]
    return notes + [n for n in _melody(rng, instrument, setting, swing=True) if rng.random() < 0.6]


def _funk(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    hits = rng.random(16) < np.tile([0.85, 0.25, 0.45, 0.6], 4)
    bass = rng.random(16) < np.tile([0.9, 0.15, 0.3, 0.45], 4)
    notes: list[Note] = []
    for index in range(setting.beats * 4):
        beat = index / 4
        chord = setting.chord_at(beat, size=4)
        if hits[index % 16]:
            notes += [
                Note(beat, 0.16, _near(p, instrument.low, instrument.high, 65), _velocity(rng, 102))
                for p in chord
            ]
        if bass[(index + 1) % 16]:
            notes.append(Note(beat, 0.2, _near(chord[0], 36, 55, 40 + 12 * (index % 2)), _velocity(rng, 100)))
    return notes


def _blues(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    pitches = [
        p for p in range(instrument.low, instrument.high + 1) if (p - setting.key) % 12 in SCALES["blues"]
    ]
    place = int(len(pitches) * rng.uniform(0.4, 0.7))
    notes: list[Note] = []
    for index in range(setting.beats * 2):
        beat = index // 2 + (2 / 3 if index % 2 else 0.0)
        if rng.random() < 0.3 and index % 2 == 0:
            root = _near(setting.key, instrument.low, instrument.high, 50)
            notes += [
                Note(beat, 0.6, root + interval, _velocity(rng, 90))
                for interval in (0, 7, 9 if index % 4 else 7)
            ]
        if rng.random() < 0.72:
            place = int(np.clip(place + rng.integers(-2, 3), 0, len(pitches) - 1))
            notes.append(Note(beat, 0.62 if index % 2 == 0 else 0.36, pitches[place], _velocity(rng, 102)))
            if rng.random() < 0.2:
                notes.append(Note(beat - 0.08, 0.1, pitches[place] - 1, _velocity(rng, 80)))
    return notes


def _bass(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    step = float(rng.choice([0.5, 0.5, 0.25, 1.0]))
    keep = rng.random(16) < (0.9 if step >= 0.5 else 0.55)
    jumps = rng.choice([0, 0, 0, 7, 12, 2], size=16)
    notes: list[Note] = []
    for index, beat in enumerate(np.arange(0, setting.beats, step)):
        if keep[index % 16] or index % 8 == 0:
            root = _near(
                setting.chord_at(float(beat))[0], instrument.low, instrument.low + 13, instrument.low + 6
            )
            pitch = min(root + int(jumps[index % 16]) * (index % 8 != 0), instrument.high)
            notes.append(Note(float(beat), step * 0.85, pitch, _velocity(rng, 104)))
    return notes


def _strum(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    pattern = [(1, 0, 1, 1, 0, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1, 1), (1, 0, 1, 0, 1, 0, 1, 1)][
        int(rng.integers(3))
    ]
    notes: list[Note] = []
    for index in range(setting.beats * 2):
        if pattern[index % 8]:
            chord = setting.chord_at(index / 2)
            root = _near(chord[0], instrument.low, instrument.high, 45)
            strings = sorted(
                {root, root + 7, *(_near(p, root, instrument.high, 60) for p in chord), root + 12}
            )
            order = strings if index % 2 == 0 else strings[::-1][:4]
            notes += [
                Note(index / 2 + 0.025 * k, 0.6, p, _velocity(rng, 92 if index % 2 == 0 else 76))
                for k, p in enumerate(order)
            ]
    return notes


def _power(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    keep = rng.random(8) < 0.75
    keep[0] = True
    return [
        Note(
            index / 2,
            0.42,
            _near(setting.chord_at(index / 2)[0], instrument.low, instrument.high, 46) + interval,
            _velocity(rng, 104),
        )
        for index in range(setting.beats * 2)
        if keep[index % 8]
        for interval in (0, 7, 12)
    ]


def _bells(rng: np.random.Generator, instrument: Instrument, setting: Setting) -> list[Note]:
    scale = SCALES["major"]
    base = int(rng.integers(instrument.low, instrument.high - 14))
    ring = [base + scale[d % 7] + 12 * (d // 7) for d in (7, 6, 5, 4, 3, 2, 1, 0)][: int(rng.integers(3, 9))]
    step = float(rng.choice([0.5, 1.0, 1.0, 2.0]))
    order = list(range(len(ring)))
    notes: list[Note] = []
    for index, beat in enumerate(np.arange(0, setting.beats, step)):
        if index and index % len(ring) == 0 and rng.random() < 0.6:
            rng.shuffle(order)
        notes.append(Note(float(beat), 3.0, ring[order[index % len(ring)]], _velocity(rng, 100)))
    return notes


def _beats(rng: np.random.Generator, setting: Setting, *, electronic: bool) -> list[Note]:
    style = str(rng.choice(["four", "break", "half"], p=[0.6, 0.25, 0.15] if electronic else [0.2, 0.6, 0.2]))
    hat_step = float(rng.choice([0.25, 0.5, 0.5]))
    snare = CLAP if electronic and rng.random() < 0.5 else SNARE
    extra = rng.random(16) < 0.12
    notes: list[Note] = []
    for index in range(setting.beats * 4):
        beat, place = index / 4, index % 16
        kick = place % 4 == 0 if style == "four" else place in ((0, 6, 10) if style == "break" else (0, 7))
        if kick or (extra[place] and place % 2):
            notes.append(Note(beat, 0.2, KICK, _velocity(rng, 112, 6)))
        if place in ((8,) if style == "half" else (4, 12)):
            notes.append(Note(beat, 0.2, snare, _velocity(rng, 106, 6)))
        if style == "four" and place % 4 == 2 and hat_step == 0.5:
            notes.append(Note(beat, 0.2, OPEN_HAT, _velocity(rng, 84, 6)))
        elif (beat / hat_step) % 1 == 0:
            notes.append(
                Note(
                    beat,
                    0.1,
                    CLOSED_HAT if electronic or style != "half" else RIDE,
                    _velocity(rng, 86 if place % 4 == 0 else 70, 6),
                )
            )
    if rng.random() < 0.4:
        last = setting.beats - 1
        notes += [
            Note(last + k / 4, 0.2, HIGH_TOM if k < 2 else LOW_TOM, _velocity(rng, 96)) for k in range(4)
        ]
    return notes
