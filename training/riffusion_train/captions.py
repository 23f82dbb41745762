"""A clip's facts in, an English caption out: varied, so that the text encoder learns words and not sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from riffusion_train.catalogue import MANNERS, MOOD_WORDS, PATTERN_WORDS, TEMPO_WORDS, Instrument

UNTUNED_FEELS = frozenset({"beats", "typewriter"})
"""Feels without pitch: they have neither mood nor pattern words."""


@dataclass(frozen=True)
class Part:
    """One player of a clip: the instrument, the pattern that it plays, and the word for its manner, if it has one."""

    instrument: Instrument
    pattern: str
    manner: str = ""


def caption(rng: np.random.Generator, parts: tuple[Part, ...], beats: int, mode: str) -> str:
    """A caption of one to about ten words: instrument and manner are always named, everything else only sometimes."""
    subjects = [_subject(rng, part) for part in parts]
    front: list[str] = []
    if rng.random() < 0.6:
        if len(subjects) > 1 and rng.random() < 0.5:
            # Said of one player or of each: then "and" joins two wholes, as it may in a prompt.
            first = 0 if rng.integers(2) else len(subjects) - 1
            for index in range(first, len(subjects)):
                subjects[index] = f"{_pick(rng, TEMPO_WORDS[beats])} {subjects[index]}"
        else:
            front.append(_pick(rng, TEMPO_WORDS[beats]))
    joiner = str(rng.choice([" and ", " with ", " and "]))
    words = joiner.join(subjects)
    if rng.random() < 0.25 and all(part.instrument.feel not in UNTUNED_FEELS for part in parts):
        front.append(_pick(rng, MOOD_WORDS[mode]))
    text = " ".join([*front, words])
    form = rng.random()
    if form < 0.08:
        return f"the sound of {text}"
    if form < 0.14:
        return f"{text} music"
    if form < 0.18:
        return f"a recording of {text}"
    return text


def _subject(rng: np.random.Generator, part: Part) -> str:
    name = _pick(rng, part.instrument.names)
    if manner := part.manner or (_own_manner(part.instrument, name) if rng.random() < 0.35 else ""):
        name = f"{manner} {name}"
    if part.instrument.feel in UNTUNED_FEELS or rng.random() > 0.3:
        return name
    return f"{name} {_pick(rng, PATTERN_WORDS[part.pattern])}"


def _own_manner(instrument: Instrument, name: str) -> str:
    """The word for how an instrument plays by itself, if not plainly, unless its name says so: a saxophone is jazzy."""
    words = {manner.feel: word for word, manner in MANNERS.items()}
    word = "" if instrument.feel == "plain" else words.get(instrument.feel, "")
    return word if word[:4] not in name else ""


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
