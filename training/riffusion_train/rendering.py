"""Notes in, sound out: a loop of exactly ``samples`` frames, its tails folded over its start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import MissingExtraError, RiffusionError
from riffusion_train.phrases import Note

SAMPLE_RATE = 44_100
DEBIAN_SOUNDFONT = Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3")
"""Where Debian's ``musescore-general-soundfont-small`` (MIT) puts its file."""
DRUM_CHANNEL, DRUM_BANK = 9, 128


class Orchestra:
    """FluidSynth with one General MIDI soundfont, rendering loops offline.

    Args:
        soundfont: an ``.sf2`` or ``.sf3`` file.

    Raises:
        RiffusionError: the soundfont cannot be loaded.
        MissingExtraError: FluidSynth or its Python binding is missing.
    """

    def __init__(self, soundfont: Path = DEBIAN_SOUNDFONT) -> None:
        try:
            import fluidsynth
        except ImportError as error:
            raise MissingExtraError(
                "Rendering needs FluidSynth and its Python binding",
                hint="Run: apt-get install libfluidsynth3 && pip install 'riffusion-rt[train]'",
            ) from error
        if not soundfont.is_file():
            raise RiffusionError(
                f"There is no soundfont at {soundfont}",
                hint="Run: apt-get install musescore-general-soundfont-small, or name another one with --soundfont",
            )
        self._synth = fluidsynth.Synth(gain=0.5, samplerate=float(SAMPLE_RATE))
        self._font = self._synth.sfload(str(soundfont))
        if self._font < 0:
            raise RiffusionError(
                f"FluidSynth cannot read {soundfont}", hint="Name another one with --soundfont"
            )

    def play(
        self,
        tracks: Sequence[tuple[bool, int, Sequence[Note]]],
        beats: int,
        samples: int,
        swing_ms: float = 0.0,
    ) -> NDArray[np.float32]:
        """Render ``tracks`` of (is a drum kit, program, notes) as one seamless loop.

        The phrase is played twice and the second pass is kept: it begins under the tails of the first.

        Returns:
            float32 (samples,) in ±1, mono.
        """
        synth = self._synth
        synth.system_reset()
        events: list[tuple[int, int, int, int, int]] = []
        per_beat = samples / beats
        for index, (drums, program, notes) in enumerate(tracks):
            channel = DRUM_CHANNEL if drums else index
            synth.program_select(channel, self._font, DRUM_BANK if drums else 0, program)
            for note in notes:
                for lap in (0, 1):
                    start = int(max(note.start * per_beat, 0) + lap * samples)
                    stop = start + max(int(note.length * per_beat), 400)
                    events.append((start, 1, channel, note.pitch, note.velocity))
                    events.append((stop, 0, channel, note.pitch, 0))
        events.sort()
        blocks: list[NDArray[np.int16]] = []
        now = 0
        for time, kind, channel, pitch, velocity in events:
            time = min(time, 2 * samples)
            if time > now:
                blocks.append(synth.get_samples(time - now))
                now = time
            if kind:
                synth.noteon(channel, pitch, velocity)
            else:
                synth.noteoff(channel, pitch)
        if now < 2 * samples:
            blocks.append(synth.get_samples(2 * samples - now))
        stereo = np.concatenate(blocks).reshape(-1, 2)[samples : 2 * samples].astype(np.float32)
        return np.asarray(stereo.mean(axis=1) / 32768.0, np.float32)


def typewriter(rng: np.random.Generator, beats: int, samples: int) -> NDArray[np.float32]:
    """A typist at work, synthesized: key strikes in bursts on a sixteenth grid, a bell and a carriage now and then.

    A strike is two noise bursts (type bar, then key bottoming out) through resonances of metal between 1 and 6 kHz and
    of the case near 250 Hz.

    Returns:
        float32 (samples,) in ±1, a seamless loop.
    """
    out = np.zeros(samples)
    per_step = samples / (beats * 4)
    voices = [_strike(rng) for _ in range(5)]
    typing = np.repeat(rng.random(beats * 2) < 0.8, 2)
    carriage = int(rng.integers(beats * 4)) if rng.random() < 0.4 else None
    for step in range(beats * 4):
        if typing[step] and rng.random() < 0.72:
            at = int(step * per_step + rng.normal(0, 0.008) * SAMPLE_RATE)
            _fold(out, voices[int(rng.integers(len(voices)))] * rng.uniform(0.6, 1.0), at)
    if carriage is not None:
        time = np.arange(int(0.9 * SAMPLE_RATE)) / SAMPLE_RATE
        tone = rng.uniform(2100, 2900)
        ding = sum(
            np.sin(2 * np.pi * tone * ratio * time) * np.exp(-time * decay)
            for ratio, decay in ((1, 5), (2.76, 9), (5.4, 16))
        )
        _fold(out, 0.25 * np.asarray(ding), int(carriage * per_step))
    return np.asarray(out / max(np.abs(out).max(), 1e-6) * 0.8, np.float32)


def _strike(rng: np.random.Generator) -> NDArray[np.float64]:
    length = int(0.09 * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    noise = rng.normal(size=length)
    burst = noise * np.exp(-time * 260) + 0.5 * np.roll(noise, 60) * np.exp(
        -np.maximum(time - 0.022, 0) * 320
    ) * (time > 0.022)
    ring = sum(
        rng.uniform(0.2, 0.6)
        * np.sin(2 * np.pi * f * time + rng.uniform(0, 6))
        * np.exp(-time * rng.uniform(70, 160))
        for f in (*rng.uniform(1200, 6200, size=4), rng.uniform(180, 320))
    )
    return np.asarray(burst + ring)


def _fold(out: NDArray[np.float64], sound: NDArray[np.float64], at: int) -> None:
    """Add ``sound`` at sample ``at``, wrapping round the loop's end."""
    np.add.at(out, (at + np.arange(len(sound))) % len(out), sound)
